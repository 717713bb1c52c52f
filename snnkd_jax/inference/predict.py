"""Inference over any number of time steps, and with early exit.

The answer of a spiking network after t steps is the mean of its logits so far. With early exit, an image leaves the
batch once its largest class probability reaches the confidence threshold; the next image takes its place, and the
others continue from their neuron states. At the end, the batch shrinks as soon as half the size is enough.

Source: Li et al., "SEENN", NeurIPS 2023, arXiv 2304.01230 (the criterion).
"""

import functools
import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.data.labels import check_labels
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError
from snnkd_jax.inference.stepper import Prediction, Stepper
from snnkd_jax.models import Network, Variables
from snnkd_jax.parallel.compiler import compile_options

EVALUATION_BATCH_SIZE, PREDICTION_BATCH_SIZE = 100, 128


def check_threshold(threshold: float | None) -> None:
    """Raises `InputError` for a confidence threshold out of range."""
    if threshold is not None and not (isinstance(threshold, numbers.Real) and 0 <= threshold <= 1):
        raise InputError(f"threshold={threshold!r} must be a probability in [0, 1], or None for no early exit")


def predict_by_step(stepper: Stepper, frames: NDArray, num_steps: int, threshold: float | None) -> Prediction:
    """Predicts one time step after another, with early exit at `threshold`; returns NumPy arrays.

    `frames` are `[B, num_steps, H, W, C]`, or `[B, 1, H, W, C]` with one image for all steps.
    """
    batch = np.arange(min(len(frames), PREDICTION_BATCH_SIZE))  # the images in it
    steps = np.zeros(len(batch), int)  # that each of them has taken
    state, found, next_image = stepper.start(len(batch)), [], len(batch)
    while len(batch) or not found:
        state, prediction = stepper(state, frames[batch, np.minimum(steps, frames.shape[1] - 1)])
        steps += 1
        done = steps == num_steps
        if threshold is not None:
            done |= np.asarray(prediction.confidence) >= threshold
        if len(batch) and not done.any():
            continue
        found.append((batch[done], jax.tree.map(lambda x, done=done: x[done], jax.device_get(prediction))))
        places = np.flatnonzero(done)[: len(frames) - next_image]
        batch[places], steps[places], done[places] = next_image + np.arange(len(places)), 0, False
        state, next_image = stepper.restart(state, places), next_image + len(places)
        if done.any():
            batch, steps = batch[~done], steps[~done]
            state = state.only(np.flatnonzero(~done)) if len(batch) else state
    order = np.argsort(np.concatenate([images for images, _ in found]))
    return jax.tree.map(lambda *x: np.concatenate(x)[order], *[prediction for _, prediction in found])


def at_once(network: Network, normalisation: Normalisation) -> Callable[[Variables, NDArray], Any]:
    """The compiled function `(variables, images) -> (logits [B, K], confidence [B], firing rates [B] by layer)`.

    It computes all `num_steps` of a spiking network, or an ANN's sequences.
    """

    @functools.partial(jax.jit, compiler_options=compile_options())
    def run(variables: Variables, images: Array) -> tuple[Array, Array, dict[str, Array]]:
        logits, features = network.apply(variables, normalisation(images))
        mean = logits if logits.ndim == 2 else logits.mean(axis=1)
        return mean, jax.nn.softmax(mean).max(-1), features["firing_rates"]

    return run


def predict_at_once(
    run: Callable[[Variables, NDArray], Any],
    variables: Variables,
    class_names: tuple[str, ...],
    images: NDArray,
    num_steps: int,
) -> Prediction:
    """Predicts by `run`, which is `at_once` of a network; returns NumPy arrays."""
    found = [jax.device_get(run(variables, batch)) for batch in _batches(images, PREDICTION_BATCH_SIZE)]
    logits, confidence, rates = jax.tree.map(lambda *x: np.concatenate(x)[: len(images)], *found)
    return Prediction(logits, confidence, np.full(len(images), num_steps, np.int32), rates, class_names)


