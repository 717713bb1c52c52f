"""Recordings of events and their frames: binning against a plain loop in whole numbers, and what is refused."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from snnkd_jax.data import Binning, Events, load
from snnkd_jax.errors import InputError

SENSOR = 3, 4


def recording(n: int, seed: int = 0, latest: int = 1000) -> Events:
    rng = np.random.default_rng(seed)
    x, y, p = rng.integers(0, 4, n), rng.integers(0, 3, n), rng.integers(0, 2, n)
    return Events(x, y, np.sort(rng.integers(0, latest, n)) + 10**12, p, SENSOR)


def counted(events: Events, num_steps: int, by: str) -> np.ndarray:
    """One event after the other: the bin is the last of those that begin at or before it."""
    counts, n = np.zeros((num_steps, *SENSOR, 2), int), len(events.t)
    first, last = int(events.t[0]), int(events.t[-1])
    for i, (x, y, t, p) in enumerate(zip(events.x, events.y, events.t, events.p, strict=True)):
        place = Fraction(i, n) if by == "count" else Fraction(int(t) - first, max(last - first, 1))
        begun = [k for k in range(num_steps) if Fraction(k, num_steps) <= place]
        counts[begun[-1], y, x, p] += 1
    return counts


@pytest.mark.parametrize("by", ["time", "count"])
@pytest.mark.parametrize(("n", "latest"), [(1, 10), (3, 10), (200, 7), (200, 10**6)])
def test_every_event_is_in_one_bin(by, n, latest):
    events = recording(n, seed=n, latest=latest)
    for num_steps in (1, 4, 7):
        counts = Binning(num_steps, by).counts(events)
        assert counts.sum() == n
        np.testing.assert_array_equal(counts, counted(events, num_steps, by))


def test_bins_by_time_do_not_depend_on_the_unit_and_those_by_count_differ_by_one_event():
    events = recording(100)
    seconds = Events(events.x, events.y, (events.t - events.t[0]) / 1e6, events.p, SENSOR)
    scaled = Events(events.x, events.y, 1000 * events.t, events.p, SENSOR)
    for same in (scaled, seconds):
        np.testing.assert_array_equal(Binning(4).bins(same), Binning(4).bins(events))
    sizes = Binning(7, "count").counts(events).sum(axis=(1, 2, 3))
    assert set(sizes.tolist()) == {14, 15}


def test_frames_are_bytes_and_more_than_255_events_are_refused():
    frames = Binning(2, "count").frames(Events([0] * 510, [1] * 510, range(510), [1] * 510, SENSOR))
    assert (frames.dtype, frames.shape, frames[:, 1, 0, 1].tolist()) == (np.uint8, (2, 3, 4, 2), [255, 255])
    many = Events([3] * 511, [1] * 511, range(511), [0] * 511, SENSOR, "a.npy")
    with pytest.raises(InputError, match=r"a.npy has 256 events .* x = 3, y = 1 in frame 0.*num_steps"):
        Binning(2, "count").frames(many)
    assert Binning(2, "count", saturate=True).frames(many)[:, 1, 3, 0].tolist() == [255, 255]


def test_smaller_frames_add_up_neighbouring_pixels():
    events = recording(300)
    whole, small = Binning(4).counts(events), Binning(4, size=(2, 3)).counts(events)
    expected = np.zeros_like(small)
    for t, y, x, p in np.ndindex(whole.shape):
        expected[t, y * 2 // 3, x * 3 // 4, p] += whole[t, y, x, p]
    np.testing.assert_array_equal(small, expected)
    assert small.sum() == 300
    with pytest.raises(InputError, match=r"frame_size=4x4, and the sensor has 3x4 pixels"):
        Binning(4, size=(4, 4)).counts(events)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"x": [0, 4, 0]}, r"r, event 1: x = 4 is outside .* 3x4"),
        ({"y": [0, 0, -1]}, r"r, event 2: y = -1 is outside .* 3x4"),
        ({"p": [1, -1, 0]}, r"r, event 1: p = -1 .* 0 for darker"),
        ({"t": [5, 7, 6]}, r"r, event 2: t = 6 .* sort"),
        ({"t": [5, np.nan, 6]}, r"r, event 1: t = nan"),
        ({"x": [0, 1]}, r"r: .*'x': 2.* one of each"),
        ({"x": [0.0, 1.0, 2.0]}, r"r: x is float64"),
        ({"x": [], "y": [], "t": [], "p": []}, "r: x is float64"),
        ({name: np.zeros(0, int) for name in "xytp"}, "r has no events"),
    ],
)
def test_what_is_no_recording_is_refused_by_event(changed: dict[str, Any], told: str):
    right: dict[str, Any] = {"x": [0, 1, 2], "y": [0, 0, 1], "t": [5, 5, 6], "p": [0, 1, 1]}
    Events(**right, sensor_size=SENSOR)
    with pytest.raises(InputError, match=told):
        Events(**right | changed, sensor_size=SENSOR, name="r")


def test_other_bins_and_bins_of_images_are_refused():
    for wrong, told in (((0, "time"), "num_steps=0"), ((3, "events"), "bin_by 'events'")):
        with pytest.raises(InputError, match=told):
            Binning(*wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="digits has images"):
        load("digits", binning=Binning(4))
