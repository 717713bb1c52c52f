"""A data set in memory: arrays of images and labels.

The largest of the published ones takes 180 MB as bytes, so indexing an array replaces a loader. Data sets that do not
fit are read from disk, by `snnkd_jax.data.on_disk.DiskDataset`; both make the `Inputs` of a training.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data.batches import Batch, MemorySource, eval_batches, split_indices, take
from snnkd_jax.data.class_names import check_class_names
from snnkd_jax.data.inputs import Inputs
from snnkd_jax.data.labels import check_labels
from snnkd_jax.data.normalisation import Normalisation, event_counts, pixel_statistics
from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set of labelled images, or of sequences of images, one frame per time step.

    Images are uint8, or float32 in [0, 1], `[N, H, W, C]` or `[N, T, H, W, C]`; labels are int32 `[N]` with values 0 to
    `num_classes - 1`; others raise `InputError`. A part of the training set, `validation_fraction`, is held out for
    validation; 0: none. `alternate_flip` is that of `MemorySource`. With `counts`, bytes are numbers of events, which
    networks read as they are; `split_digest` identifies the split of a set that has none of its own. `paired` has the
    images that belong to these, with the same labels in the same order: a teacher sees them instead, without
    augmentation (cross-modal distillation).
    """

    name: str
    train_images: NDArray
    train_labels: NDArray[np.int32]
    test_images: NDArray
    test_labels: NDArray[np.int32]
    class_names: tuple[str, ...]
    validation_fraction: float = 0.1
    alternate_flip: bool = False
    counts: bool = False
    split_digest: str | None = None
    paired: "Dataset | None" = None

    def __post_init__(self):
        object.__setattr__(self, "class_names", check_class_names("class_names", self.class_names))
        for part, images in (("train", self.train_images), ("test", self.test_images)):
            labels = check_labels(
                f"{part} labels of {self.name}", getattr(self, f"{part}_labels"), len(images), len(self.class_names)
            )
            object.__setattr__(self, f"{part}_labels", labels)
            if self.paired is not None and not np.array_equal(labels, getattr(self.paired, f"{part}_labels")):
                raise InputError(f"paired: {self.paired.name} has other {part} labels than {self.name}; order it alike")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image or frame."""
        height, width, channels = self.train_images.shape[-3:]
        return height, width, channels

    @property
    def frames(self) -> int | None:
        """T of sequences, None for images."""
        return self.train_images.shape[1] if self.train_images.ndim == 5 else None

    @functools.cached_property
    def normalisation(self) -> Normalisation:
        """Statistics of the whole training set, so that they do not depend on the split; none of `counts`."""
        if self.counts:
            return event_counts(self.image_shape[-1])
        return pixel_statistics(self.train_images)

    @functools.cached_property
    def identity(self) -> bytes:
        """SHA-256 of the training images and of their labels, and that of `paired`."""
        own = b"".join(hashlib.sha256(x.tobytes()).digest() for x in (self.train_images, self.train_labels))
        return own if self.paired is None else own + self.paired.identity

    @property
    def metadata(self) -> dict[str, Any]:
        """Name, classes, split and test set, as JSON values."""
        return {
            "dataset": self.name,
            "class_names": list(self.class_names),
            "images": [str(self.train_images.dtype), *self.train_images.shape],
            "validation_fraction": self.validation_fraction,
            "test_set": sha256(self.test_images.tobytes() + self.test_labels.tobytes()),
            **({"alternate_flip": True} if self.alternate_flip else {}),
            **({} if self.split_digest is None else {"split": self.split_digest}),
            **({} if self.paired is None else {"paired": self.paired.name}),
        }

    @property
    def test(self) -> Batch:
        """The test set."""
        return {"images": self.test_images, "labels": self.test_labels}

    def split(self, seed: int) -> tuple[Batch, Batch]:
        """`(training, validation)`, the same for every run of one seed; raises `InputError` as `split_indices` does."""
        train = {"images": self.train_images, "labels": self.train_labels}
        training, validation = split_indices(len(self.train_labels), self.validation_fraction, seed)
        paired = {} if self.paired is None else {"paired": self.paired.train_images}
        return take(train | paired, training), take(train, validation)

    def inputs(self, batch_size: int, seed: int) -> Inputs:
        """The batches of a training; raises `InputError` for a batch that is larger than the training set."""
        training, validation = self.split(seed)
        return Inputs(
            MemorySource(training, batch_size, seed, self.alternate_flip),
            functools.partial(eval_batches, validation, batch_size) if len(validation["labels"]) else None,
            functools.partial(eval_batches, self.test, batch_size),
        )
