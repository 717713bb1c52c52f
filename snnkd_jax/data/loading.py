"""Data sets by name."""

import os
from pathlib import Path

from snnkd_jax.data.dataset import Dataset
from snnkd_jax.data.digits import load_digits
from snnkd_jax.data.event_digits import load_event_digits
from snnkd_jax.data.event_folder import PREFIX, load_folder
from snnkd_jax.data.events import Binning
from snnkd_jax.data.official import OFFICIAL
from snnkd_jax.data.prepare import prepare
from snnkd_jax.data.prepared import check_package, read_prepared
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.files import as_path, copy_command, is_remote

NAMES = ("digits", "event_digits", *OFFICIAL)


def load(
    name: str, data_dir: str | None = None, binning: Binning | None = None, sensor_size: str | None = None
) -> Dataset:
    """Loads one of `NAMES`, or "events:FOLDER", into memory.

    It is prepared first if it is missing in a local `data_directory(data_dir)`. `binning` makes frames of events, None:
    ten by time; `sensor_size`, "HEIGHTxWIDTH", is that of the recordings in FOLDER (`snnkd_jax.data.event_folder`).
    Reading 60,000 images takes about 5 s. Raises `InputError` for an unknown name, an argument that is not for this
    set, data that are neither on disk nor can be downloaded, and files that are damaged, of another format or not
    writable.
    """
    if name.startswith(PREFIX):
        return load_folder(name, data_directory(data_dir), binning or Binning(), sensor_size)
    check_choice("dataset", name, NAMES)
    if sensor_size is not None:
        raise InputError(f"sensor_size={sensor_size!r} is for events:FOLDER, not for {name}; leave it out")
    if name == "event_digits":
        return load_event_digits(binning or Binning())
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


def shape_of(name: str, image_size: int) -> tuple[tuple[int, int, int], int]:
    """Image shape `[H, W, C]` and number of classes of a data set that need not be on disk; ImageNet has `image_size`.

    Raises `InputError` for an unknown name.
    """
    if name.startswith("imagenet2012"):
        return (image_size, image_size, 3), 1000
    check_choice("dataset", name, (*NAMES, "imagenet2012"))
    if name == "event_digits" or name.startswith(PREFIX):
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
