"""Batches as pure functions of (seed, step), so that a resumed run sees exactly what it would have seen."""

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data import Dataset
from snnkd_jax.errors import InputError

Batch = dict[str, NDArray]
"""`images` uint8 `[B, H, W, C]` and `labels` int32 `[B]`; evaluation batches have `mask` float32 `[B]` as well."""


def split_validation(dataset: Dataset, fraction: float, seed: int) -> tuple[Batch, Batch]:
    """Holds a random part of the training set out: `(training, validation)`, in the order of the set.

    Raises `InputError` unless both parts have examples.
    """
    n = len(dataset.train_labels)
    held_out = round(n * fraction) if 0 < fraction < 1 else 0
    if not 0 < held_out < n:
        raise InputError(f"validation_fraction={fraction!r} leaves {held_out} of {n} examples; use a value like 0.1")
    order = np.random.default_rng([seed, 0]).permutation(n)
    validation, training = np.sort(order[:held_out]), np.sort(order[held_out:])
    return _take(dataset, training), _take(dataset, validation)


def _take(dataset: Dataset, index: NDArray) -> Batch:
    return {"images": dataset.train_images[index], "labels": dataset.train_labels[index]}


def train_batch(data: Batch, batch_size: int, seed: int, step: int) -> Batch:
    """The batch of training step `step`: the epochs are permutations, their incomplete last batch is left out."""
    steps_per_epoch = len(data["labels"]) // batch_size
    epoch, i = divmod(step, steps_per_epoch)
    index = _epoch_order(seed, epoch, len(data["labels"]))[i * batch_size : (i + 1) * batch_size]
    return {name: x[index] for name, x in data.items()}


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, n: int) -> NDArray:
    return np.random.default_rng([seed, 1, epoch]).permutation(n)


def eval_batches(data: Batch, batch_size: int) -> Iterator[Batch]:
    """All examples in order; the last batch is filled up with copies of its first one, of `mask` 0."""
    n = len(data["labels"])
    for start in range(0, n, batch_size):
        index = np.arange(start, start + batch_size)
        mask = (index < n).astype(np.float32)
        index = np.where(index < n, index, start)
        yield {name: x[index] for name, x in data.items()} | {"mask": mask}
