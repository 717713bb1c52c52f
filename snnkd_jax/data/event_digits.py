"""`event_digits`: the digits of scikit-learn in front of a simulated event camera, made in seconds, without a download.

The camera looks at a digit that stands still and makes three saccades of 100 ms along a triangle, as N-MNIST was
recorded (Orchard et al., Frontiers in Neuroscience 2015, 9:437). There the triangle is the same for every recording;
here its corners are drawn for each, so that the class is in the shapes that move and not in where they go, and the mean
over time is a picture that is blurred in unknown directions. A pixel whose logarithmic intensity L has moved by a
contrast threshold C from its reference value emits an event, and moves its reference by C: the ideal camera of ESIM
(Rebecq et al., CoRL 2018). Noise events are added, uniform in pixel, time and polarity (background activity).

    L[s] = log(I[s] / I_white + 0.1)          intensity of the digit at place s of the camera's path, bilinear
    |L[s] - reference| >= C  ->  event         at the time of crossing, linear between s and s + 1

The digit covers 10x10 of 16x16 pixels and is up to three off the centre. L is rounded to millionths and everything
after it is computed in whole numbers, so that the events do not depend on the machine. The split is that of `digits`.
"""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data.dataset import Dataset
from snnkd_jax.data.digits import load_digits
from snnkd_jax.data.events import Binning, Events

SIDE = 16
SCALE = 1.25  # pixels of the camera per pixel of a digit
REACH = 3  # pixels, the largest offset of a corner of the path
_PLACES, _STEP = 30, 3_333  # per saccade, and microseconds between two of them
_DARK = 0.1
_UNIT = 1_000_000
_THRESHOLD = _UNIT // 2  # C = 0.5
_NOISE = 40  # noise events per recording, mean of a Poisson distribution


def load_event_digits(binning: Binning, seed: int = 0) -> Dataset:
    """1,437 training and 360 test recordings in frames uint8 `[N, T, 16, 16, 2]`; `seed` is that of paths and noise."""
    digits = load_digits()
    pixels = np.concatenate([digits.train_images, digits.test_images])[..., 0]
    frames = np.stack([binning.frames(events) for events in record(pixels, seed)])
    train, test = np.split(frames, [len(digits.train_images)])
    labels = digits.train_labels, digits.test_labels
    return Dataset("event_digits", train, labels[0], test, labels[1], digits.class_names, counts=True)


def record(images: NDArray[np.uint8], seed: int) -> list[Events]:
    """The recordings of images `[N, h, w]` of up to 8x8 pixels; times are in microseconds."""
    signal, noise = camera(intensities(images, paths(len(images), seed))), _noise(len(images), seed)
    image, t, y, x, p = (np.concatenate(pair) for pair in zip(signal, noise, strict=True))
    order = np.lexsort((p, x, y, t, image))
    ends = np.cumsum(np.bincount(image, minlength=len(images)))[:-1]
    parts = zip(*(np.split(values[order], ends) for values in (x, y, t, p)), strict=True)
    return [Events(*part, sensor_size=(SIDE, SIDE), name=f"recording {i}") for i, part in enumerate(parts)]


def paths(n: int, seed: int) -> NDArray:
    """The offsets (y, x) in pixels of n digits at each place, `[N, 91, 2]`: along three lines, back to the first."""
    corners = np.random.default_rng([seed, 4]).integers(-REACH, REACH + 1, (n, 3, 2)).astype(float)
    share = np.arange(_PLACES)[:, None] / _PLACES
    lines = [a + share * (b - a) for a, b in itertools.pairwise(corners[:, [[0], [1], [2], [0]]].swapaxes(0, 1))]
    return np.concatenate([*lines, corners[:, :1]], axis=1)


def intensities(images: NDArray[np.uint8], paths: NDArray) -> Iterator[NDArray[np.int64]]:
    """L in millionths `[N, 16, 16]` of images `[N, h, w]` at each place of their paths."""
    centre, padded = (SIDE - 1) / 2, np.pad(images / 255, ((0, 0), (1, 1), (1, 1)))
    for offsets in paths.swapaxes(0, 1):
        seen = padded
        for axis in (1, 2):
            middle = (padded.shape[axis] - 1) / 2
            seen = _interpolated(seen, (np.arange(SIDE) - centre - offsets[:, axis - 1, None]) / SCALE + middle, axis)
        yield np.rint(np.log(seen + _DARK) * _UNIT).astype(np.int64)


def _interpolated(images: NDArray, at: NDArray, axis: int) -> NDArray:
    """Values at fractional indices `[N, n]` along an axis; those outside are of the edge."""
    at = np.expand_dims(np.clip(at, 0, images.shape[axis] - 1), 3 - axis)
    low = np.minimum(np.floor(at).astype(int), images.shape[axis] - 2)
    first, second = (np.take_along_axis(images, index, axis) for index in (low, low + 1))
    return first + (at - low) * (second - first)


def camera(values: Iterable[NDArray[np.int64]]) -> tuple[NDArray, ...]:
    """Image, t, y, x and p of the events of logarithmic intensities `[N, H, W]` at each place, in no order."""
    reference, found = None, []
    for place, (before, after) in enumerate(itertools.pairwise(values)):
        reference = before.copy() if reference is None else reference
        while len((fired := np.nonzero(np.abs(after - reference) >= _THRESHOLD))[0]):
            p = (after > reference)[fired].astype(np.int64)
            reference[fired] += (2 * p - 1) * _THRESHOLD
            passed, whole = (reference - before)[fired], (after - before)[fired]
            found.append((fired[0], place * _STEP + _STEP * passed // whole, fired[1], fired[2], p))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _noise(n: int, seed: int) -> tuple[NDArray, ...]:
    """Image, t, y, x and p of noise events of n recordings."""
    rng = np.random.default_rng([seed, 3])
    image = np.repeat(np.arange(n), rng.poisson(_NOISE, n))
    limits = 3 * _PLACES * _STEP, SIDE, SIDE, 2
    return image, *(rng.integers(0, limit, len(image)) for limit in limits)
