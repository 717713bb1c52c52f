"""Published sets of events by name: where they lie in a data directory, their sensors, classes and splits.

| name          | folder        | files of its authors, or of tonic                        | recordings     | sensor  |
| ------------- | ------------- | -------------------------------------------------------- | -------------- | ------- |
| `nmnist`      | `NMNIST`      | `Train/<digit>/*.bin`, `Test/<digit>/*.bin`              | 60,000, 10,000 | 34x34   |
| `dvs_gesture` | `DVSGesture`  | `*.aedat` with `*_labels.csv` and `trials_to_*.txt`      | 1,176, 288     | 128x128 |
|               |               | tonic's `ibmGestureTrain/*/<class>.npy`, `ibmGestureTest` | 1,077, 264     | 128x128 |
| `cifar10_dvs` | `CIFAR10DVS`  | `<class>/*.aedat`, or tonic's `<class>/*.aedat4`         | 10,000         | 128x128 |
| `ncaltech101` | `NCALTECH101` | `Caltech101/<class>/*.bin`                               | 8,709          | 180x240 |

The folder is `<data dir>/events/<folder>`, with the files or with the archives, which are unpacked once; a folder that
`tonic` made is read as it is. N-MNIST and DVS128 Gesture have a split; the other two have none, so that theirs is this:
the recordings of each class in the order of the numbers in their names, the last tenth of them, rounded, to test on.
"""

import csv
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data.dataset import Dataset
from snnkd_jax.data.event_archives import unpack
from snnkd_jax.data.event_folder import in_order
from snnkd_jax.data.recordings import PARTS, Recording, Recordings
from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError

Found = dict[str, list[Recording]]
"""Recordings by part: train and test, or "all" of a set without a split."""


@dataclasses.dataclass(frozen=True)
class EventSet:
    """A published set: the name of its folder, the recordings of a folder, and how many there are, by layout."""

    folder: str
    find: Callable[[Path], Found]
    counts: tuple[dict[str, int], ...]
    sensor_size: tuple[int, int]
    source: str


def published_recordings(name: str, data_dir: Path) -> Recordings:
    """The recordings of one of `EVENT_SETS` in `data_dir`, from whose archives they are unpacked first.

    Raises `InputError` if there are none, with what to download, and if they are not all there.
    """
    events = EVENT_SETS[name]
    root = data_dir / "events"
    entries = sorted(root.iterdir()) if root.is_dir() else []
    names = {events.folder.lower(), name}
    folder = next((path for path in entries if path.name.lower() in names and path.is_dir()), root / events.folder)
    found = events.find(folder)
    if not any(found.values()) and unpack(folder):
        found = events.find(folder)
    numbers = {part: len(recordings) for part, recordings in found.items()}
    if not any(numbers.values()):
        raise InputError(f"{name} is not in {folder}: download {events.source}, and put it there")
    if numbers not in events.counts:
        has, wanted = (
            ", ".join(f"{n:,} {part}" for part, n in counts.items()) for counts in (numbers, events.counts[0])
        )
        raise InputError(f"{folder} has {has} recordings of {name}, not {wanted}; unpack or download it again")
    if "all" in found:
        found = split(found["all"])
    for recordings in found.values():
        recordings.sort(key=lambda recording: (in_order(recording.label), in_order(recording.path.name)))
    classes = dict.fromkeys(recording.label for recording in found["train"])
    return Recordings(name, found["train"], found["test"], tuple(classes), events.sensor_size)


def split(recordings: list[Recording]) -> Found:
    """The last tenth of each class to test on, in the order of the numbers in the names."""
    by_class: dict[str, list[Recording]] = {}
    for recording in recordings:
        by_class.setdefault(recording.label, []).append(recording)
    parts: Found = {part: [] for part in PARTS}
    for group in by_class.values():
        group.sort(key=lambda recording: in_order(recording.path.name))
        held_out = round(len(group) / 10)
        parts["train"] += group[: len(group) - held_out]
        parts["test"] += group[len(group) - held_out :]
    return parts


def split_digest(recordings: Recordings) -> str:
    """SHA-256 of part, class and name without suffix of every recording, one a line, in order; 16 hexadecimal digits.

    It does not depend on the format of the files.
    """
    lines = [
        f"{part} {recording.label}/{recording.path.stem} {recording.span or ''}".strip()
        for part in PARTS
        for recording in getattr(recordings, part)
    ]
    return sha256("\n".join(lines).encode())[:16]


