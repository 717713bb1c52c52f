"""Files: read with errors that name them, and replaced in one step."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `InputError` if it cannot be read or is something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file as `write_whole` does."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a crash leaves the old content or the new one, whoever else writes the same file."""
    partial = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            partial = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except OSError:
        if partial is not None:
            partial.unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The permissions that the user withholds from new files; temporary ones are readable by their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
