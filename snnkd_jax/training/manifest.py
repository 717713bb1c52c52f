"""The manifest of a network's directory, `manifest.json`: written last, and nothing is read that it does not list.

    format     version of this file; others are not read
    run, role  the run's id (config.json) and the directory's name in it; `run` is None outside a run
    network    the description from which the network is rebuilt; None until it is fully trained
    step       training steps of the newest checkpoint
    files      by path in the directory, the size in bytes and the SHA-256 of each file of the checkpoints
    versions   of Python and the packages that wrote the newest checkpoint
    sha256     of all of the above

A file that is missing or has changed makes its checkpoint damaged. A file or folder that is not listed is a stranger:
it is named in a warning and never read.
"""

import contextlib
import dataclasses
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import files_in, is_remote, read_sealed, write_sealed
from snnkd_jax.versions import versions

FORMAT = 2
NAME = "manifest.json"

_BESIDE = (NAME, "observation.npz")
"""Files of the directory that are not those of a checkpoint."""


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be read, or of which a file is missing or has changed; the message names the file."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`; checkpoints are the folders `<step>/` of the paths in `files`."""

    run: str | None
    role: str
    network: dict[str, Any] | None = None
    files: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints, in order."""
        return sorted({int(name.partition("/")[0]) for name in self.files})

    def files_of(self, prefix: str) -> dict[str, tuple[int, str]]:
        """The files below a folder, such as "40/network"."""
        return {name: entry for name, entry in self.files.items() if name.startswith(f"{prefix}/")}

    def with_files(self, files: dict[str, tuple[int, str]], keep: int) -> "Manifest":
        """In training, with the files of another checkpoint, and without those of all but the newest `keep`."""
        added = dataclasses.replace(self, network=None, files=self.files | files)
        return added.without(added.steps[:-keep])

    def without(self, steps: list[int]) -> "Manifest":
        """Without the checkpoints of these steps."""
        kept = {name: entry for name, entry in self.files.items() if int(name.partition("/")[0]) not in steps}
        return dataclasses.replace(self, files=kept)

    def write(self, directory: Path) -> None:
        """Writes `manifest.json`."""
        step = max(self.steps, default=None)
        write_sealed(directory / NAME, {"format": FORMAT, "step": step, **vars(self), "versions": versions()})


def run_id(directory: Path) -> str | None:
    """The id of the run in `directory`, from config.json; None if it is no run directory."""
    path = directory / "config.json"
    return read_sealed(path).get("id") if path.is_file() else None


def read_manifest(directory: Path) -> Manifest | None:
    """The manifest of the network in `directory`; None if nothing has been saved there.

    Raises `InputError` if it is damaged, missing where there are checkpoints, or of another version, run or role.
    """
    path = directory / NAME
    if not path.is_file():
        if found := [name for name in _entries(directory) if name.isdecimal() or name == "network.json"]:
            raise InputError(
                f"{directory} has {', '.join(found)} but no {NAME}: it is damaged, or of an earlier version of this "
                "program; copy it again, or delete it to train the network anew"
            )
        return None
    content = read_sealed(path)
    if content.get("format") != FORMAT:
        raise InputError(f"{path} has format {content.get('format')!r}, and this version reads {FORMAT}; train anew")
    files = {name: (size, digest) for name, (size, digest) in content["files"].items()}
    manifest = Manifest(content["run"], content["role"], content["network"], files)
    if (run := run_id(directory.parent)) is not None and manifest.run is not None:
        if run != manifest.run:
            raise InputError(f"{directory} is of another run than {directory.parent}, by its {NAME}; copy it again")
        if directory.name != manifest.role:
            raise InputError(f"{directory} is the {manifest.role} of its run, by its {NAME}; rename it back")
    return manifest


def is_trained(directory: Path) -> bool:
    """Whether `directory` has a network that is fully trained; raises `InputError` as `read_manifest` does."""
    manifest = read_manifest(directory)
    return manifest is not None and manifest.network is not None


def list_files(directory: Path, folder: str) -> dict[str, tuple[int, str]]:
    """The sizes and digests of all files in a folder of the directory, by their path in the directory."""
    entries = ((path, path.read_bytes()) for path in files_in(directory / folder))
    return {path.relative_to(directory).as_posix(): (len(data), sha256(data)) for path, data in entries}


@contextlib.contextmanager
def verified(directory: Path, manifest: Manifest, prefix: str) -> Iterator[Path]:
    """A local directory in which the listed files below `prefix` are what they were when they were written.

    For a remote directory it is a temporary copy. Raises `DamagedCheckpoint` otherwise.
    """
    with tempfile.TemporaryDirectory() if is_remote(directory) else contextlib.nullcontext(directory) as place:
        for name, entry in manifest.files_of(prefix).items():
            try:
                data = (directory / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise DamagedCheckpoint(f"{directory / name} is missing") from error
            if (len(data), sha256(data)) != entry:
                raise DamagedCheckpoint(f"{directory / name} has changed since it was written")
            if is_remote(directory):
                (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(place) / name).write_bytes(data)
        yield Path(place)


def warn_of_strangers(directory: Path, manifest: Manifest) -> None:
    """Warns of files and folders in the directory that the manifest does not list."""
    known = {*_BESIDE, *map(str, manifest.steps)}
    found = [name for name in _entries(directory) if name not in known]
    for step in manifest.steps:
        inside = (path.relative_to(directory).as_posix() for path in files_in(directory / str(step)))
        found += [name for name in inside if name not in manifest.files]
    if found:
        listed = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        warnings.warn(f"{directory} has files that {NAME} does not list, which are not read: {listed}", stacklevel=3)


def _entries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
