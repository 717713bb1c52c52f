"""Square images of photographs of any size: a random part in training, the centre in evaluation.

As torchvision's `RandomResizedCrop`, `RandomHorizontalFlip`, `Resize` and `CenterCrop`, on Pillow images, bilinear with
antialiasing. Widths come before heights here, as in Pillow.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

AREA = 0.08, 1.0
"""Share of the image that a random part covers."""
ASPECT = 3 / 4, 4 / 3
"""Its width by its height."""
CENTRE = 0.875
"""Side of the centre that evaluation sees, as a share of the shorter side: 224 of 256 pixels."""

_TRIES = 10

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


def random_box(rng: np.random.Generator, width: int, height: int) -> Box:
    """A random part of an image.

        a ~ U(0.08, 1),  log r ~ U(log 3/4, log 4/3)
        w = round(sqrt(a r width height)),  h = round(sqrt(a / r width height))

    at a place that is uniform among those where it fits. After ten boxes that do not fit anywhere it is the largest
    centred one with an aspect r in that range. Source: Szegedy et al. 2015, arXiv 1409.4842; the fallback is
    torchvision's.
    """
    for _ in range(_TRIES):
        area = rng.uniform(*AREA) * width * height
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return fallback_box(width, height)


def fallback_box(width: int, height: int) -> Box:
    """The largest centred box with an aspect in the allowed range."""
    w, h = width, height
    if width < ASPECT[0] * height:
        h = round(width / ASPECT[0])
    elif width > ASPECT[1] * height:
        w = round(height * ASPECT[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def centre_box(width: int, height: int, size: int) -> Box:
    """The `size` by `size` pixels in the middle."""
    left, top = round((width - size) / 2), round((height - size) / 2)
    return left, top, left + size, top + size


def random_part(image: Image.Image, size: int, rng: np.random.Generator, flip: bool) -> NDArray[np.uint8]:
    """A `random_box`, resized to `[size, size, 3]`, and with `flip` mirrored in one of two cases."""
    part = image.crop(random_box(rng, *image.size)).resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.asarray(part)
    return pixels[:, ::-1] if flip and rng.random() < 0.5 else pixels


def centre(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The middle `[size, size, 3]` of the image whose shorter side has become `round(size / CENTRE)` pixels."""
    shorter, (width, height) = round(size / CENTRE), image.size
    scaled = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
    resized = image.resize(scaled, Image.Resampling.BILINEAR)
    return np.asarray(resized.crop(centre_box(*resized.size, size)))
