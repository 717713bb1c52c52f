"""Data sets by name."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from snnkd_jax.data.dataset import Dataset
from snnkd_jax.data.digits import load_digits
from snnkd_jax.data.event_digits import load_event_digits
from snnkd_jax.data.event_folder import PREFIX, find_recordings
from snnkd_jax.data.event_sets import EVENT_SETS, ordered_like, published_recordings, split_digest
from snnkd_jax.data.events import Binning
from snnkd_jax.data.official import OFFICIAL
from snnkd_jax.data.prepare import prepare
from snnkd_jax.data.prepared import check_package, read_prepared
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.files import as_path, copy_command, is_remote
from snnkd_jax.parallel.hosts import print_on_host0

PAIRED = ("event_digits", "nmnist")
NAMES = ("digits", "event_digits", *EVENT_SETS, *OFFICIAL)


def load(
    name: str,
    data_dir: str | None = None,
    binning: Binning | None = None,
    sensor_size: str | None = None,
    workers: int = 1,
    paired: bool = False,
) -> Dataset:
    """Loads one of `NAMES`, or "events:FOLDER", into memory.

    It is prepared first if it is missing in a local `data_directory(data_dir)`. `binning` makes frames of events, None:
    ten by time; `sensor_size`, "HEIGHTxWIDTH", is that of the recordings in FOLDER, if the files do not say it;
    `workers` threads read recordings; with `paired` event_digits and nmnist have the images that belong to them, of
    digits and mnist. Reading 60,000 images takes about 5 s. Raises `InputError` for an unknown name,
    an argument that is not for this set, data that are neither on disk nor can be downloaded, and files that are
    damaged, of another format or not writable.
    """
    if paired and name not in PAIRED:
        raise InputError(f"paired=True: {name} has no images that belong to it; {' and '.join(PAIRED)} have")
    if name.startswith(PREFIX):
        recordings = find_recordings(name, sensor_size)
        arrays: Any = recordings.frames(binning or Binning(), data_directory(data_dir), workers)
        return Dataset(f"{PREFIX}{recordings.name}", **arrays, class_names=recordings.class_names, counts=True)
    check_choice("dataset", name, NAMES)
    if sensor_size is not None:
        raise InputError(f"sensor_size={sensor_size!r} is for events:FOLDER, not for {name}; leave it out")
    if name == "event_digits":
        data = load_event_digits(binning or Binning())
        return dataclasses.replace(data, paired=load_digits() if paired else None)
    if name in EVENT_SETS:
        images = load("mnist", data_dir) if paired else None
        return _published(name, data_directory(data_dir), binning or Binning(), workers, images)
    if binning is not None:
        raise InputError(f"binning={binning!r} is for events, and {name} has images; leave it out")
    if name == "digits":
        return load_digits()
    check_package("array_record.python.array_record_module")
    folder = data_directory(data_dir)
    directory = folder / name / str(OFFICIAL[name].stock_builder().VERSION)
    try:
        is_prepared = directory.exists()
    except OSError as error:
        raise InputError(f"cannot look into {folder} ({error}): set TFDS_DATA_DIR to a readable folder") from error
    if not is_prepared and is_remote(folder):
        advice = f"prepare it in a local data_dir and copy it there with {copy_command(folder)}"
        raise InputError(f"{name} is not in data_dir={folder}: {advice}")
    if not is_prepared:
        prepare(name, folder)
    return read_prepared(name, directory)


def _published(name: str, data_dir: Path, binning: Binning, workers: int, images: Dataset | None) -> Dataset:
    """A set of `EVENT_SETS`, with the images that belong to its recordings or none; prints the digest of its split."""
    if is_remote(data_dir):
        raise InputError(f"data_dir={data_dir}: recordings are read from a local folder; copy them")
    recordings = published_recordings(name, data_dir)
    digest, numbers = split_digest(recordings), (len(recordings.train), len(recordings.test))
    print_on_host0("{}: {:,} recordings to train on, {:,} to test on, split {}".format(name, *numbers, digest))
    arrays = recordings.frames(binning, data_dir, workers)
    found: dict[str, Any] = {
        "counts": True,
        "split_digest": digest,
        "paired": images and ordered_like(recordings, images),
    }
    return Dataset(name, class_names=recordings.class_names, **arrays, **found)


def shape_of(name: str, image_size: int) -> tuple[tuple[int, int, int], int]:
    """Image shape `[H, W, C]` and number of classes of a data set that need not be on disk; ImageNet has `image_size`.

    Raises `InputError` for an unknown name.
    """
    if name.startswith("imagenet2012"):
        return (image_size, image_size, 3), 1000
    check_choice("dataset", name, (*NAMES, "imagenet2012"))
    if name == "event_digits" or name in EVENT_SETS:
        raise InputError(f"dataset {name!r} has frames, and shapes are planned for images; use 'digits'")
    if name == "digits":
        digits = load_digits()
        return digits.image_shape, digits.num_classes
    features = OFFICIAL[name].stock_builder()(data_dir=data_directory(None)).info.features
    return features["image"].shape, features["label"].num_classes


def data_directory(data_dir: str | Path | None) -> Path:
    """The folder of all TFDS data sets, by default `TFDS_DATA_DIR`, else `~/tensorflow_datasets`; perhaps in a bucket.

    Raises `InputError` for a path that cannot be one.
    """
    if data_dir is None:
        path = as_path("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    else:
        path = as_path("data_dir", data_dir)
    return path if is_remote(path) else path.absolute()
