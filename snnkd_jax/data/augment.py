"""Augmentation on the device: the same key gives the same images, on any number of devices."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.data.normalisation import to_unit_range
from snnkd_jax.errors import check_count

Augment = Callable[[Array, Array], Array]
"""A pure function of a key and images `[B, ...]`, to images of the same shape and dtype."""


@dataclasses.dataclass(frozen=True)
class InUnitRange:
    """An augmentation of float images in [0, 1], applied to stored images, bytes or floats in [0, 1]."""

    augment: Augment

    def __call__(self, key: Array, images: Array) -> Array:
        """The augmented images, float32."""
        return self.augment(key, to_unit_range(images))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crop, flip and cutout, in this order, of bytes and floats alike.

    `crop_padding` p pads by p zeros, or with `reflect` by the p pixels inside of the border in reverse order, and crops
    at random, a shift by up to p pixels; `flip` mirrors left to right with probability 1/2; `cutout` zeroes a square of
    that side centred anywhere in the image, where DeVries & Taylor 2017 (arXiv 1708.04552) fill with the mean; 0
    switches off.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    reflect: bool = dataclasses.field(default=False, repr=False)  # runs that began without it keep their title

    def __post_init__(self):
        for name in ("crop_padding", "cutout"):
            check_count(name, getattr(self, name), 0)

    def __call__(self, key: Array, images: Array) -> Array:
        """Augments each image `[B, H, W, C]`, or each sequence `[B, T, H, W, C]` with all of its frames alike."""
        return jax.vmap(self._one)(jax.random.split(key, images.shape[0]), images)

    def _one(self, key: Array, image: Array) -> Array:
        shift_key, flip_key, cutout_key = jax.random.split(key, 3)
        *frames, h, w, _ = image.shape
        if p := self.crop_padding:
            top, left = jax.random.randint(shift_key, (2,), 0, 2 * p + 1)
            mode = "reflect" if self.reflect else "constant"
            padded = jnp.pad(image, [(0, 0)] * len(frames) + [(p, p), (p, p), (0, 0)], mode)
            image = jax.lax.dynamic_slice(padded, (*[0] * len(frames), top, left, 0), image.shape)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[..., ::-1, :], image)
        if self.cutout:
            centre = jax.random.randint(cutout_key, (2,), 0, jnp.array([h, w]))
            rows, columns = _covered(h, centre[0], self.cutout), _covered(w, centre[1], self.cutout)
            image = jnp.where((rows[:, None] & columns[None, :])[..., None], 0, image)
        return image


def _covered(length: int, centre: Array, side: int) -> Array:
    """Mask `[length]` of the `side` pixels from `centre - side // 2` on."""
    offset = jnp.arange(length) - (centre - side // 2)
    return (offset >= 0) & (offset < side)
