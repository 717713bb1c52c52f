"""Image noise: ten kinds at five fixed levels of severity, with the same random draws for every network.

Pixels are in [0, 1]; x is the image, y the noisy image before it is clipped to [0, 1]. Level 0 is x itself.

| kind              | y                                                      | level               | CIFAR-10-C |
| ----------------- | ------------------------------------------------------ | ------------------- | ---------- |
| `gaussian`        | x + sigma n, n ~ N(0, 1)                               | sigma               | .04–.1     |
| `uniform`         | x + a u, u ~ U(-1, 1), of `gaussian`'s variance        | a                   | –          |
| `salt_and_pepper` | 1 or 0, with probability p / 2 each, else x            | p                   | .01–.07    |
| `shot`            | k / c, k ~ Poisson(c x)                                | photons at white, c | 500–50     |
| `speckle`         | x + sigma x n, n ~ N(0, 1)                             | sigma               | .06–.2     |
| `blur`            | x convolved with a Gaussian, mirrored at the edges     | std in pixels       | .4–1       |
| `occlusion`       | 0.5 in a square anywhere within the image, x around it | side / shorter side | –          |
| `contrast`        | m + c (x - m), m the mean of the channel               | c                   | .75–.15    |
| `brightness`      | x + b                                                  | b                   | .05–.3     |
| `jpeg`            | x encoded and decoded by Pillow                        | quality, 1 to 95    | 80–40      |

n, u, k and salt or pepper are drawn independently per pixel and channel. The square is grey because black, which cutout
fills with in training, is the background of half the data sets.

The kinds follow Hendrycks & Dietterich, ICLR 2019, arXiv 1903.12261; the last column is their range of levels for 32x32
images. Except for contrast, the levels here go further, because those of CIFAR-10-C hardly affect MNIST. CIFAR-10-C
adds brightness to the value channel of HSV, and its blur repeats the edge pixels.
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

from snnkd_jax.data.pixels import unit_range
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
"""Strengths of levels 1 to 5 by kind, in the units of the table above."""

MAX_LEVEL = 5


def corrupt(kind: str, level: int, key: Array, images: ArrayLike, index: ArrayLike | None = None) -> Array:
    """Adds noise of one kind and level to images, float32 `[B, H, W, C]` in [0, 1]; level 0 returns them unchanged.

    Args:
        kind: a key of `IMAGE_LEVELS`; `jpeg` takes 1 or 3 channels.
        level: 0 (no noise) to 5.
        key: `jax.random.key(seed)`. The noise of an image depends only on the key, the kind, the level and the image's
            index, not on the rest of its batch or on the devices.
        index: int32 `[B]`, positions of the images in the test set; None counts from 0.

    Raises `InputError` for other arguments; the range of images is not checked at level 0 and under tracing.
    """
    check_choice("kind", kind, IMAGE_LEVELS)
    check_level(level)
    images = jnp.asarray(images)
    if images.ndim != 4 or images.dtype != jnp.float32:
        raise InputError(f"images are {images.dtype} {images.shape}; give float32 [B, H, W, C] in [0, 1]")
    index = jnp.arange(images.shape[0]) if index is None else jnp.asarray(index)
    check_per_image("index", index, images.shape[0])
    if level == 0:
        return images
    if not isinstance(images, Tracer):
        images = jnp.asarray(unit_range("images", images))
    strength = IMAGE_LEVELS[kind][level - 1]
    if kind == "jpeg":
        return jnp.asarray(jpeg(np.asarray(images), int(strength)))
    return _corrupt(kind, np.float32(strength), noise_key(key, kind, level), images, index)


def noise_key(key: Array, kind: str, level: int) -> Array:
    """The key of one kind and level."""
    return jax.random.fold_in(named_key(key, kind), level)


def named_key(key: Array, name: str) -> Array:
    """The key of a kind of noise or of a layer, by a hash of its name so that adding one changes no other."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def check_per_image(argument: str, array: ArrayLike, num_images: int) -> None:
    """Raises `InputError` unless the array has one value per image, `[num_images]`."""
    if jnp.shape(array) != (num_images,):
        raise InputError(f"{argument} has shape {jnp.shape(array)}; {num_images} images need ({num_images},)")


def check_level(level: int) -> None:
    """Raises `InputError` unless `level` is 0 (no noise), 1, ..., 5."""
    if not (isinstance(level, numbers.Integral) and not isinstance(level, bool) and 0 <= level <= MAX_LEVEL):
        raise InputError(f"level={level!r} must be a whole number of 0 (no noise) to {MAX_LEVEL}")


@functools.partial(jax.jit, static_argnames="kind")
def _corrupt(kind: str, strength: Array, key: Array, images: Array, index: Array) -> Array:
    """Compiled once per kind, for all of its levels."""

    def one(image, i):
        return jnp.clip(_KINDS[kind](strength, jax.random.fold_in(key, i), image), 0, 1)

    if kind == "shot":
        # Image by image: in jax 0.10, `jax.random.poisson` under vmap draws other numbers when the batch is sharded.
        return jax.lax.map(lambda pair: one(*pair), (images, index))
    return jax.vmap(one)(images, index)


def _salt_and_pepper(p: Array, key: Array, x: Array) -> Array:
    u = jax.random.uniform(key, x.shape)
    return jnp.where(u < p / 2, 1, jnp.where(u < p, 0, x))


_TRUNCATE = 4  # radius of the kernel in standard deviations, as SciPy's default


def _blur(sigma: Array, _: Array, x: Array) -> Array:
    """Separable blur; the kernel of every sigma is padded with zeros to the length of the widest."""
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
    return jnp.where((rows[:, None] & columns[None, :])[..., None], 0.5, x)


_KINDS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "gaussian": lambda sigma, key, x: x + sigma * jax.random.normal(key, x.shape),
    "uniform": lambda a, key, x: x + a * jax.random.uniform(key, x.shape, minval=-1, maxval=1),
    "salt_and_pepper": _salt_and_pepper,
    "shot": lambda c, key, x: jax.random.poisson(key, c * x).astype(x.dtype) / c,
    "speckle": lambda sigma, key, x: x + sigma * x * jax.random.normal(key, x.shape),
    "blur": _blur,
    "occlusion": _occlusion,
    "contrast": lambda c, _, x: (m := x.mean(axis=(0, 1), keepdims=True)) + c * (x - m),
    "brightness": lambda b, _, x: x + b,
}
"""Functions of `(strength, key, image [H, W, C])` that return the noisy image before clipping; JPEG is none of them."""


def jpeg(images: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
    """Encodes and decodes images as JPEG of quality 1 to 95, with Pillow's other defaults (4:2:0 chroma subsampling).

    `images` are float32 `[B, H, W, C]` in [0, 1], C = 1 or 3 (else `InputError`), and are rounded to bytes first.
    """
    from PIL import Image  # Pillow takes a moment

    channels = images.shape[-1]
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels; JPEG takes 1 (grey) or 3 (RGB)")
    pixels = np.round(255 * np.clip(images, 0, 1)).astype(np.uint8)
    decoded = np.empty_like(pixels)
    for i, image in enumerate(pixels):
        file = io.BytesIO()
        Image.fromarray(image[..., 0] if channels == 1 else image).save(file, "JPEG", quality=quality)
        decoded[i] = np.asarray(Image.open(file)).reshape(image.shape)
    return decoded.astype(np.float32) / np.float32(255)
