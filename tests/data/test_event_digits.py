"""The simulated event camera: against a loop over the pixels, and the data set that it makes."""

import numpy as np
import pytest

from snnkd_jax.data import Binning, load
from snnkd_jax.data.digits import load_digits
from snnkd_jax.data.event_digits import REACH, SCALE, SIDE, camera, intensities, load_event_digits, paths, record

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
PATHS = paths(3, 0)


def test_paths_are_three_lines_between_corners_of_their_own_and_return():
    found = paths(200, 1)
    assert found.shape == (200, 91, 2)
    corners = found[:, [0, 30, 60, 90]]
    np.testing.assert_array_equal(corners[:, 0], corners[:, 3])
    np.testing.assert_array_equal(corners, corners.round())
    assert (corners.min(), corners.max()) == (-REACH, REACH)
    between = found[:, 30] + 0.4 * (found[:, 60] - found[:, 30])
    np.testing.assert_allclose(found[:, 42], between, atol=1e-12)
    assert len(np.unique(corners.reshape(200, -1), axis=0)) > 190
    np.testing.assert_array_equal(paths(200, 1), found)
    assert (paths(200, 2) != found).any()


def test_the_intensity_of_a_pixel_is_that_of_its_place_in_the_digit():
    """Bilinear, by hand, between rows and columns of a digit with a dark edge."""
    values = np.stack(list(intensities(IMAGES, PATHS)))
    assert values.shape == (91, 3, SIDE, SIDE)
    for place, n, y, x in [(15, 0, 7, 6), (40, 1, 9, 8), (77, 2, 8, 10), (90, 0, 0, 0)]:
        digit = np.pad(IMAGES[n] / 255, 1)
        offsets = PATHS[n, place]
        row, column = (
            float(np.clip((at - 7.5 - o) / SCALE + 4.5, 0, 9)) for at, o in zip((y, x), offsets, strict=True)
        )
        (i, u), (j, v) = ((min(int(z), 8), z - min(int(z), 8)) for z in (row, column))
        seen = (1 - u) * ((1 - v) * digit[i, j] + v * digit[i, j + 1])
        seen += u * ((1 - v) * digit[i + 1, j] + v * digit[i + 1, j + 1])
        assert values[place, n, y, x] == pytest.approx(1e6 * np.log(seen + 0.1), abs=1)


def test_events_are_those_of_a_pixel_at_a_time():
    """In float64: the reference follows the intensity by thresholds of 0.5, at times between two places."""
    values = np.stack(list(intensities(IMAGES, PATHS)))
    expected = set()
    for pixel in np.ndindex(values.shape[1:]):
        path = values[(slice(None), *pixel)] / 1e6
        reference = path[0]
        for place in range(90):
            low, high = path[place], path[place + 1]
            while abs(high - reference) >= 0.5 - 1e-9:
                sign = 1 if high > reference else -1
                reference += 0.5 * sign
                t = place * 3333 + int(3333 * (reference - low) / (high - low) + 1e-6)
                expected.add((pixel[0], t, *pixel[1:], int(sign > 0)))
    found = camera(values)
    assert len(found[0]) == len(expected) > 1000
    assert set(zip(*(x.tolist() for x in found), strict=True)) == expected


def test_a_recording_has_its_events_and_noise_of_the_seed():
    signal = np.bincount(camera(intensities(IMAGES, PATHS))[0])
    first, again, other = (record(IMAGES, seed) for seed in (0, 0, 1))
    for i, events in enumerate(first):
        assert 15 <= len(events.t) - signal[i] <= 80  # of 40 on average
        np.testing.assert_array_equal(np.diff(events.t) >= 0, True)
        assert 0 <= events.t[0] <= events.t[-1] < 300_000
        np.testing.assert_array_equal(events.t, again[i].t)
    assert [len(events.t) for events in first] != [len(events.t) for events in other]


@pytest.mark.slow
def test_the_data_set_has_the_digits_in_their_split_and_is_read_as_counts():
    data, digits = load("event_digits"), load_digits()
    assert (data.train_images.shape, data.frames, data.num_classes) == ((1437, 10, 16, 16, 2), 10, 10)
    np.testing.assert_array_equal(data.test_labels, digits.test_labels)
    events = record(digits.train_images[:2, ..., 0], 0)
    total = data.train_images[:2].sum(axis=(1, 2, 3, 4))
    assert [abs(int(n) - len(e.t)) < 60 for n, e in zip(total, events, strict=True)] == [True, True]  # but for noise
    assert data.identity == load_event_digits(Binning()).identity
    assert data.identity != load("event_digits", binning=Binning(10, "count")).identity
    read = np.asarray(data.normalisation(data.test_images[:50]))
    np.testing.assert_allclose(read, data.test_images[:50], rtol=1e-6)
    assert set(read[data.test_images[:50] < 2].tolist()) == {0.0, 1.0}  # exactly
