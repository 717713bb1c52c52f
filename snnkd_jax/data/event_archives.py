"""Archives of recordings: unpacked once, into folders that are there when all of their files are."""

import secrets
import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path

from snnkd_jax.errors import InputError

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def unpack(folder: Path) -> bool:
    """Unpacks each archive in a folder, and those within it, into a folder of its name; whether there are any.

    Raises `InputError` for a damaged one, and if the folder cannot be written.
    """
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    archives = [path for path in paths if path.is_file() and path.name.endswith(_SUFFIXES)]
    for archive in archives:
        target = folder / archive.name.partition(".")[0]
        partial = folder / f".{target.name}-{secrets.token_hex(8)}.tmp"
        if target.is_dir():
            continue
        try:
            _extract(archive, partial)
            for inner in {path.parent for path in partial.rglob("*") if path.name.endswith(_SUFFIXES)}:
                unpack(inner)
            partial.rename(target)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{archive} cannot be unpacked ({reason}); download it again, or free space") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return bool(archives)


def _extract(archive: Path, folder: Path) -> None:
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")
