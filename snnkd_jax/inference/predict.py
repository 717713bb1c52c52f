"""Inference at any number of time steps, and with an early exit.

A spiking network's answer after t steps is the mean of its logits so far. An image whose largest class probability
reaches the confidence threshold leaves the batch; the others go on from the states of their neurons, in a smaller batch
as soon as a half is enough for them.

Source: Li et al., "SEENN", NeurIPS 2023, arXiv 2304.01230 (the criterion).
"""

import functools
import numbers
from collections.abc import Iterator

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.inference.stepper import Prediction, Stepper
from snnkd_jax.models import Network, Variables
from snnkd_jax.parallel.compiler import compile_options

BATCH_SIZE = 100  # of evaluation on the test sets, which are multiples of it
TOGETHER = 128  # images that `classify` computes at a time


def classify(
    stepper: Stepper, images: NDArray, num_steps: int | None = None, threshold: float | None = None
) -> Prediction:
    """What the stepper's network says of any number of images, in arrays of NumPy.

    Images are `[B, H, W, C]` as from `as_pixels`, or one frame per step, `[B, T, H, W, C]`. The other arguments and the
    errors are those of `Trained.predict`, but that without `num_steps` an image is seen for one step.
    """
    frames = images if images.ndim == 5 else images[:, None]
    if stepper.network.num_steps is None and not (num_steps is None and threshold is None):
        raise InputError(
            f"num_steps={num_steps!r}, threshold={threshold!r}: an ordinary network has no time steps; leave them out"
        )
    steps: int = frames.shape[1] if num_steps is None else num_steps
    check_count("num_steps", steps)
    if images.ndim == 5 and steps != frames.shape[1]:
        raise InputError(f"num_steps={num_steps!r}, but images have {frames.shape[1]} frames; leave num_steps out")
    if threshold is not None and not (isinstance(threshold, numbers.Real) and 0 <= threshold <= 1):
        raise InputError(f"threshold={threshold!r} must be a probability in [0, 1], or None for no early exit")
    starts = range(0, max(len(frames), 1), TOGETHER)
    parts = [_classify(stepper, frames[i : i + TOGETHER], steps, threshold) for i in starts]
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def at_once(
    network: Network, variables: Variables, normalisation: Normalisation, class_names: tuple[str, ...], images: NDArray
) -> Prediction:
    """As `classify`, of a spiking network that makes all of its `num_steps` in one call."""

    @functools.partial(jax.jit, compiler_options=compile_options())
    def run(variables: Variables, images: Array) -> tuple[Array, Array, dict[str, Array]]:
        logits, features = network.apply(variables, normalisation(images))
        mean = logits.mean(axis=1)
        return mean, jax.nn.softmax(mean).max(-1), features["firing_rates"]

    found = []
    for batch, real in _batches(images, TOGETHER):
        found.append(jax.tree.map(lambda x, real=real: x[real], jax.device_get(run(variables, batch))))
    if not found:
        found = [jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(run, variables, images))]
    logits, confidence, rates = jax.tree.map(lambda *x: np.concatenate(x), *found)
    steps = np.full(len(images), network.num_steps, np.int32)
    return Prediction(logits, confidence, steps, rates, class_names)


