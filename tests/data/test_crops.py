"""Crops of photographs: boxes by hand and in distribution, and the pixels in them."""

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from snnkd_jax.data import crops

SIZE = 16


class Fixed:
    """A generator of given uniform numbers and integers."""

    def __init__(self, uniform: list[float], integers: list[int]):
        self._uniform, self._integers = iter(uniform), iter(integers)

    def uniform(self, low: float, high: float) -> float:
        value = next(self._uniform)
        assert low <= value <= high
        return value

    def integers(self, high: int) -> int:
        value = next(self._integers)
        assert 0 <= value < high
        return value


@pytest.mark.parametrize(
    ("size", "uniform", "integers", "box"),
    [
        # sqrt(0.5 * 8000 * 1.25) = 70.7, sqrt(0.5 * 8000 / 1.25) = 56.6; the last places where it fits
        ((100, 80), [0.5, math.log(1.25)], [29, 23], (29, 23, 100, 80)),
        # the whole area at aspect 3/4 is 77.5 x 103.3, too high; a quarter of it at aspect 1 is 44.7 x 44.7
        ((100, 80), [1.0, math.log(0.75), 0.25, 0.0], [5, 7], (5, 7, 50, 52)),
        # ten squares of the area 30000 do not fit into 300 x 100: the centre, 133 x 100
        ((300, 100), [1.0, 0.0] * 10, [], (83, 0, 216, 100)),
        ((90, 400), [1.0, 0.0] * 10, [], (0, 140, 90, 260)),
        ((100, 100), [1.0, math.log(4 / 3)] * 10, [], (0, 0, 100, 100)),
    ],
)
def test_random_box_by_hand(size, uniform, integers, box):
    rng: Any = Fixed(uniform, integers)
    assert crops.random_box(rng, *size) == box


def test_random_boxes_have_the_areas_and_aspects_that_were_asked_for():
    """In a square, a box of an area a above 3/4 fits if |log r| <= -log a, so that fewer of them remain."""
    rng, side = np.random.default_rng(0), 1000
    boxes = np.array([crops.random_box(rng, side, side) for _ in range(4000)])
    w, h = (boxes[:, 2:] - boxes[:, :2]).T
    assert boxes.min() >= 0
    assert boxes.max() <= side
    area, aspect = w * h / side**2, w / h
    assert 0.079 < area.min() < 0.085
    assert 0.98 < area.max() <= 1
    assert 0.748 < aspect.min() < 0.76
    assert 1.32 < aspect.max() < 1.336
    large = (1 - 0.75 + 0.75 * math.log(0.75)) / math.log(4 / 3)  # integral of -log a / log 4/3 from 3/4 to 1
    assert np.mean(area < 0.31) == pytest.approx(0.23 / (0.67 + large), abs=0.03)
    assert np.mean(aspect < 1) == pytest.approx(0.5, abs=0.03)
    free = side - w[w < side]
    assert np.mean(boxes[w < side, 0] / free) == pytest.approx(0.5, abs=0.02)


def test_random_crop_is_the_box_resized_and_mirrored_in_half_of_the_cases():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    mirrored = 0
    for seed in range(60):
        left, top, right, bottom = crops.random_box(np.random.default_rng(seed), 60, 40)
        part = Image.fromarray(np.asarray(image)[top:bottom, left:right])
        expected = np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(crops.random_crop(image, SIZE, np.random.default_rng(seed), False), expected)
        found = crops.random_crop(image, SIZE, np.random.default_rng(seed), True)
        mirrored += not np.array_equal(found, expected)
        np.testing.assert_array_equal(found if np.array_equal(found, expected) else found[:, ::-1], expected)
    assert 18 < mirrored < 42


@pytest.mark.parametrize(
    ("size", "resized", "box"),
    [
        ((100, 50), (64, 32), (18, 2, 46, 30)),
        ((50, 101), (32, 64), (2, 18, 30, 46)),
        ((7, 7), (32, 32), (2, 2, 30, 30)),
    ],
)
def test_centre_crop_by_hand(size, resized, box):
    """28 of 32 pixels, as 224 of 256; the longer side is rounded down."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    expected = image.resize(resized, Image.Resampling.BILINEAR).crop(box)
    np.testing.assert_array_equal(crops.centre_crop(image, 28), np.asarray(expected))
