"""Square crops of photographs of any size: random in training, the centre in evaluation.

As torchvision's `RandomResizedCrop`, `RandomHorizontalFlip`, `Resize` and `CenterCrop`, on Pillow images, bilinear with
antialiasing. Widths come before heights here, as in Pillow.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

AREA = 0.08, 1.0  # share of the image that a random crop covers
ASPECT = 3 / 4, 4 / 3  # its width by its height
CENTRE = 0.875  # side of the centre crop as a share of the shorter side: 224 of 256 pixels


def random_box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """A random crop of an image: left, top, right, bottom, in pixels.

        a ~ U(0.08, 1),  log r ~ U(log 3/4, log 4/3)
        w = round(sqrt(a r width height)),  h = round(sqrt(a / r width height))

    at a place that is uniform among those where it fits. After ten boxes that do not fit anywhere it is the largest
    centred one with an aspect r in that range. Source: Szegedy et al. 2015, arXiv 1409.4842; the fallback is
    torchvision's.
    """
    for _ in range(10):
        area = rng.uniform(*AREA) * width * height
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_crop(image: Image.Image, size: int, rng: np.random.Generator, flip: bool) -> NDArray[np.uint8]:
    """A `random_box` resized to `[size, size, C]`, with `flip` mirrored with probability 1/2."""
    crop = image.crop(random_box(rng, *image.size))
    pixels = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR)).reshape(size, size, -1)
    return pixels[:, ::-1] if flip and rng.random() < 0.5 else pixels


def centre_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The central `[size, size, C]` of the image, whose shorter side is resized to `round(size / CENTRE)` pixels."""
    shorter, (width, height) = round(size / CENTRE), image.size
    width, height = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized.crop((left, top, left + size, top + size))).reshape(size, size, -1)
