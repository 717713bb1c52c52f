"""A folder of recordings as a data set: `FOLDER/train/<class>/*` and `FOLDER/test/<class>/*`.

The files are those of `snnkd_jax.data.event_files`.
"""

import re
from pathlib import Path

from snnkd_jax.data.event_files import SUFFIXES
from snnkd_jax.data.recordings import PARTS, Recording, Recordings
from snnkd_jax.errors import InputError, parse_size
from snnkd_jax.files import as_path, is_remote, similar

PREFIX = "events:"
"""Of the name of a data set that is a folder."""


def find_recordings(name: str, sensor_size: str | None) -> Recordings:
    """Those of the data set `name`, "events:FOLDER"; `sensor_size` is "HEIGHTxWIDTH" in pixels, None if files say it.

    Raises `InputError` if a part or a class of it is missing.
    """
    folder = as_path("dataset", name.removeprefix(PREFIX))
    if is_remote(folder):
        raise InputError(f"dataset {name!r}: recordings are read from a local folder; copy them")
    if not folder.is_dir():
        raise InputError(f"dataset: {folder} is not a folder{similar(folder)}; give events:FOLDER")
    size = None if sensor_size is None else parse_size("sensor_size", sensor_size)
    train, test = (_recordings(folder, part) for part in PARTS)
    classes = {recording.label: None for recording in train}
    if unknown := sorted({recording.label for recording in test} - classes.keys()):
        raise InputError(f"{folder}: test has the classes {', '.join(unknown)}, train has not; give recordings of both")
    return Recordings(folder.name, train, test, tuple(classes), size)


def in_order(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names with numbers in them by the numbers' values: "2", "10", "a2", "a10"."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _recordings(folder: Path, part: str) -> list[Recording]:
    """All recordings of a part, class by class; "Train" and "Test", as in N-MNIST's archives, will do."""
    root = next((path for path in sorted(folder.iterdir()) if path.name.lower() == part and path.is_dir()), None)
    if root is None:
        raise InputError(f"{folder} has no folder {part}; give {part}/<class>/<recording>")
    paths = [path for path in root.glob("*/*") if path.is_file() and not path.name.startswith(".")]
    if not paths:
        raise InputError(f"{root} has no recordings; give {part}/<class>/*{', *'.join(SUFFIXES)}")
    paths.sort(key=lambda path: (in_order(path.parent.name), in_order(path.name)))
    return [Recording(path, path.parent.name) for path in paths]
