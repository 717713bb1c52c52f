"""Data sets from a user's arrays of images and labels, which are checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data.class_names import read_class_names
from snnkd_jax.data.dataset import Dataset
from snnkd_jax.data.labels import check_labels
from snnkd_jax.data.pixels import check_pixels
from snnkd_jax.errors import InputError


def from_arrays(
    train: tuple[Any, Any],
    test: tuple[Any, Any],
    class_names: Sequence[str] | str | Path | None = None,
    validation_fraction: float = 0.1,
    name: str = "arrays",
) -> Dataset:
    """Makes a data set from arrays in memory.

    Args:
        train: `(images, labels)`. Images are bytes (uint8), or floats in [0, 1]; `[N, H, W, C]`, `[N, H, W]` for one
            channel, or `[N, T, H, W, C]`, one frame per time step. Labels are integers `[N]` from 0 on.
        test: the same, with images of the same shape and kind.
        class_names: one per class, in the order of the labels, or a text file with one per line; None is "0", "1", ...,
            if every class up to the largest label has a training image.
        validation_fraction: share of the training set that is held out for validation, in [0, 1); 0: none.
        name: name of the data set in tables and reports.

    Raises:
        InputError: for arrays of other shapes, dtypes or values, with the row where one is wrong.
    """
    train_images, train_labels = _images_and_labels("train", train)
    test_images, test_labels = _images_and_labels("test", test)
    if test_images.shape[1:] != train_images.shape[1:] or test_images.dtype != train_images.dtype:
        test_are, train_are = (f"{x.dtype} {x.shape}" for x in (test_images, train_images))
        raise InputError(f"test images are {test_are}, train images {train_are}; only their number may differ")
    if class_names is None:
        names = _numbers(train_labels, test_labels)
    elif isinstance(class_names, str | Path):
        names = read_class_names("class_names", Path(class_names))
    else:
        names = tuple(class_names)
    if len(names) < 2:
        raise InputError(f"{len(names)} class(es): labels must be of 2 classes or more")
    return Dataset(name, train_images, train_labels, test_images, test_labels, names, validation_fraction)


def _numbers(train_labels: NDArray, test_labels: NDArray) -> tuple[str, ...]:
    """The names of classes that have none; raises `InputError` unless each of them has a training image."""
    classes, largest = np.unique(train_labels), int(max(train_labels.max(), test_labels.max()))
    if len(classes) <= largest:
        absent = next((i for i, label in enumerate(classes) if i != label), len(classes))
        least = f"subtract {classes[0]}, or " if classes[0] else ""
        raise InputError(
            f"train labels are from {classes[0]} to {classes[-1]}, test labels up to {test_labels.max()}, and no train "
            f"label is {absent}; {least}give class_names if class {absent} has no training image"
        )
    return tuple(map(str, range(largest + 1)))


def _images_and_labels(part: str, pair: tuple[Any, Any]) -> tuple[NDArray, NDArray[np.int32]]:
    """The images and labels of a `Dataset`, checked."""
    try:
        images, labels = pair
    except (TypeError, ValueError) as error:
        raise InputError(f"{part} must be a pair (images, labels) ({error})") from error
    images = check_pixels(f"{part} images", images)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim not in (4, 5) or 0 in images.shape:
        expected = "[N, H, W, C], [N, H, W], or one frame per time step, [N, T, H, W, C], N >= 1"
        raise InputError(f"{part} images have shape {images.shape}; give {expected}")
    return np.asarray(images), check_labels(f"{part} labels", labels, len(images))
