"""The normalisation of pixels, as data sets and teachers state it."""

import dataclasses

import jax.numpy as jnp
from jax import Array
from numpy.typing import NDArray


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Pixel statistics of the training set in [0, 1], one value a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Array | NDArray) -> Array:
        """Bytes `[..., C]` to float32 of mean 0 and standard deviation 1."""
        return (jnp.asarray(images, jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)
