"""Noise of event cameras: what is lost, added and moved, counted event by event."""

import jax
import numpy as np
import pytest

from snnkd_jax.data.event_noise import EVENT_LEVELS, disturb_events
from snnkd_jax.errors import InputError

KEY = jax.random.key(3)
FRAMES = np.random.default_rng(0).integers(0, 4, (20, 5, 8, 8, 2)).astype(np.uint8)
INDEX = np.arange(20)


def noisy(kind: str, level: int, frames=FRAMES, index=INDEX) -> np.ndarray:
    found = np.asarray(disturb_events(kind, level, KEY, frames, index))
    assert (found.dtype, found.shape) == (np.uint8, frames.shape)
    return found.astype(int)


def test_events_are_lost_at_their_rate():
    found = noisy("event_drop", 3)
    assert (found <= FRAMES).all()
    assert found.sum() / FRAMES.sum() == pytest.approx(1 - EVENT_LEVELS["event_drop"][2], abs=0.01)
    lost_one = (FRAMES == 3) & (found == 2)
    assert lost_one.any()  # not all events of a pixel together


def test_a_hot_pixel_fires_in_every_frame():
    more = noisy("hot_pixels", 5) - FRAMES
    assert set(np.unique(more)) == {0, 1}
    assert (more == more[:, :1]).all()
    assert more.mean() == pytest.approx(EVENT_LEVELS["hot_pixels"][4], abs=0.015)
    assert noisy("hot_pixels", 5, np.full_like(FRAMES, 255)).max() == 255


def test_events_jitter_to_neighbouring_frames_and_none_is_lost():
    """From one frame: the shares in the frame before and after are p / 2; at an end, what would leave stays."""
    p = EVENT_LEVELS["time_jitter"][3]
    for t, shares in ((2, [0, p / 2, 1 - p, p / 2, 0]), (0, [1 - p / 2, p / 2, 0, 0, 0])):
        frames = np.zeros_like(FRAMES)
        frames[:, t] = 3
        found = noisy("time_jitter", 4, frames)
        np.testing.assert_array_equal(found.sum(axis=1), frames.sum(axis=1))
        by_frame = found.sum(axis=(0, 2, 3, 4)) / frames.sum()
        assert by_frame.tolist() == pytest.approx(shares, abs=0.02)


@pytest.mark.parametrize("kind", EVENT_LEVELS)
def test_noise_of_a_recording_depends_on_its_index(kind):
    order = np.random.default_rng(1).permutation(20)
    np.testing.assert_array_equal(noisy(kind, 3, FRAMES[order], INDEX[order]), noisy(kind, 3)[order])
    np.testing.assert_array_equal(noisy(kind, 0), FRAMES)
    assert np.any(noisy(kind, 3)[0] - FRAMES[0] != noisy(kind, 3, FRAMES, INDEX + 1)[0] - FRAMES[0])


def test_what_are_no_frames_of_events_is_refused():
    for frames, kind, told in ((FRAMES[0], "event_drop", "uint8 .B, T"), (FRAMES, "blur", "event_drop")):
        with pytest.raises(InputError, match=told):
            disturb_events(kind, 1, KEY, frames, INDEX[: len(frames)])
