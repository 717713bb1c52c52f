"""Augmentation of frames: what is lost is found in each result, and everything else is as it was."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnkd_jax.data import Augmentation, EventAugmentation
from snnkd_jax.errors import InputError

KEY = jax.random.key(5)
B, T, H, W = 256, 5, 4, 6
FRAMES = np.random.default_rng(0).integers(1, 5, (T, H, W, 2)).astype(np.uint8)  # none is 0, which tells the losses


def augmented(augmentation, dtype=np.uint8) -> np.ndarray:
    scale = np.float32(255) if dtype == np.float32 else 1
    images = augmentation(KEY, jnp.asarray(np.broadcast_to((FRAMES / scale).astype(dtype), (B, *FRAMES.shape))))
    assert (images.dtype, images.shape) == (dtype, (B, *FRAMES.shape))
    return np.asarray(images)


def kept_and_lost(images: np.ndarray) -> np.ndarray:
    """Where events are lost, after the others are found to be as they were."""
    lost = images == 0
    np.testing.assert_array_equal(np.where(lost, FRAMES, images), np.broadcast_to(FRAMES, images.shape))
    return lost


def test_successive_frames_are_lost_up_to_the_share_and_anywhere():
    lost = kept_and_lost(augmented(EventAugmentation(drop_time=0.6)))
    assert (lost.all(axis=(2, 3, 4)) == lost.any(axis=(2, 3, 4))).all()
    windows = {tuple(row) for row in lost[:, :, 0, 0, 0].astype(int).tolist()}
    expected = {tuple(int(i <= t < i + n) for t in range(T)) for n in range(4) for i in range(T - n + 1)}
    assert windows == expected


def test_a_rectangle_of_all_frames_is_lost():
    lost = kept_and_lost(augmented(EventAugmentation(drop_area=0.5)))
    assert (lost == lost[:, :1, :, :, :1]).all()
    sides = set()
    for mask in lost[:, 0, :, :, 0]:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns)
        for line in (rows, columns):
            assert np.count_nonzero(np.diff(line.astype(int), prepend=0, append=0)) in (0, 2)  # without gaps
        sides.add((int(rows.sum()), int(columns.sum())))
    assert sides == {(0, 0), (1, 1), (1, 2), (2, 2), (2, 3)}  # of the shares 0 to 1/2 of 4 x 6


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_each_event_is_lost_by_itself(dtype):
    """The share is uniform up to 0.8: 0.4 on average; and of four events, one to three may be left."""
    images = augmented(EventAugmentation(drop_events=0.8), dtype)
    counts = images if dtype == np.uint8 else np.rint(255 * images)
    assert (counts <= FRAMES).all()
    share = 1 - counts.sum(axis=(1, 2, 3, 4)) / FRAMES.sum()
    assert share.mean() == pytest.approx(0.4, abs=0.05)
    assert (share.min() < 0.05, share.max() > 0.75) == (True, True)
    assert {1, 2, 3} < set(counts[:, FRAMES == 4].ravel().astype(int).tolist())


def test_half_of_the_recordings_exchange_their_polarities():
    images = augmented(EventAugmentation(swap_polarity=True))
    swapped = (images == FRAMES[..., ::-1]).all(axis=(1, 2, 3, 4))
    np.testing.assert_array_equal(images[~swapped], np.broadcast_to(FRAMES, images[~swapped].shape))
    assert 90 < swapped.sum() < 166


def test_shift_and_flip_are_those_of_images_and_alike_in_all_frames():
    """Which train on frames as on images; the losses draw from keys of their own."""
    shifted = augmented(Augmentation(crop_padding=1, flip=True))
    np.testing.assert_array_equal(augmented(EventAugmentation(crop_padding=1, flip=True)), shifted)
    both = augmented(EventAugmentation(crop_padding=1, flip=True, swap_polarity=True))
    as_one = (both == shifted).all(axis=(1, 2, 3, 4)) | (both == shifted[..., ::-1]).all(axis=(1, 2, 3, 4))
    assert as_one.all()


@pytest.mark.slow
def test_frames_are_a_function_of_the_key():
    everything = EventAugmentation(1, True, 1, drop_time=0.5, drop_area=0.5, drop_events=0.5, swap_polarity=True)
    frames = jnp.asarray(np.broadcast_to(FRAMES, (8, *FRAMES.shape)))
    first = everything(KEY, frames)
    np.testing.assert_array_equal(first, jax.jit(everything)(KEY, frames))
    assert np.any(first != everything(jax.random.key(6), frames))


def test_other_shares_and_images_are_refused():
    for name in ("drop_time", "drop_area", "drop_events"):
        given: dict[str, Any] = {name: 1.5}
        with pytest.raises(InputError, match=f"{name}=1.5"):
            EventAugmentation(**given)
    with pytest.raises(InputError, match=r"\[B, T, H, W, C\]"):
        EventAugmentation(drop_time=0.5)(KEY, jnp.zeros((2, 4, 4, 2)))