def _batches(images: NDArray, batch_size: int) -> Iterator[NDArray]:
    """Batches of the same size, at least one; the last is filled up with repetitions, or with zeros without images."""
    for start in range(0, max(len(images), 1), batch_size):
        yield np.resize(images[start : start + batch_size], (batch_size, *images.shape[1:]))


def steps_of_call(network: Network, num_steps: int) -> int:
    """How many of T = `num_steps` steps one call of `from_state` computes: a divisor of T that `network` has anyway."""
    return math.gcd(num_steps, network.num_steps or 1) if network.coding == "direct" else num_steps


def from_state(network: Network, normalisation: Normalisation) -> Callable[[Variables, NDArray, Any], Any]:
    """The compiled function `(variables, images, state) -> ((logits [B, num_steps, K], features), state)`."""

    @functools.partial(jax.jit, compiler_options=compile_options())
    def run(variables: Variables, images: Array, state: Variables | None) -> Any:
        return network.apply_from(variables, normalisation(images), state)

    return run


def logits_by_step(
    run: Callable[[Variables, NDArray, Any], Any], variables: Variables, images: NDArray, num_calls: int
) -> NDArray:
    """`Trained.logits_by_step` for images `[N, H, W, C]` as from `as_pixels`; `run` is `from_state` of a network."""
    found = []
    for batch in _batches(images, EVALUATION_BATCH_SIZE):
        state, parts = None, []
        for _ in range(num_calls):
            (logits, _), state = run(variables, batch, state)
            parts.append(np.asarray(logits))
        found.append(np.concatenate(parts, axis=1))
    return np.concatenate(found)[: len(images)]


def accuracy_by_step(logits: NDArray, labels: NDArray) -> NDArray:
    """The accuracy `[T]` of the mean of the logits `[N, T, K]` over the first 1, 2, ..., T steps; labels are `[N]`.

    Raises `InputError` for arrays of other shapes, and for labels out of range.
    """
    labels = _checked(logits, labels)
    return (np.cumsum(logits, axis=1).argmax(-1) == labels[:, None]).mean(axis=0)


def _checked(logits: NDArray, labels: NDArray) -> NDArray[np.int32]:
    """The labels, checked against the logits."""
    if logits.ndim != 3 or 0 in logits.shape:
        raise InputError(f"logits have shape {logits.shape}; give [N, T, K], N >= 1")
    return check_labels("labels", labels, len(logits), logits.shape[-1])


def accuracy_with_exit(logits: NDArray, labels: NDArray, threshold: float | None) -> tuple[float, float]:
    """The accuracy and the mean number of steps with early exit at `threshold`, None for none; shapes as above."""
    labels = _checked(logits, labels)
    sums = np.cumsum(logits, axis=1)
    confidence = np.asarray(jax.nn.softmax(sums / np.arange(1, logits.shape[1] + 1)[:, None]).max(-1))
    done = confidence >= (np.inf if threshold is None else threshold)
    done[:, -1] = True
    last = done.argmax(axis=1)
    answers = sums[np.arange(len(labels)), last].argmax(-1)
    return float((answers == labels).mean()), float((last + 1).mean())


def choose_threshold(logits: NDArray, labels: NDArray, tolerance: float) -> tuple[float | None, float]:
    """The lowest threshold in 0, 0.001, ..., 1 whose early exit loses at most `tolerance` of the accuracy at T steps.

    `logits` are `[N, T, K]` and `labels` `[N]`, from images outside the test set; `tolerance` is in [0, 1]. Returns
    the threshold, None if all of them lose more, and its mean number of steps on these images. Raises `InputError` for
    arrays of other shapes, labels out of range, or a tolerance out of range.
    """
    if not 0 <= tolerance <= 1:
        raise InputError(f"tolerance={tolerance!r} must be in [0, 1], such as 0.01 for one point")
    full = accuracy_by_step(logits, labels)[-1]
    for threshold in np.linspace(0, 1, 1001):
        accuracy, steps = accuracy_with_exit(logits, labels, threshold)
        if full - accuracy <= tolerance + 1e-9:  # for rounding; less than one image
            return float(threshold), steps
    return None, float(logits.shape[1])
