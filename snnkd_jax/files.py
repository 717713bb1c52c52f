"""Files: reading with errors that name them, and atomic writing."""

import difflib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError


def similar(path: Path) -> str:
    """ " (did you mean X?)" for a path that is not there, with the most similar one that is; else an empty string."""
    path = path.absolute()
    there = next(parent for parent in path.parents if parent.is_dir())
    first, *rest = path.relative_to(there).parts
    try:
        close = difflib.get_close_matches(first, [entry.name for entry in there.iterdir()], n=1)
    except OSError:
        return ""
    found = there.joinpath(*close, *rest)
    return f" (did you mean {found}?)" if close and found.exists() else ""


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file; raises `InputError` if it cannot be read or holds something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file as `write_atomically` does."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a crash leaves the old content or the new one, whoever else writes the same file."""
    partial = path.with_name(f"{secrets.token_hex(8)}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
