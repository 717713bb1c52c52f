"""Batches as pure functions of (seed, step), so that a resumed run sees exactly what it would have seen.

A global batch of B rows is shared out to the processes: each makes its own rows only, `process_rows`. Which rows there
are, and in which order, does not depend on the number of processes.
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
batches have `mask`, float32 `[B]`, as well."""

EvalBatches = Callable[[], Iterable[Batch]]
"""Begins a pass over all examples: this process's rows of each batch, the same number of batches in every process."""


class Source(Protocol):
    """Where training batches come from."""

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
class InMemory:
    """Examples in memory as a `Source`: the epochs are permutations, their incomplete last batch is left out.

    Raises `InputError` for a batch that is larger than the examples.
    """

    examples: Batch
    batch_size: int
    seed: int

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
        return _take(self.examples, index)


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n: int) -> NDArray:
    """The order of n training examples in an epoch, int64 `[n]`."""
    return np.random.default_rng([seed, 1, epoch]).permutation(n)


def eval_batches(examples: Batch, batch_size: int) -> Iterator[Batch]:
    """All examples in order, this process's rows of each batch; the last one is filled up with copies of `mask` 0."""
    n = len(examples["labels"])
    for start in range(0, n, batch_size):
        index = np.arange(start, start + batch_size)[process_rows(batch_size)]
        mask = (index < n).astype(np.float32)
        yield _take(examples, np.where(index < n, index, start)) | {"mask": mask}


def split_validation(examples: Batch, fraction: float, seed: int) -> tuple[Batch, Batch]:
    """Holds a random part of the examples out: `(training, validation)`, as `split_indices`."""
    training, validation = split_indices(len(examples["labels"]), fraction, seed)
    return _take(examples, training), _take(examples, validation)


def split_indices(n: int, fraction: float, seed: int) -> tuple[NDArray, NDArray]:
    """A random part of n examples is held out: the indices of `(training, validation)`, each ascending.

    Raises `InputError` unless both parts have examples.
    """
    held_out = round(n * fraction) if 0 < fraction < 1 else 0
    if not 0 < held_out < n:
        raise InputError(f"validation_fraction={fraction!r} leaves {held_out} of {n} examples; use a value like 0.1")
    order = np.random.default_rng([seed, 0]).permutation(n)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _take(examples: Batch, index: NDArray) -> Batch:
    return {name: x[index] for name, x in examples.items()}
