"""Augmentation as array code on the device: the same key gives the same images, on any number of devices."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.data.normalisation import in_unit_range
from snnkd_jax.errors import InputError

Augment = Callable[[Array, Array], Array]
"""A pure function of a key and of images `[B, ...]`, which returns images of the same shape and dtype."""


@dataclasses.dataclass(frozen=True)
class InUnitRange:
    """An augmentation that takes images in [0, 1], for images as they are stored: bytes, or floats in [0, 1]."""

    augment: Augment

    def __call__(self, key: Array, images: Array) -> Array:
        """Images of either kind to float32 ones in [0, 1]."""
        return self.augment(key, in_unit_range(images))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in this order: shift, flip, cutout.

    `crop_padding` p shifts by up to p pixels each way (zero-padding by p and cropping at random), `flip` mirrors left
    to right with probability 1/2, `cutout` blanks a square of that side centred anywhere in the image; 0 switches off.
    These move and blank pixels, so bytes and floats are augmented alike. Blank is black, as in the padding, where
    DeVries & Taylor 2017 (arXiv 1708.04552) fill with the mean.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self):
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}={getattr(self, name)!r} must be a number of pixels >= 0")

    def __call__(self, key: Array, images: Array) -> Array:
        """Augments each of the images `[B, H, W, C]`, or sequences `[B, T, H, W, C]`, on its own; blank pixels are 0.

        Shape and dtype stay; the frames of a sequence are augmented alike.
        """
        return jax.vmap(self._one)(jax.random.split(key, images.shape[0]), images)

    def _one(self, key: Array, image: Array) -> Array:
        """`image` is `[..., H, W, C]`."""
        shift_key, flip_key, cutout_key = jax.random.split(key, 3)
        *frames, h, w, _ = image.shape
        if p := self.crop_padding:
            top, left = jax.random.randint(shift_key, (2,), 0, 2 * p + 1)
            padded = jnp.pad(image, [(0, 0)] * len(frames) + [(p, p), (p, p), (0, 0)])
            image = jax.lax.dynamic_slice(padded, (*[0] * len(frames), top, left, 0), image.shape)
        if self.flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[..., ::-1, :], image)
        if self.cutout:
            centre = jax.random.randint(cutout_key, (2,), 0, jnp.array([h, w]))
            rows, columns = _covered(h, centre[0], self.cutout), _covered(w, centre[1], self.cutout)
            image = jnp.where((rows[:, None] & columns[None, :])[..., None], 0, image)
        return image


def _covered(length: int, centre: Array, side: int) -> Array:
    """Which of `length` pixels lie within `side` pixels around `centre`: `centre - side // 2` and the next `side`."""
    offset = jnp.arange(length) - (centre - side // 2)
    return (offset >= 0) & (offset < side)
