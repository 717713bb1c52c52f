"""Files, local or in a bucket: paths of the user's, reading with errors that name the file, writing in one step.

A path is a `pathlib.Path`, or for a remote address such as `gs://bucket/runs/mnist` the `etils.epath.Path`, which has
the same methods. Nothing else in the package needs to know which of the two it has, but for `is_remote`.
"""

import contextlib
import difflib
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError

_REMOTE = re.compile(r"([a-z][a-z0-9.+-]+):/+(.*)", re.IGNORECASE)
_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""The remote addresses that etils.epath opens, and the fsspec package that each needs."""


def as_path(argument: str, value: str | os.PathLike) -> Path:
    """The path of an argument: local, with "~" expanded, or remote.

    Raises `InputError`, naming `argument`, if it is empty, has an unknown scheme, or needs a package that is missing.
    """
    text = os.fspath(value)  # of `pathlib.Path("gs://bucket")` it is "gs:/bucket"
    if not text.strip():
        raise InputError(f"{argument} is empty; give a path")
    if (found := _REMOTE.fullmatch(text)) is None:
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            raise InputError(f"{argument}={text!r}: the home directory is unknown ({error}); give the path") from error
    scheme, rest = found[1].lower(), found[2]
    if scheme not in _PACKAGES:
        raise InputError(f"{argument}={text!r}: give a local path, or an address of {', '.join(_PACKAGES)}")
    from etils import epath

    path = epath.Path(f"{scheme}://{rest}")
    try:
        path.exists()
    except ImportError as error:
        package = _PACKAGES[scheme]
        raise InputError(f"{argument}={path} needs the package {package}: pip install {package} ({error})") from error
    except Exception as error:  # credentials, buckets and networks: each backend raises its own
        raise InputError(f"{argument}={path} cannot be reached ({_reason(error)}); check address and access") from error
    return path  # pyright: ignore[reportReturnType] it has the same methods


def absolute(argument: str, value: str | os.PathLike) -> str:
    """The path of an argument as a string that does not depend on the working directory; errors as in `as_path`."""
    path = as_path(argument, value)
    return str(path if is_remote(path) else path.absolute())


def is_remote(path: Path) -> bool:
    """Whether the path is in a bucket, where files are written whole and directories do not exist by themselves."""
    return not isinstance(path, Path)


@contextlib.contextmanager
def local_copy(directory: Path) -> Iterator[Path]:
    """The directory itself, or of one in a bucket a temporary copy, for packages that read local files only."""
    if not is_remote(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as place:
        for path in files_in(directory):
            target = Path(place, *path.relative_to(directory).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        yield Path(place)


def copy_command(directory: Path) -> str:
    """The command line that copies from or to a bucket, without its two arguments."""
    commands = {"gs": "gcloud storage cp -r", "s3": "aws s3 cp --recursive", "az": "azcopy copy --recursive"}
    return commands[str(directory).split(":")[0]]


def files_in(directory: Path) -> Iterator[Path]:
    """All files below a directory, in order; none if there is no such directory."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if path.is_dir():
            yield from files_in(path)
        elif path != directory:
            yield path


def delete(directory: Path) -> None:
    """Deletes a directory and all files in it; does nothing if there is none."""
    if is_remote(directory):
        for path in files_in(directory):
            path.unlink()
    else:
        shutil.rmtree(directory, ignore_errors=True)


def move(source: Path, target: Path) -> None:
    """Moves a directory to `target`, which must not exist."""
    if is_remote(source):
        for path in list(files_in(source)):
            write_atomically(target / path.relative_to(source), path.read_bytes())
        delete(source)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)


def similar(path: Path) -> str:
    """ " (did you mean X?)" for a path that is not there, with the most similar one that is; else an empty string."""
    if is_remote(path) or path.exists():
        return ""
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
        value = json.loads(path.read_bytes().decode())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file as `write_atomically` does."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads a JSON file written by `write_sealed`, without its seal; raises `InputError` if it has changed since."""
    content = read_json(path)
    seal = content.pop("sha256", None)
    if seal is None:
        raise InputError(f"{path} has no sha256: it is damaged, or of an earlier version; copy it again, or train anew")
    if seal != seal_of(content):
        raise InputError(f"{path} is damaged: it has changed since it was written; copy it again")
    return content


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object with the SHA-256 of its entries as the entry "sha256"."""
    write_json(path, {**content, "sha256": seal_of(content)})


def seal_of(content: dict[str, Any]) -> str:
    """The SHA-256 of JSON values, whatever their order and spacing in the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file in one step: a crash leaves the old content or the new one, whoever else writes the same file."""
    if is_remote(path):  # a store shows an object when all of it is there
        path.write_bytes(content)
        return
    partial = path.with_name(f"{secrets.token_hex(8)}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def append(path: Path, line: str) -> None:
    """Adds a line to a file, which is there for good when this returns; in a bucket the file is written anew."""
    if is_remote(path):
        path.write_bytes((path.read_bytes() if path.exists() else b"") + line.encode() + b"\n")
        return
    with path.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def check_writable(argument: str, directory: Path) -> None:
    """Creates a directory; raises `InputError`, naming `argument`, if nothing can be written there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f"{secrets.token_hex(8)}.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except Exception as error:  # each backend of epath raises its own
        if is_remote(directory) or isinstance(error, OSError):
            raise InputError(f"{argument} {directory} cannot be written ({_reason(error)}); name another") from error
        raise


def check_writable_file(argument: str, file: Path | None) -> None:
    """Raises `InputError`, naming `argument`, unless the file, if one is given, can be written or replaced."""
    if file is None:
        return
    if file.exists() and not file.is_file():
        raise InputError(f"{argument} {file} is {'a directory' if file.is_dir() else 'no regular file'}; name a file")
    check_writable(argument, file.parent)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
