"""The normalisation of pixels, as data sets and teachers state it."""

import dataclasses
import math

import jax.numpy as jnp
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.errors import InputError, check_choice


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Pixel statistics of the training set in [0, 1], one value a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Array | NDArray) -> Array:
        """Bytes `[..., C]` to float32 of mean 0 and standard deviation 1."""
        return (jnp.asarray(images, jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)


NORMALISATIONS = {
    "cifar": Normalisation((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "imagenet": Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": Normalisation((0.5,), (0.5,)),
}
"""Of pixels in [0, 1], as in public training codes; "cifar" has a std that is not CIFAR-10's own."""


def parse_normalisation(text: str) -> Normalisation | None:
    """The normalisation of that name, or `MEAN/STD` with one number or one a channel; None for "dataset".

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
    positive = all(0 < x < math.inf for x in std)
    if not mean or len(mean) != len(std) or not positive or not all(map(math.isfinite, mean)):
        raise InputError(f"teacher_normalisation={text!r} must be as many means as positive stds, such as 0.5/0.25")
    return Normalisation(mean, std)
