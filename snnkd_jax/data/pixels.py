"""Checks and conversion of a user's images: inside the library, pixels are bytes (uint8), or float32 in [0, 1]."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import NDArray

from snnkd_jax.errors import InputError

ULPS = 8
"""Units in the last place of 1, in float32 or what is coarser, by which floats may be out of range."""


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
    """Images of any shape `[B, ...]` as uint8, or as float32 in [0, 1]; booleans are black and white.

    Integers of more bits are not guessed at: 255 may be white, or nearly black in 16 bits. Raises `InputError` for
    these and other dtypes, and for floats that are not finite or not in [0, 1].
    """
    images = _array(name, images)
    if images.dtype == np.uint8:
        return images
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        advice = "bytes (uint8, 0 to 255: images.astype(np.uint8) if they are in that range), or floats in [0, 1]"
        raise InputError(f"{name} have dtype {images.dtype}; give {advice}")
    images = images if isinstance(images, Tracer) else unit_range(name, images)
    return images if images.dtype == np.float32 else images.astype(np.float32)


def _array(name: str, images: Any) -> NDArray | Array:
    if isinstance(images, jax.Array):
        return images
    try:
        return np.asarray(images)
    except (ValueError, TypeError, RuntimeError) as error:  # the latter two of PyTorch's tensors
        reason = " ".join(str(error).split())
        raise InputError(f"{name} are not an array ({reason}); give an array of images of one size") from error


def unit_range(name: str, images: NDArray | Array) -> NDArray | Array:
    """Floats `[B, ...]` in [0, 1], where those beyond by no more than rounding, as after resizing, are clipped.

    Raises `InputError` for others, and for those that are not finite.
    """
    values = np.asarray(images)
    rounding = ULPS * max(float(jnp.finfo(values.dtype).eps), float(np.finfo(np.float32).eps))
    if values.dtype.itemsize < 4:  # exact; NumPy warns of comparisons with a bfloat16 that is NaN
        values = values.astype(np.float32)
    if not values.size or (values.min() >= 0 and values.max() <= 1):
        return images
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise InputError(f"{name} have NaN or infinite pixels in {len(bad)} of {len(values)} images, first in {bad[0]}")
    low, high = float(values.min()), float(values.max())
    if low < -rounding or high > 1 + rounding:
        row = int(np.argmax(((values < -rounding) | (values > 1 + rounding)).reshape(len(values), -1).any(axis=1)))
        raise InputError(
            f"{name} are from {low:.7g} to {high:.7g}, first in image {row}; floats must be in [0, 1]: divide bytes by "
            "255, clip what resizing has overshot, and leave the normalisation to the network"
        )
    return images.clip(0, 1)
