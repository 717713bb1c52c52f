"""Augmentation as array code on the device: the same key gives the same images, on any number of devices."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in this order: shift, flip, cutout.

    `crop_padding` p shifts by up to p pixels each way (zero-padding by p and cropping at random), `flip` mirrors left
    to right with probability 1/2, `cutout` blanks a square of that side centred anywhere in the image; 0 switches off.
    Blank is black, as in the padding, where DeVries & Taylor 2017 (arXiv 1708.04552) fill with the mean.
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
        keys = jax.random.split(key, images.shape[0])
        return jax.vmap(lambda key, image: _augment_one(self, key, image))(keys, images)


def _augment_one(augmentation: Augmentation, key: Array, image: Array) -> Array:
    """`image` is `[..., H, W, C]`."""
    shift_key, flip_key, cutout_key = jax.random.split(key, 3)
    *frames, h, w, _ = image.shape
    p = augmentation.crop_padding
    if p:
        top, left = jax.random.randint(shift_key, (2,), 0, 2 * p + 1)
        padded = jnp.pad(image, [(0, 0)] * len(frames) + [(p, p), (p, p), (0, 0)])
        image = jax.lax.dynamic_slice(padded, (*[0] * len(frames), top, left, 0), image.shape)
    if augmentation.flip:
        image = jnp.where(jax.random.bernoulli(flip_key), image[..., ::-1, :], image)
    if augmentation.cutout:
        centre = jax.random.randint(cutout_key, (2,), 0, jnp.array([h, w]))
        rows, columns = _covered(h, centre[0], augmentation.cutout), _covered(w, centre[1], augmentation.cutout)
        image = jnp.where((rows[:, None] & columns[None, :])[..., None], 0, image)
    return image


def _covered(length: int, centre: Array, side: int) -> Array:
    """Which of `length` pixels lie within `side` pixels around `centre`: `centre - side // 2` and the next `side`."""
    offset = jnp.arange(length) - (centre - side // 2)
    return (offset >= 0) & (offset < side)
