"""Checks and conversion of a user's images: inside the library, pixels are bytes (uint8), or float32 in [0, 1]."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import NDArray

from snnkd_jax.errors import InputError


def as_pixels(name: str, images: Any, image_shape: tuple[int, int, int], sequences: bool = False) -> NDArray | Array:
    """Images as uint8, or as float32 in [0, 1], before `Normalisation`, for a network of `image_shape` `[H, W, C]`.

    `images` are `[B, H, W, C]`, `[B, H, W]` for C = 1, with `sequences` also `[B, T, H, W, C]`, bytes or floats in
    [0, 1]; JAX arrays remain JAX arrays. Raises `InputError`, which calls them `name`, for another shape or dtype, and
    for floats that are not finite or not in [0, 1], unless they are traced.
    """
    images = _array(name, images)
    shape = images.shape
    if image_shape[2] == 1 and shape[1:] == image_shape[:2]:
        images = images[..., None]
    if images.ndim not in ((4, 5) if sequences else (4,)) or images.shape[-3:] != image_shape:
        wanted = ", ".join(map(str, image_shape))
        hint = f"; give one image as {name}[None]" if shape == image_shape else "; resize or convert them"
        frames = f", or [B, T, {wanted}] for one frame per step" if sequences else ""
        raise InputError(f"{name} have shape {shape}; the network takes [B, {wanted}]{frames}{hint}")
    return check_pixels(name, images)


def check_pixels(name: str, images: Any) -> NDArray | Array:
    """Images of any shape `[B, ...]` as uint8, or as float32 in [0, 1].

    Raises `InputError` for another dtype, and for floats that are not finite or not in [0, 1].
    """
    images = _array(name, images)
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise InputError(f"{name} have dtype {images.dtype}; give bytes (uint8, 0 to 255), or floats in [0, 1]")
    if not isinstance(images, Tracer):
        check_values(name, np.asarray(images))
    return images.astype(np.float32)


def _array(name: str, images: Any) -> NDArray | Array:
    if isinstance(images, jax.Array):
        return images
    try:
        return np.asarray(images)
    except ValueError as error:
        raise InputError(f"{name} are not an array ({error}); give images of one size") from error


def check_values(name: str, images: NDArray) -> None:
    """Raises `InputError` for floats `[B, ...]` that are not finite or not in [0, 1]."""
    if not images.size or (images.min() >= 0 and images.max() <= 1):
        return
    finite = np.isfinite(images.astype(np.float32)).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise InputError(f"{name} have NaN or infinite pixels in {len(bad)} of {len(images)} images, first in {bad[0]}")
    raise InputError(
        f"{name} are from {images.min():g} to {images.max():g}; floats must be in [0, 1]: divide bytes by 255, and "
        "leave the normalisation to the network"
    )