def ordered_like(recordings: Recordings, images: Dataset) -> Dataset:
    """The images of which recordings were made, in their order: file 00007 is of the seventh image, as in N-MNIST.

    Raises `InputError` for a name that is no number of an image.
    """
    found: dict[str, NDArray] = {}
    for part in PARTS:
        stems = [recording.path.stem for recording in getattr(recordings, part)]
        n = len(getattr(images, f"{part}_labels"))
        if wrong := [stem for stem in stems if not (stem.isdecimal() and 1 <= int(stem) <= n)]:
            raise InputError(f"{recordings.name}: {wrong[0]} is no number of one of the {n:,} images of {images.name}")
        for kind in ("images", "labels"):
            found[f"{part}_{kind}"] = getattr(images, f"{part}_{kind}")[np.array(stems, int) - 1]
    return dataclasses.replace(images, **found)


def _files(folder: Path, *suffixes: str) -> list[Path]:
    """All files with these suffixes below a folder, but for hidden ones and those of a folder of annotations."""
    paths = [path for suffix in suffixes for path in folder.rglob(f"*{suffix}")]
    left_out = re.compile(r"(^|/)\.|annotation", re.IGNORECASE)
    return sorted(path for path in paths if not left_out.search(path.relative_to(folder).as_posix()))


def _part(folder: Path, path: Path) -> str | None:
    """The part in the names of the folders of a file, such as Train or ibmGestureTest."""
    parents = [name.lower() for name in path.relative_to(folder).parts[:-1]]
    return next((part for name in reversed(parents) for part in PARTS if name.endswith(part)), None)


def _nmnist(folder: Path) -> Found:
    found: Found = {part: [] for part in PARTS}
    for path in _files(folder, ".bin"):
        if (part := _part(folder, path)) is not None:
            found[part].append(Recording(path, path.parent.name))
    return found


def _by_class(*suffixes: str) -> Callable[[Path], Found]:
    return lambda folder: {"all": [Recording(path, path.parent.name) for path in _files(folder, *suffixes)]}


GESTURES = ("hand_clapping", "right_hand_wave", "left_hand_wave", "right_arm_clockwise", "right_arm_counterclockwise")
GESTURES += ("left_arm_clockwise", "left_arm_counterclockwise", "arm_roll", "air_drums", "air_guitar", "other_gestures")


def _gestures(folder: Path) -> Found:
    found: Found = {part: [] for part in PARTS}
    for path in _files(folder, ".npy"):  # tonic's, whose columns are x, y, p and t in milliseconds
        if (part := _part(folder, path)) is not None and path.stem.isdecimal() and int(path.stem) < len(GESTURES):
            found[part].append(Recording(path, GESTURES[int(path.stem)], order="xypt"))
    for trials in _files(folder, "trials_to_train.txt", "trials_to_test.txt"):
        for name in trials.read_text().split():
            found[trials.stem.rpartition("_")[2]] += _labelled(trials.parent / name)
    return found


def _labelled(path: Path) -> list[Recording]:
    """The gestures of a file: rows class (from 1), start and end in microseconds of the `.csv` beside it."""
    labels = path.with_name(f"{path.stem}_labels.csv")
    try:
        path.stat()
        rows = [[int(value) for value in row] for row in csv.reader(labels.read_text().splitlines()[1:])]
        return [Recording(path, GESTURES[label - 1], (start, end)) for label, start, end in rows]
    except (OSError, ValueError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{labels} cannot be read ({reason}); unpack or download it again") from error


def _counts(train: int, test: int) -> dict[str, int]:
    return {"train": train, "test": test}


EVENT_SETS = {
    "nmnist": EventSet(
        "NMNIST",
        _nmnist,
        (_counts(60_000, 10_000),),
        (34, 34),
        "Train.zip and Test.zip from https://www.garrickorchard.com/datasets/n-mnist",
    ),
    "dvs_gesture": EventSet(
        "DVSGesture",
        _gestures,
        (_counts(1176, 288), _counts(1077, 264)),
        (128, 128),
        "DvsGesture.tar.gz from https://research.ibm.com/interactive/dvsgesture",
    ),
    "cifar10_dvs": EventSet(
        "CIFAR10DVS",
        _by_class(".aedat", ".aedat4"),
        ({"all": 10_000},),
        (128, 128),
        "the ten archives from https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
    ),
    "ncaltech101": EventSet(
        "NCALTECH101",
        _by_class(".bin"),
        ({"all": 8709},),
        (180, 240),
        "Caltech101.zip from https://www.garrickorchard.com/datasets/n-caltech101",
    ),
}
