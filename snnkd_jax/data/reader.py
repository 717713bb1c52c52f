"""Batches of images from disk, read and decoded in the background, two batches ahead: `Source` and `EvalBatches`.

A batch is a function of the step, as in `snnkd_jax.data.batches`: the same split, the same order of an epoch, and the
random crop of an image is a function of (seed, epoch, image), whichever process reads it. So the iterator has no state
that a checkpoint would have to hold beside the step: what Grain would store is the index of the next row, and that is
`step` times this process's rows.

Grain's threads do the work: Pillow decodes and resizes without Python's lock, and a process that is killed leaves no
thread behind, where Grain's worker processes (0.2.18) live on and keep their shared memory.
"""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data.batches import Batch, epoch_order
from snnkd_jax.data.crops import centre_crop, random_crop
from snnkd_jax.data.examples import Examples
from snnkd_jax.parallel.mesh import process_rows


@dataclasses.dataclass(eq=False)
class DiskSource:
    """Random crops of the examples in `index` as a `Source`; a step that is not the next one restarts the reading."""

    examples: Examples
    index: NDArray
    image_size: int
    flip: bool
    batch_size: int
    seed: int
    threads: int
    _next_step: int = dataclasses.field(default=-1, init=False)
    _batches: grain.DatasetIterator | None = dataclasses.field(default=None, init=False)

    @property
    def steps_per_epoch(self) -> int:  # noqa: D102 said by `Source`
        return len(self.index) // self.batch_size

    def __call__(self, step: int) -> Batch:  # noqa: D102 said by `Source`
        if self._batches is None or step != self._next_step:
            self._batches = _read_ahead(self._row, step, sys.maxsize, self.batch_size, self.threads)
        self._next_step = step + 1
        return next(self._batches)

    def _row(self, step: int, row: int) -> dict[str, Any]:
        epoch, i = divmod(step, self.steps_per_epoch)
        example = int(self.index[epoch_order(self.seed, epoch, len(self.index))[i * self.batch_size + row]])
        rng = np.random.default_rng([self.seed, 2, epoch, example])
        image, label = self.examples[example]
        return {"images": random_crop(image, self.image_size, rng, self.flip), "labels": label}


def centre_crops(examples: Examples, index: NDArray, image_size: int, batch_size: int, threads: int) -> Iterator[Batch]:
    """Centre crops of the examples in `index`, in order; this process's rows, the last batch padded with `mask` 0."""

    def row(batch: int, row: int) -> dict[str, Any]:
        place = batch * batch_size + row
        image, label = examples[int(index[min(place, len(index) - 1)])]
        return {"images": centre_crop(image, image_size), "labels": label, "mask": np.float32(place < len(index))}

    with contextlib.closing(_read_ahead(row, 0, math.ceil(len(index) / batch_size), batch_size, threads)) as batches:
        yield from batches


def _read_ahead(
    row: Callable[[int, int], dict[str, Any]], start: int, stop: int, batch_size: int, threads: int
) -> grain.DatasetIterator:
    """Batches `start` to `stop` of `batch_size` rows, `row(batch, i)` each: this process's rows of them."""
    rows = process_rows(batch_size)
    share = rows.stop - rows.start

    def nth(n: int) -> dict[str, Any]:
        batch, i = divmod(n, share)
        return row(batch, rows.start + i)

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(2 * share, threads))
    one_by_one = grain.MapDataset.range(start * share, min(stop * share, sys.maxsize)).map(nth)
    return iter(one_by_one.to_iter_dataset(options).batch(share))
