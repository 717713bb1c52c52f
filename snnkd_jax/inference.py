"""Inference at any number of time steps, and inference that stops when it is sure.

A spiking network's answer after t steps is the mean of its logits so far. An image whose largest class probability
reaches a threshold by then leaves the batch; the others go on from their membrane potentials, in a smaller batch.

Source: Li et al., "SEENN", NeurIPS 2023, arXiv 2304.01230 (the criterion).
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.backend import compile_options
from snnkd_jax.batches import eval_batches
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.train import Normalisation

BATCH_SIZE = 100  # of evaluation on the test sets, which are multiples of it


@dataclasses.dataclass(frozen=True)
class EarlyExit:
    """Classifies in at most `max_steps` time steps.

    `network` makes one step at a call (`num_steps=1`); `threshold` in [0, 1] is the probability of the likeliest class
    that ends the computation: 0 stops after the first step, above 1 never. Raises `InputError` for other values.
    """

    network: Network
    max_steps: int
    threshold: float

    def __post_init__(self):
        if self.network.num_steps != 1:
            raise InputError(f"network makes {self.network.num_steps} steps at a time; build it with num_steps=1")
        if self.max_steps < 1:
            raise InputError(f"max_steps={self.max_steps!r} must be at least 1")
        if not self.threshold >= 0:
            raise InputError(f"threshold={self.threshold!r} must be a probability, or above 1 for no early exit")

    def __call__(self, variables: Variables, images: Array) -> tuple[NDArray, NDArray]:
        """Logits float32 `[B, K]`, means over the steps that were made, and their number int32 `[B]`.

        Args:
            variables: of the network, whatever number of steps it was trained with.
            images: normalised, static `[B, H, W, C]`, or one frame a step, `[B, max_steps, H, W, C]`.
        """
        size = images.shape[0]
        frames = images[:, None] if images.ndim == 4 else images
        if frames.shape[1] not in (1, self.max_steps):
            raise InputError(f"images have {frames.shape[1]} frames, but max_steps={self.max_steps}")
        sums, steps = None, np.zeros(size, np.int32)
        left = np.arange(size)  # indices of the images that are not classified yet
        rows, potentials = left, None  # rows[i] is the image in row i of the running batch, which may be filled up
        total: Any = 0.0
        for t in range(self.max_steps):
            frame = frames[rows, min(t, frames.shape[1] - 1)]
            total, confidence, potentials = self._step(variables, frame, potentials, total, np.float32(t + 1))
            confidence = np.asarray(confidence)[: len(left)]
            done = (confidence >= self.threshold) if t + 1 < self.max_steps else np.ones(len(left), bool)
            sums = np.zeros((size, total.shape[-1]), np.float32) if sums is None else sums
            sums[left[done]] = np.asarray(total)[: len(left)][done]
            steps[left[done]] = t + 1
            kept = np.flatnonzero(~done)
            if not len(kept):
                break
            if len(kept) == len(rows):
                continue
            left = left[kept]
            kept = np.resize(kept, _batch_size(len(kept), len(rows)))  # filled up with images that are computed twice
            rows = rows[kept]
            total, potentials = _take((total, potentials), kept)
        assert sums is not None
        return sums / steps[:, None], steps

    @functools.cached_property
    def _step(self):
        def step(variables, frame, potentials, total, steps):
            (logits, _), potentials = self.network.apply_from(variables, frame, potentials)
            total = total + logits[:, 0]
            return total, jax.nn.softmax(total / steps).max(-1), potentials

        return jax.jit(step, compiler_options=compile_options())


def logits_by_step(
    network: Network, variables: Variables, normalisation: Normalisation, images: NDArray, num_steps: int
) -> NDArray:
    """Logits float32 `[N, num_steps, K]` of each time step, of any number of images and of steps.

    Args:
        network: spiking; its `num_steps` is how many steps are computed at a time.
        variables: of the network, whatever number of steps it was trained with.
        normalisation: of pixels.
        images: bytes `[N, H, W, C]`.
        num_steps: a multiple of the network's.

    Raises:
        InputError: for an ordinary network, or a number of steps that is not a multiple.
    """
    if network.num_steps is None or num_steps < 1 or num_steps % network.num_steps:
        raise InputError(f"num_steps={num_steps!r} must be a multiple of the spiking network's, {network.num_steps}")
    run = jax.jit(
        lambda variables, images, potentials: network.apply_from(variables, normalisation(images), potentials),
        compiler_options=compile_options(),
    )
    found = []
    for batch in eval_batches({"images": images, "labels": np.zeros(len(images), np.int32)}, BATCH_SIZE):
        potentials, parts = None, []
        for _ in range(num_steps // network.num_steps):
            (logits, _), potentials = run(variables, batch["images"], potentials)
            parts.append(np.asarray(logits))
        found.append(np.concatenate(parts, axis=1)[batch["mask"] == 1])
    return np.concatenate(found)


def accuracy_by_step(logits: NDArray, labels: NDArray) -> NDArray:
    """The accuracy `[T]` by the mean of the logits `[N, T, K]` of the first 1, 2, ..., T steps; labels `[N]`."""
    return (np.cumsum(logits, axis=1).argmax(-1) == labels[:, None]).mean(axis=0)


def exit_steps(logits: NDArray, threshold: float) -> NDArray:
    """The number of steps `[N]` after which the mean of the logits `[N, T, K]` so far is sure, at most T."""
    done = _confidence(logits) >= threshold
    done[:, -1] = True
    return done.argmax(axis=1) + 1


def _confidence(logits: NDArray) -> NDArray:
    """The probability of the likeliest class by the first 1, 2, ..., T steps, `[N, T]`."""
    steps = np.arange(1, logits.shape[1] + 1)
    return np.asarray(jax.nn.softmax(np.cumsum(logits, axis=1) / steps[:, None]).max(-1))


def accuracy_with_exit(logits: NDArray, labels: NDArray, threshold: float) -> tuple[float, float]:
    """The accuracy, and the mean number of steps, with an early exit at `threshold`; shapes as above."""
    steps = exit_steps(logits, threshold)
    answers = np.cumsum(logits, axis=1)[np.arange(len(labels)), steps - 1].argmax(-1)
    return float((answers == labels).mean()), float(steps.mean())


def choose_threshold(logits: NDArray, labels: NDArray, tolerance: float) -> tuple[float, float]:
    """The lowest threshold that costs no more than `tolerance` of the accuracy of all steps.

    Args:
        logits: of each step, `[N, T, K]`, of images that are not the test set's.
        labels: `[N]`.
        tolerance: accuracy that may be lost, in [0, 1].

    Returns:
        The threshold, and the mean number of steps that it takes on these images.
    """
    least = accuracy_by_step(logits, labels)[-1] - tolerance
    for threshold in np.linspace(0, 1, 1001):
        accuracy, steps = accuracy_with_exit(logits, labels, threshold)
        if accuracy >= least:
            return float(threshold), steps
    return 1.001, float(logits.shape[1])


@jax.jit
def _take(tree: Any, rows: Array) -> Any:
    return jax.tree.map(lambda x: x[rows], tree)


def _batch_size(left: int, full: int) -> int:
    """The smallest of full, full / 2, full / 4, ... that holds what is left, so that few programs are compiled."""
    while full % 2 == 0 and full // 2 >= left:
        full //= 2
    return full
