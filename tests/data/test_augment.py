"""Augmentation: every result is searched for among the results that are allowed."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnkd_jax.data.augment import Augmentation
from snnkd_jax.errors import InputError

KEY = jax.random.key(11)
B, H, W, C = 512, 5, 4, 2

# All pixels differ and none is 0, so that a shift, a mirror image and a blank can each be told from the others.
IMAGE = np.random.default_rng(0).permutation(np.arange(1, 1 + H * W * C)).reshape(H, W, C).astype(np.uint8)


def augmented(augmentation: Augmentation, dtype=np.uint8) -> np.ndarray:
    images = augmentation(KEY, jnp.asarray(np.broadcast_to(IMAGE, (B, H, W, C)).astype(dtype)))
    assert images.dtype == dtype
    assert images.shape == (B, H, W, C)
    return np.asarray(images)


def crops(image: np.ndarray, p: int) -> dict[bytes, tuple[int, int]]:
    """Every crop of the zero-padded image, and its shift."""
    canvas = np.zeros((H + 2 * p, W + 2 * p, C), image.dtype)
    canvas[p : p + H, p : p + W] = image
    shifts = [(top, left) for top in range(2 * p + 1) for left in range(2 * p + 1)]
    return {canvas[top : top + H, left : left + W].tobytes(): (top, left) for top, left in shifts}


def blanked(image: np.ndarray, side: int) -> dict[bytes, tuple[int, int]]:
    """The image without a square around each of its pixels, and that pixel."""
    found = {}
    for row in range(H):
        for column in range(W):
            copy = image.copy()
            top, left = row - side // 2, column - side // 2
            copy[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
            found[copy.tobytes()] = (row, column)
    return found


def counts(images: np.ndarray, allowed: Mapping[bytes, object]) -> Counter:
    return Counter(allowed[image.tobytes()] for image in images)


def assert_uniform(found: Counter, values: int) -> None:
    """Each value occurs, and as often as the others within five standard deviations."""
    assert len(found) == values
    expected = B / values
    assert max(abs(count - expected) for count in found.values()) <= 5 * np.sqrt(expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_everything_off_is_the_identity(dtype):
    np.testing.assert_array_equal(augmented(Augmentation(), dtype), np.broadcast_to(IMAGE, (B, H, W, C)))


@pytest.mark.slow
def test_images_are_a_function_of_the_key():
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (16, 6, 6, 3)).astype(np.uint8))
    everything = Augmentation(crop_padding=2, flip=True, cutout=2)
    first = everything(KEY, images)
    np.testing.assert_array_equal(first, everything(KEY, images))
    np.testing.assert_array_equal(first, jax.jit(everything)(KEY, images))
    assert np.any(first != everything(jax.random.key(12), images))


@pytest.mark.parametrize("p", [1, 2])
def test_each_shift_is_a_crop_of_the_padded_image_and_all_are_equally_frequent(p):
    assert_uniform(counts(augmented(Augmentation(crop_padding=p)), crops(IMAGE, p)), (2 * p + 1) ** 2)


@pytest.mark.parametrize("p", [1, 2])
def test_reflected_shifts_are_crops_of_numpys_reflected_image(p):
    canvas = np.pad(IMAGE, ((p, p), (p, p), (0, 0)), mode="reflect")
    shifts = [(top, left) for top in range(2 * p + 1) for left in range(2 * p + 1)]
    allowed = {canvas[top : top + H, left : left + W].tobytes(): (top, left) for top, left in shifts}
    assert len(allowed) == len(shifts)
    assert_uniform(counts(augmented(Augmentation(crop_padding=p, reflect=True)), allowed), len(shifts))


def test_the_title_of_an_augmentation_is_that_of_runs_before_reflection():
    """It is compared when a run is resumed, beside a digest of the computation, which tells the two apart."""
    assert repr(Augmentation(2, True)) == "Augmentation(crop_padding=2, flip=True, cutout=0)"


def test_half_of_the_images_are_exact_mirror_images():
    mirror = {IMAGE.tobytes(): (0, 0), np.ascontiguousarray(IMAGE[:, ::-1]).tobytes(): (0, 1)}
    assert_uniform(counts(augmented(Augmentation(flip=True)), mirror), 2)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_cutout_blanks_the_square_around_a_pixel_clipped_at_the_border(side):
    allowed = blanked(IMAGE, side)
    assert len(allowed) == H * W  # each centre can be told from the others
    assert_uniform(counts(augmented(Augmentation(cutout=side)), allowed), H * W)


def test_cutout_of_twice_the_image_blanks_all_of_it():
    np.testing.assert_array_equal(augmented(Augmentation(cutout=2 * H)), np.zeros((B, H, W, C)))


def test_shift_and_flip_are_drawn_independently():
    allowed = {
        np.frombuffer(crop, np.uint8).reshape(H, W, C)[:, ::direction].tobytes(): (*shift, direction)
        for crop, shift in crops(IMAGE, 1).items()
        for direction in (1, -1)
    }
    assert_uniform(counts(augmented(Augmentation(crop_padding=1, flip=True)), allowed), 18)


def test_cutout_comes_last_so_that_its_square_is_not_shifted_or_mirrored():
    # A blanked column of width 1 is found at the left border only: at the right one, squares are two columns wide.
    allowed = {
        square
        for crop in crops(IMAGE, 1)
        for direction in (1, -1)
        for square in blanked(np.frombuffer(crop, np.uint8).reshape(H, W, C)[:, ::direction], 2)
    }
    images = augmented(Augmentation(crop_padding=1, flip=True, cutout=2))
    assert all(image.tobytes() in allowed for image in images)


@pytest.mark.parametrize("setting", ["crop_padding", "cutout"])
def test_a_negative_number_of_pixels_is_refused(setting: str):
    with pytest.raises(InputError, match=setting):
        dataclasses.replace(Augmentation(), **{setting: -1})
