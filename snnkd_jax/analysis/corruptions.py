"""Noise on images: ten kinds at five fixed strengths, the same draws for every network that is tested.

Pixels are in [0, 1]; x is the image, y the noisy one, which is clipped to [0, 1]. Level 0 is x itself.

| kind              | y                                                      | a level is          | CIFAR-10-C |
| ----------------- | ------------------------------------------------------ | ------------------- | ---------- |
| `gaussian`        | x + sigma n, n ~ N(0, 1)                               | sigma               | .04–.1     |
| `uniform`         | x + a u, u ~ U(-1, 1), of `gaussian`'s variance        | a                   | –          |
| `salt_and_pepper` | 1 or 0, with probability p / 2 each, else x            | p                   | .01–.07    |
| `shot`            | k / c, k ~ Poisson(c x)                                | photons at white, c | 500–50     |
| `speckle`         | x + sigma x n, n ~ N(0, 1)                             | sigma               | .06–.2     |
| `blur`            | x convolved with a Gaussian, mirrored at the edges     | its std in pixels   | .4–1       |
| `occlusion`       | 0.5 in a square anywhere within the image, x around it | side / shorter side | –          |
| `contrast`        | m + c (x - m), m the mean of the channel               | c                   | .75–.15    |
| `brightness`      | x + b                                                  | b                   | .05–.3     |
| `jpeg`            | x coded and decoded by Pillow                          | quality, 1 to 95    | 80–40      |

n, u, k and the choice of salt or pepper are drawn for each value, each channel on its own. The square is grey because
black, which is what cutout blanks with in training, is the background of half the data sets.

The kinds are after Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261, whose range of levels for 32x32 images is in
the last column. The levels here are this project's own choice: but for contrast, which is as there, they go further, as
CIFAR-10-C's hardly touch an image of MNIST. Brightness is added to the value of HSV there, and blur repeats the edge.
"""

import functools
import io
import numbers
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.typing import ArrayLike
from numpy.typing import NDArray
from PIL import Image

from snnkd_jax.data.pixels import check_values
from snnkd_jax.errors import InputError, check_choice

IMAGE_LEVELS: dict[str, tuple[float, ...]] = {
    "gaussian": (0.04, 0.08, 0.12, 0.18, 0.26),
    "uniform": (0.07, 0.14, 0.21, 0.31, 0.45),
    "salt_and_pepper": (0.02, 0.05, 0.09, 0.17, 0.27),
    "shot": (250, 60, 25, 12, 5),
    "speckle": (0.1, 0.2, 0.3, 0.45, 0.6),
    "blur": (0.5, 0.75, 1.0, 1.5, 2.0),
    "occlusion": (0.2, 0.3, 0.4, 0.5, 0.6),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "jpeg": (60, 30, 18, 10, 5),
}
"""Kind to the strengths of its levels 1 to 5, in the units of the table above."""

MAX_LEVEL = 5
GREY = 0.5


def corrupt(kind: str, level: int, key: Array, images: ArrayLike, index: ArrayLike | None = None) -> Array:
    """The images, float32 `[B, H, W, C]` in [0, 1], with noise of one kind and level; at level 0 as they are.

    Args:
        kind: a key of `IMAGE_LEVELS`; `jpeg` takes 1 or 3 channels.
        level: 0 (no noise) to 5.
        key: `jax.random.key(seed)`. The draw of an image is a function of the key, the kind, the level and the image's
            index, and of nothing else: neither of the images with which it shares a batch nor of the devices.
        index: int32 `[B]`, the images' places in the test set; None counts from 0.

    Raises `InputError` for an unknown kind or level, or images of another shape, dtype or range; at level 0 and where
    they are traced, their values are not looked at.
    """
    check_choice("kind", kind, IMAGE_LEVELS)
    check_level(level)
    images = jnp.asarray(images)
    if images.ndim != 4 or images.dtype != jnp.float32:
        raise InputError(f"images are {images.dtype} {images.shape}; give float32 [B, H, W, C] in [0, 1]")
    index = jnp.arange(images.shape[0]) if index is None else jnp.asarray(index)
    if index.shape != images.shape[:1]:
        raise InputError(f"index has shape {index.shape}; {images.shape[0]} images need ({images.shape[0]},)")
    if level == 0:
        return images
    if not isinstance(images, Tracer):
        check_values("images", np.asarray(images))
    strength = IMAGE_LEVELS[kind][level - 1]
    if kind == "jpeg":
        return jnp.asarray(jpeg(np.asarray(images), int(strength)))
    return _corrupt(kind, np.float32(strength), noise_key(key, kind, level), images, index)


