"""The data section of a configuration."""

import dataclasses
from typing import TYPE_CHECKING, Any

from snnkd_jax.errors import InputError, check_counts

if TYPE_CHECKING:
    from snnkd_jax.data import Augmentation, Dataset


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data set, its validation split, and what is done to training images."""

    dataset: str = "cifar10"
    """digits (ships with scikit-learn, needs no download), mnist, fashion_mnist, cifar10 or cifar100, held in memory;
    or any image classification set that TFDS has prepared as array_record, read from disk, such as imagenet2012."""
    data_dir: str | None = None
    """Folder of the data sets, as TFDS keeps them; None: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    image_size: int = 224
    """Side in pixels to which images that are read from disk are brought."""
    workers: int = 16
    """Threads that read and decode images from disk, in each process; no result depends on it."""
    validation_fraction: float = 0.1
    """Share of the training set that is held out; the test set is used once, after the last epoch."""
    crop_padding: int = 4
    """Random shift by up to this many pixels. Images from disk are cropped by area before, in any case."""
    flip: bool = True
    """Random mirroring."""
    cutout: int = 8
    """Side of the blanked square in pixels; 0: none."""

    def check(self) -> None:
        """Raises `InputError` for a value out of range."""
        check_counts(self, "image_size", "workers")
        if not 0 < self.validation_fraction < 1:
            raise InputError(f"validation_fraction={self.validation_fraction!r} must be in (0, 1), such as 0.1")

    @property
    def in_memory(self) -> bool:
        """Whether the data set is held in memory."""
        from snnkd_jax.data import NAMES

        return self.dataset in NAMES

    def augmentation(self) -> "Augmentation":
        """What is done to training images on the device; those from disk are mirrored where they are decoded."""
        from snnkd_jax.data import Augmentation

        return Augmentation(self.crop_padding, self.flip and self.in_memory, self.cutout)

    def load(self) -> "Dataset":
        """The data set in memory; raises `InputError` for one that is read from disk, and as `data.load`."""
        from snnkd_jax.data import NAMES, load

        if not self.in_memory:
            raise InputError(
                f"dataset {self.dataset!r} is read from disk in training; what is measured after it works with "
                f"{', '.join(NAMES)}"
            )
        return dataclasses.replace(load(self.dataset, self.data_dir), validation_fraction=self.validation_fraction)

    def open(self) -> Any:
        """The data set, a `Dataset` or a `DiskDataset`; raises `InputError` if it is not there or damaged."""
        if self.in_memory:
            return self.load()
        from snnkd_jax.data.on_disk import open_dataset

        names = ("image_size", "workers", "flip", "validation_fraction")
        return open_dataset(self.dataset, self.data_dir, **{name: getattr(self, name) for name in names})
