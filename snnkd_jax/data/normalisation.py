"""Normalisation of pixels per channel."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.errors import InputError, check_choice


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Array | NDArray) -> Array:
        """`(x - mean) / std` of bytes, or of floats in [0, 1], `[..., C]`, in float32."""
        return (to_unit_range(images) - jnp.array(self.mean)) / jnp.array(self.std)


def event_counts(channels: int) -> Normalisation:
    """The normalisation that gives numbers of events in bytes as they are: 0 and 1 exactly, others up to rounding."""
    return Normalisation((0.0,) * channels, (1 / 255,) * channels)


def as_stored(channels: int) -> Normalisation:
    """The normalisation that gives pixels in [0, 1] as they are."""
    return Normalisation((0.0,) * channels, (1.0,) * channels)


def to_unit_range(images: Array | NDArray) -> Array:
    """Pixels as float32 in [0, 1]: bytes divided by 255, floats as they are."""
    pixels = jnp.asarray(images, jnp.float32)
    return pixels if jnp.issubdtype(images.dtype, jnp.floating) else pixels / 255


def pixel_statistics(images: NDArray) -> Normalisation:
    """Statistics of a training set `[..., C]`, bytes or floats in [0, 1]; those of bytes are exact, by counting."""
    values = np.arange(256) / 255
    found = []
    for channel in np.moveaxis(images, -1, 0):
        if channel.dtype == np.uint8:
            share = np.bincount(channel.ravel(), minlength=256) / channel.size
            m = share @ values
            s = np.sqrt(share @ (values - m) ** 2)
        else:
            m, s = channel.mean(dtype=np.float64), channel.std(dtype=np.float64)
        found.append((round(float(m), 6), round(float(s), 6)))
    return Normalisation(*zip(*found, strict=True))


NORMALISATIONS = {
    "cifar": Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalisation((0.5,), (0.5,)),
}
"""Normalisations of public training codes: nearly all published weights assume "imagenet" (torchvision's); the std of
"cifar" is widespread, but not that of CIFAR-10."""


def parse_normalisation(text: str) -> Normalisation | None:
    """The normalisation of that name, or from `MEAN/STD`, one number or one per channel; None for "dataset".

    Raises `InputError` for anything else.
    """
    if text == "dataset" or text in NORMALISATIONS:
        return NORMALISATIONS.get(text)
    if "/" not in text:
        check_choice("teacher_normalisation", text, ["dataset", *NORMALISATIONS, "MEAN/STD"])
    try:
        mean, std = (tuple(float(x) for x in part.split(",")) for part in text.split("/"))
    except ValueError:
        mean, std = (), ()
    if not mean or len(mean) != len(std) or not all(map(math.isfinite, mean)) or not all(0 < x < math.inf for x in std):
        raise InputError(f"teacher_normalisation={text!r} must be as many means as positive stds, such as 0.5/0.25")
    return Normalisation(mean, std)
