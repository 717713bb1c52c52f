"""Prepared TFDS directories: opening, and reading into memory.

Without TensorFlow, TFDS reads ArrayRecord files only. Decoding the images takes nearly all of the time, and threads do
not shorten it: at this size an image is mostly Python overhead.
"""

import contextlib
import importlib
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from snnkd_jax.data.dataset import Dataset
from snnkd_jax.data.official import OFFICIAL
from snnkd_jax.errors import InputError
from snnkd_jax.files import copy_command, is_remote, local_copy


def read_prepared(name: str, directory: Path) -> Dataset:
    """Reads `directory` (`<data dir>/<name>/<version>`), which TFDS or `prepare` has written.

    Raises `InputError` if it is incomplete, damaged or in another file format, and warns if it does not have the
    official number of examples.
    """
    remedy = "move it away to have it prepared again, or point TFDS_DATA_DIR elsewhere"
    if is_remote(directory):
        remedy = f"copy it there again with {copy_command(directory)}"
    with append_remedy(directory, remedy):
        with local_copy(directory) as local:
            builder = open_builder(local)
            splits = [_read_split(builder, split) for split in ("train", "test")]
        for split, (images, _) in zip(("train", "test"), splits, strict=True):
            if len(images) != (size := getattr(OFFICIAL[name], f"{split}_size")):
                found = f"{directory} holds {len(images)} {split} examples, the official set {size}"
                warnings.warn(found, stacklevel=3)
        return Dataset(name, *splits[0], *splits[1], tuple(builder.info.features["label"].names))


def check_package(module: str) -> None:
    """Raises `InputError` if a module that reads data sets cannot be imported; none is built for Windows."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        advice = "use Linux, macOS or WSL2" if sys.platform == "win32" else f"pip install {package.replace('_', '-')}"
        reason = " ".join(str(error).split())
        raise InputError(
            f"data sets on disk are read with the package {package}, which cannot be imported ({reason}): {advice}, "
            "or use --dataset digits or snnkd_jax.data.from_arrays, which need none"
        ) from error


@contextlib.contextmanager
def append_remedy(directory: Path, remedy: str, to_all: bool = True) -> Iterator[None]:
    """Context for reading a directory: turns every error into an `InputError` that names it and ends with the remedy.

    Without `to_all`, an `InputError` has its own advice already.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{directory}: {error}: {remedy}" if to_all else f"{directory}: {error}") from error
    except Exception as error:  # a damaged file raises nearly anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{directory} cannot be read ({reason}): {remedy}") from error


def open_builder(directory: Path) -> Any:
    """The TFDS builder of a directory; raises `InputError` if that is incomplete or not in the ArrayRecord format."""
    import tensorflow_datasets as tfds

    if not (directory / "dataset_info.json").exists():
        raise InputError("not a complete TFDS directory (no dataset_info.json)")
    builder: Any = tfds.builder_from_directory(directory)
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.ARRAY_RECORD:
        found = file_format.value if file_format else "an unknown format"
        raise InputError(f"holds {found} files, only array_record can be read")
    return builder


def open_split(builder: Any, split: str, image: str = "image") -> Any:
    """The examples of a split by index, with encoded images."""
    import tensorflow_datasets as tfds

    skipped = isinstance(builder.info.features[image], tfds.features.Image)
    decoders = {image: tfds.decode.SkipDecoding()} if skipped else None
    # TFDS would decode with OpenCV where that is installed, and JPEGs would then differ between machines.
    return builder.as_data_source(split, decoders=decoders)


def _read_split(builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    from snnkd_jax.data.images import decode  # Pillow takes a moment

    source = open_split(builder, split)
    size = len(source)
    shape = builder.info.features["image"].shape
    images = np.empty((size, *shape), np.uint8)
    labels = np.empty(size, np.int32)
    for i, example in enumerate(source.__getitems__(range(size))):
        image, _ = decode(f"example {i} of {split}", io.BytesIO(example["image"]), shape[-1])
        images[i] = np.asarray(image).reshape(shape)
        labels[i] = example["label"]
    return images, labels
