"""Batches as pure functions of (seed, step), so that a resumed run sees exactly what it would have seen.

A global batch of B rows is divided among the processes: each makes its own rows only, `process_rows`. Neither the rows
nor their order depend on the number of processes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.errors import InputError
from snnkd_jax.parallel.mesh import process_rows

Batch = dict[str, NDArray]
"""`images`, uint8 or float32 in [0, 1], `[B, H, W, C]` or `[B, T, H, W, C]`, and `labels`, int32 `[B]`; evaluation
batches also have `mask`, float32 `[B]`."""

EvalBatches = Callable[[], Iterable[Batch]]
"""Starts a pass over all examples: this process's rows of each batch, the same number of batches in every process."""


class Source(Protocol):
    """Training batches by step; each epoch is a permutation, and its incomplete last batch is dropped."""

    @property
    def batch_size(self) -> int:
        """Rows of a global batch, those of all processes together."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        ...

    def __call__(self, step: int) -> Batch:
        """This process's rows of the global batch of training step `step`: a pure function of the step."""
        ...


@dataclasses.dataclass(frozen=True)
class MemorySource:
    """Examples in memory as a `Source`; raises `InputError` for a batch that is larger than all of them.

    With `alternate_flip` a random half of the images is mirrored left to right in the first epoch, the other half in
    the second, and so on in turn (Jordan 2024, arXiv 2404.00498).
    """

    examples: Batch
    batch_size: int
    seed: int
    alternate_flip: bool = False

    def __post_init__(self):
        n = len(self.examples["labels"])
        if not 1 <= self.batch_size <= n:
            raise InputError(f"batch_size={self.batch_size!r} must be in 1 to {n}, the number of training images")

    @property
    def steps_per_epoch(self) -> int:  # noqa: D102 said by `Source`
        return len(self.examples["labels"]) // self.batch_size

    def __call__(self, step: int) -> Batch:  # noqa: D102 said by `Source`
        epoch, i = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, len(self.examples["labels"]))
        index = order[i * self.batch_size : (i + 1) * self.batch_size][process_rows(self.batch_size)]
        batch = take(self.examples, index)
        if self.alternate_flip:
            mirrored = first_mirrored(self.seed, len(self.examples["labels"]))[index] ^ bool(epoch % 2)
            batch["images"][mirrored] = batch["images"][mirrored][..., ::-1, :]
        return batch


@functools.lru_cache(maxsize=2)
def first_mirrored(seed: int, n: int) -> NDArray:
    """Which of n training examples `alternate_flip` mirrors in the first epoch, bool `[n]`."""
    return np.random.default_rng([seed, 2]).random(n) < 0.5


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n: int) -> NDArray:
    """The order of n training examples in an epoch, int64 `[n]`."""
    return np.random.default_rng([seed, 1, epoch]).permutation(n)


def eval_batches(examples: Batch, batch_size: int) -> Iterator[Batch]:
    """All examples in order, this process's rows of each batch; the last one is padded with copies of `mask` 0."""
    n = len(examples["labels"])
    for start in range(0, n, batch_size):
        index = np.arange(start, start + batch_size)[process_rows(batch_size)]
        mask = (index < n).astype(np.float32)
        yield take(examples, np.where(index < n, index, start)) | {"mask": mask}


def split_indices(n: int, fraction: float, seed: int) -> tuple[NDArray, NDArray]:
    """A random split of n examples: ascending indices `(training, validation)`, none of the latter for `fraction` 0.

    Raises `InputError` for a fraction outside [0, 1), or one that leaves a part empty.
    """
    held_out = round(n * fraction) if 0 <= fraction < 1 else 0
    if not 0 < held_out < n and fraction != 0:
        advice = "use a value like 0.1, or 0 to train on all of them"
        raise InputError(f"validation_fraction={fraction!r} holds out {held_out} of {n} examples; {advice}")
    order = np.random.default_rng([seed, 0]).permutation(n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def take(examples: Batch, index: NDArray) -> Batch:
    """The examples of these indices."""
    return {name: x[index] for name, x in examples.items()}
