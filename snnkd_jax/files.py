"""Files: reading with errors that name them, and atomic writing."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file; raises `InputError` if it cannot be read or holds something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def check_writable(argument: str, directory: Path) -> None:
    """Creates a directory; raises `InputError`, naming `argument`, if nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f"{secrets.token_hex(8)}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"{argument} {directory} cannot be written ({error.strerror}); name another") from error


def check_writable_file(argument: str, file: Path | None) -> None:
    """Raises `InputError`, naming `argument`, unless the file, if one is given, can be written or replaced."""
    if file is None:
        return
    if file.exists() and not file.is_file():
        raise InputError(f"{argument} {file} is {'a directory' if file.is_dir() else 'no regular file'}; name a file")
    check_writable(argument, file.parent)


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