def _batches(images: NDArray, batch_size: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Batches of one size, the last filled up, and which of their images are real."""
    for start in range(0, len(images), batch_size):
        index = np.arange(start, start + batch_size)
        yield images[np.minimum(index, len(images) - 1)], index < len(images)


def _classify(stepper: Stepper, frames: NDArray, num_steps: int, threshold: float | None) -> Prediction:
    """`classify`, of images that are computed together."""
    left = np.arange(len(frames))  # of the images that are not classified yet
    state, found = stepper.start(len(frames)), []
    for t in range(num_steps):
        state, prediction = stepper(state, frames[left, min(t, frames.shape[1] - 1)])
        last = t + 1 == num_steps
        if threshold is None and not last:
            continue
        prediction = jax.device_get(prediction)
        done = np.ones(len(left), bool) if last else prediction.confidence >= threshold
        found.append((left[done], jax.tree.map(lambda x, done=done: x[done], prediction)))
        left = left[~done]
        if not len(left):
            break
        if done.any():
            state = state.only(np.flatnonzero(~done))
    order = np.argsort(np.concatenate([index for index, _ in found]))
    return jax.tree.map(lambda *x: np.concatenate(x)[order], *[prediction for _, prediction in found])


def logits_by_step(
    network: Network, variables: Variables, normalisation: Normalisation, images: NDArray, num_steps: int
) -> NDArray:
    """Logits float32 `[N, num_steps, K]` of each time step, of any number of images, at least one, and of steps.

    The network computes its own `num_steps` at a time. Images are `[N, H, W, C]` as from `as_pixels`. Raises
    `InputError` for an ANN, a number of steps that is no multiple of the network's, or no images.
    """
    if not len(images):
        raise InputError(f"images have shape {images.shape}; at least one is needed")
    if network.num_steps is None or num_steps < 1 or num_steps % network.num_steps:
        raise InputError(f"num_steps={num_steps!r} must be a multiple of the spiking network's, {network.num_steps}")
    run = jax.jit(
        lambda variables, images, state: network.apply_from(variables, normalisation(images), state),
        compiler_options=compile_options(),
    )
    found = []
    for batch, real in _batches(images, BATCH_SIZE):
        state, parts = None, []
        for _ in range(num_steps // network.num_steps):
            (logits, _), state = run(variables, batch, state)
            parts.append(np.asarray(logits))
        found.append(np.concatenate(parts, axis=1)[real])
    return np.concatenate(found)


def accuracy_by_step(logits: NDArray, labels: NDArray) -> NDArray:
    """The accuracy `[T]` by the mean of the logits `[N, T, K]` of the first 1, 2, ..., T steps; labels `[N]`.

    Raises `InputError` for arrays of other shapes.
    """
    _check_shapes(logits, labels)
    return (np.cumsum(logits, axis=1).argmax(-1) == labels[:, None]).mean(axis=0)


def _check_shapes(logits: NDArray, labels: NDArray) -> None:
    if logits.ndim != 3 or labels.shape != logits.shape[:1] or not len(labels):
        raise InputError(f"logits have shape {logits.shape}, labels {labels.shape}; give [N, T, K] and [N], N >= 1")


def exit_steps(logits: NDArray, threshold: float | None) -> NDArray:
    """The number of steps `[N]` after which the mean of the logits `[N, T, K]` is sure; T without a threshold."""
    steps = np.arange(1, logits.shape[1] + 1)
    confidence = np.asarray(jax.nn.softmax(np.cumsum(logits, axis=1) / steps[:, None]).max(-1))
    done = confidence >= (np.inf if threshold is None else threshold)
    done[:, -1] = True
    return done.argmax(axis=1) + 1


def accuracy_with_exit(logits: NDArray, labels: NDArray, threshold: float | None) -> tuple[float, float]:
    """The accuracy, and the mean number of steps, with an early exit at `threshold`; shapes and errors as above."""
    _check_shapes(logits, labels)
    steps = exit_steps(logits, threshold)
    answers = np.cumsum(logits, axis=1)[np.arange(len(labels)), steps - 1].argmax(-1)
    return float((answers == labels).mean()), float(steps.mean())


def choose_threshold(logits: NDArray, labels: NDArray, tolerance: float) -> tuple[float | None, float]:
    """The lowest threshold of 0, 0.001, ..., 1 that costs no more than `tolerance` of the accuracy of all steps.

    Args:
        logits: of each step, `[N, T, K]`, of images that are not the test set's.
        labels: `[N]`.
        tolerance: accuracy that may be lost, in [0, 1].

    Returns:
        The threshold, None if each of them costs more, and the mean number of steps that it takes on these images.

    Raises:
        InputError: for arrays of other shapes, or another tolerance.
    """
    if not 0 <= tolerance <= 1:
        raise InputError(f"tolerance={tolerance!r} must be in [0, 1], such as 0.01 for one point")
    full = accuracy_by_step(logits, labels)[-1]
    for threshold in np.linspace(0, 1, 1001):
        accuracy, steps = accuracy_with_exit(logits, labels, threshold)
        if full - accuracy <= tolerance + 1e-9:  # accuracies are rounded; one image counts for more
            return float(threshold), steps
    return None, float(logits.shape[1])