def noise_key(key: Array, kind: str, level: int) -> Array:
    """The key of one kind and level; the kinds' names are hashed, so that a new kind leaves the draws of the others."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(kind.encode())), level)


def check_level(level: int) -> None:
    """Raises `InputError` unless `level` is 0 (no noise), 1, ..., 5."""
    if not (isinstance(level, numbers.Integral) and not isinstance(level, bool) and 0 <= level <= MAX_LEVEL):
        raise InputError(f"level={level!r} must be a whole number of 0 (no noise) to {MAX_LEVEL}")


@functools.partial(jax.jit, static_argnames="kind")
def _corrupt(kind: str, strength: Array, key: Array, images: Array, index: Array) -> Array:
    """One program for all levels of a kind."""

    def one(image, i):
        return jnp.clip(_KINDS[kind](strength, jax.random.fold_in(key, i), image), 0, 1)

    if kind == "shot":
        # Image by image: in jax 0.10, `jax.random.poisson` under vmap draws otherwise once the batch is sharded.
        return jax.lax.map(lambda pair: one(*pair), (images, index))
    return jax.vmap(one)(images, index)


def _salt_and_pepper(p: Array, key: Array, x: Array) -> Array:
    u = jax.random.uniform(key, x.shape)
    return jnp.where(u < p / 2, 1, jnp.where(u < p, 0, x))


_TRUNCATE = 4  # standard deviations at which the kernel ends, as SciPy's does


def _blur(sigma: Array, _: Array, x: Array) -> Array:
    """Rows, then columns; the kernel has the widest one's length, with zeros beyond its own end."""
    radius = int(_TRUNCATE * max(IMAGE_LEVELS["blur"]) + 0.5)
    offset = jnp.arange(-radius, radius + 1)
    weights = jnp.exp(-((offset / sigma) ** 2) / 2)
    weights = jnp.where(jnp.abs(offset) <= jnp.floor(_TRUNCATE * sigma + 0.5), weights, 0)
    weights /= weights.sum()
    for axis in (0, 1):
        n = x.shape[axis]
        padded = jnp.pad(x, [(radius, radius) if i == axis else (0, 0) for i in range(3)], mode="symmetric")
        x = sum(weights[k] * jax.lax.slice_in_dim(padded, k, k + n, axis=axis) for k in range(len(offset)))  # pyright: ignore[reportAssignmentType]
    return x


def _occlusion(share: Array, key: Array, x: Array) -> Array:
    h, w, _ = x.shape
    side = jnp.floor(share * min(h, w) + 0.5).astype(jnp.int32)
    top, left = jax.random.randint(key, (2,), 0, jnp.array([h, w]) - side + 1)
    rows, columns = ((jnp.arange(n) >= start) & (jnp.arange(n) < start + side) for n, start in ((h, top), (w, left)))
    return jnp.where((rows[:, None] & columns[None, :])[..., None], GREY, x)


def _contrast(c: Array, _: Array, x: Array) -> Array:
    m = x.mean(axis=(0, 1), keepdims=True)
    return m + c * (x - m)


_KINDS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "gaussian": lambda sigma, key, x: x + sigma * jax.random.normal(key, x.shape),
    "uniform": lambda a, key, x: x + a * jax.random.uniform(key, x.shape, minval=-1, maxval=1),
    "salt_and_pepper": _salt_and_pepper,
    "shot": lambda c, key, x: jax.random.poisson(key, c * x).astype(x.dtype) / c,
    "speckle": lambda sigma, key, x: x + sigma * x * jax.random.normal(key, x.shape),
    "blur": _blur,
    "occlusion": _occlusion,
    "contrast": _contrast,
    "brightness": lambda b, _, x: x + b,
}
"""`(strength, key, image [H, W, C])` to the noisy image, not clipped yet; JPEG is not array code."""


def jpeg(images: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
    """The images after JPEG at a quality of 1 to 95, with Pillow's defaults otherwise (colours at half the resolution).

    `images` are float32 `[B, H, W, C]` in [0, 1], C = 1 or 3 (else `InputError`), and rounded to bytes first.
    """
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels; JPEG codes 1 (grey) or 3 (RGB)")
    pixels = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    decoded = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        coded = io.BytesIO()
        Image.fromarray(image[..., 0] if channels == 1 else image).save(coded, "JPEG", quality=quality)
        with Image.open(coded) as file:
            decoded[i] = np.asarray(file).reshape(image.shape)
    return decoded.astype(np.float32) / np.float32(255)
