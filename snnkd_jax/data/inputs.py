"""The data of a training, wherever they are stored."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from snnkd_jax.data.batches import Batch, EvalBatches, Source
from snnkd_jax.data.labels import check_labels
from snnkd_jax.data.pixels import check_pixels
from snnkd_jax.errors import InputError
from snnkd_jax.parallel.mesh import process_rows


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Batches of the three splits of a data set; `validation` is None if no example is held out."""

    training: Source
    validation: EvalBatches | None
    test: EvalBatches

    def training_sample(self, least: int = 1000) -> Iterator[Batch]:
        """The batches of at least `least` training examples of the first epoch, or of all, as of an evaluation."""
        training = self.training
        for step in range(min(training.steps_per_epoch, -(-least // training.batch_size))):
            batch = training(step)
            yield batch | {"mask": np.ones(len(batch["labels"]), np.float32)}


class Data(Protocol):
    """A data set that can be trained on: `Dataset`, in memory, or `DiskDataset`."""

    @property
    def name(self) -> str:
        """Name in tables and messages."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`[H, W, C]` of every image or frame."""
        ...

    @property
    def frames(self) -> int | None:
        """T of sequences, one frame per time step; None for images."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """Name, classes, split and test set, as JSON values."""
        ...

    normalisation: Any
    """`Normalisation` of the pixels."""
    identity: Any
    """Bytes that are equal for equal copies of the data set, to compare those of processes and of runs."""

    def inputs(self, batch_size: int, seed: int) -> Inputs:
        """The batches of a training."""
        ...


def open_inputs(data: Data, batch_size: int, seed: int) -> Inputs:
    """The batches of a training, of which every one is checked when it is read, whoever made it.

    Raises `InputError` for a batch without images or labels, or with others than those of `data`: the first wrong row
    is named.
    """
    inputs = data.inputs(batch_size, seed)
    return Inputs(
        _CheckedSource(data, inputs.training),
        None if inputs.validation is None else _checked_pass(data, "validation", inputs.validation),
        _checked_pass(data, "test", inputs.test),
    )


@dataclasses.dataclass(frozen=True)
class _CheckedSource:
    data: Data
    source: Source

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    @property
    def steps_per_epoch(self) -> int:
        return self.source.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        rows = process_rows(self.batch_size)
        where = f"training batch of step {step}"
        batch = _check_batch(self.data, where, self.source(step))
        if (found := len(batch["labels"])) != rows.stop - rows.start:
            raise InputError(f"{self.data.name}, {where}: {found} rows; give {rows.stop - rows.start}, this process's")
        return batch


def _checked_pass(data: Data, split: str, batches: EvalBatches) -> EvalBatches:
    def checked() -> Iterator[Batch]:
        n = -1
        for n, batch in enumerate(batches()):
            where = f"{split} batch {n}"
            batch = _check_batch(data, where, batch)
            if np.asarray(batch.get("mask")).shape != batch["labels"].shape:
                raise InputError(f"{data.name}, {where}: give mask, 1 per image and 0 per row of padding")
            yield batch
        if n < 0:
            raise InputError(f"{data.name} has no {split} batch; give one or more in every pass")

    return checked


def _check_batch(data: Data, where: str, batch: Any) -> Batch:
    """The batch with images and labels as inside the library."""
    if not isinstance(batch, dict) or not batch.keys() >= {"images", "labels"}:
        found = ", ".join(map(str, batch)) if isinstance(batch, dict) else type(batch).__name__
        raise InputError(f"{data.name}, {where}: found {found}; give a dictionary with images and labels")
    images = np.asarray(check_pixels(f"{data.name}, {where}: images", batch["images"]))
    shape = data.image_shape if data.frames is None else (data.frames, *data.image_shape)
    if images.shape[1:] != tuple(shape):
        wanted = ", ".join(map(str, ("B", *shape)))
        raise InputError(f"{data.name}, {where}: images have shape {images.shape}; give [{wanted}], as data says")
    labels = check_labels(f"{data.name}, {where}: labels", batch["labels"], len(images), len(data.class_names))
    return {**batch, "images": images, "labels": labels}
