"""A folder of recordings as a data set: `FOLDER/train/<class>/*` and `FOLDER/test/<class>/*`.

The files are those of `snnkd_jax.data.event_files`. Their frames are prepared once, into one file that is written in
one step: `<data dir>/events/<name>-<digest>.npz`. The digest is that of the settings and of the names, sizes and times
of change of all recordings, so that other settings or recordings are prepared anew.
"""

import dataclasses
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from snnkd_jax.data.dataset import Dataset
from snnkd_jax.data.event_files import SUFFIXES, read_events
from snnkd_jax.data.events import Binning
from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import as_path, check_writable, is_remote, similar, write_atomically

PREFIX = "events:"
"""Of the name of a data set that is a folder."""

FORMAT = 1
"""To be raised when frames of the same recordings become others."""


def load_folder(name: str, data_dir: Path, binning: Binning, sensor_size: str | None) -> Dataset:
    """The data set of `name`, "events:FOLDER"; `sensor_size` is "HEIGHTxWIDTH" in pixels.

    Raises `InputError` if a part or a class of it is missing, for a recording that is wrong, with file and event, for
    no sensor size, which no file says, and if the prepared frames cannot be written to `data_dir`.
    """
    folder = as_path("dataset", name.removeprefix(PREFIX))
    if is_remote(folder) or is_remote(data_dir):
        raise InputError(f"dataset {name!r}, data_dir {data_dir}: events are prepared from and in local folders")
    size = parse_sensor_size(sensor_size, folder)
    recordings = {part: _recordings(folder, part) for part in ("train", "test")}
    classes = sorted({path.parent.name for path in recordings["train"]}, key=_in_order)
    if unknown := sorted({path.parent.name for path in recordings["test"]} - set(classes)):
        raise InputError(f"{folder}: test has the classes {', '.join(unknown)}, train has not; give recordings of both")
    files = {
        part: [[path.parent.name, path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        for part, paths in recordings.items()
    }
    settings = {"format": FORMAT, "sensor_size": size, **dataclasses.asdict(binning), "files": files}
    digest = sha256(json.dumps(settings, sort_keys=True).encode())[:16]
    prepared = data_dir / "events" / f"{folder.name}-{digest}.npz"
    if not prepared.exists():
        check_writable("data_dir", prepared.parent)
        _prepare(prepared, recordings, classes, binning, size)
    label = f"{PREFIX}{folder.name}"
    return Dataset(label, *_read(prepared), tuple(classes), counts=True)


def parse_sensor_size(text: str | None, folder: Path) -> tuple[int, int]:
    """(H, W) of "HEIGHTxWIDTH"; raises `InputError` for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text or "")
    if found is None:
        given = f"sensor_size={text!r}" if text is not None else f"sensor_size: the files of {folder} do not say it"
        raise InputError(f"{given}; give HEIGHTxWIDTH in pixels, such as 34x34 for N-MNIST")
    return int(found[1]), int(found[2])


def _in_order(name: str) -> tuple[int, int, str]:
    """Numbers by their value, before names."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _recordings(folder: Path, part: str) -> list[Path]:
    """All recordings of a part, class by class; "Train" and "Test", as in N-MNIST's archives, will do."""
    if not folder.is_dir():
        raise InputError(f"dataset: {folder} is not a folder{similar(folder)}; give events:FOLDER")
    root = next((path for path in sorted(folder.iterdir()) if path.name.lower() == part and path.is_dir()), None)
    if root is None:
        raise InputError(f"{folder} has no folder {part}; give {part}/<class>/<recording>")
    paths = sorted(path for path in root.glob("*/*") if path.is_file() and not path.name.startswith("."))
    if not paths:
        raise InputError(f"{root} has no recordings; give {part}/<class>/*{', *'.join(SUFFIXES)}")
    return sorted(paths, key=lambda path: (_in_order(path.parent.name), path.name))


def _prepare(
    file: Path, recordings: dict[str, list[Path]], classes: list[str], binning: Binning, size: tuple[int, int]
) -> None:
    arrays: dict[str, NDArray] = {}
    for part, paths in recordings.items():
        frames = np.empty((len(paths), binning.num_steps, *size, 2), np.uint8)
        for i, path in enumerate(tqdm(paths, f"{file.stem}, {part}", unit="recordings", leave=False)):
            frames[i] = binning.frames(read_events(path, size))
        arrays[f"{part}_images"] = frames
        arrays[f"{part}_labels"] = np.array([classes.index(path.parent.name) for path in paths], np.int32)
    content = io.BytesIO()
    np.savez(content, **arrays)  # with checksums, and uncompressed, to be read at the speed of the disk
    try:
        write_atomically(file, content.getvalue())
    except OSError as error:
        raise InputError(f"data_dir {file.parent} cannot be written ({error.strerror}); name another") from error


def _read(file: Path) -> list[Any]:
    """Images and labels of both parts, whose checksums are verified."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return [stored[f"{part}_{kind}"] for part in ("train", "test") for kind in ("images", "labels")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file} is damaged ({type(error).__name__}: {error}); delete it to have it prepared"
        ) from error
