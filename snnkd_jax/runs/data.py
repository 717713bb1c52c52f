"""The data section of a configuration."""

import dataclasses
from typing import TYPE_CHECKING, Any

from snnkd_jax.errors import InputError, check_counts
from snnkd_jax.runs.option import Section

if TYPE_CHECKING:
    from snnkd_jax.data import Augmentation, Dataset, StudentNoise


_READING = ("image_feature", "label_feature", "train_split", "test_split")


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Data set, validation split and augmentation."""

    dataset: str = "cifar10"
    """digits (included in scikit-learn, no download), mnist, fashion_mnist, cifar10 or cifar100, held in memory;
    or any image classification set that TFDS has prepared as array_record, read from disk, such as imagenet2012."""
    data_dir: str | None = None
    """Folder of the data sets in the layout of TFDS; None: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    image_feature: str | None = None
    """Feature of a set read from disk that is the image; None: image, or the only one."""
    label_feature: str | None = None
    """Feature of a set read from disk that is the class; None: label, or the only one."""
    train_split: str | None = None
    """Split of a set read from disk to train on, or a part of one such as 'train[:80%]'; None: train."""
    test_split: str | None = None
    """Split of a set read from disk to test on; None: test, or validation or val if that has no labels."""
    image_size: int = 224
    """Side in pixels to which images read from disk are resized."""
    workers: int = 16
    """Threads per process that read and decode images from disk; no result depends on their number."""
    validation_fraction: float = 0.1
    """Fraction of the training set held out for validation, 0 for none; the test set is used once, at the end."""
    crop_padding: int = 4
    """Largest random shift in pixels, with zero padding; images read from disk are random-resized-cropped before it."""
    reflect_padding: bool = False
    """Random shifts with reflected pixels instead of zeros."""
    flip: bool = True
    """Random horizontal flip."""
    alternate_flip: bool = False
    """Flip a random half of the images in every second epoch and the other half in the others, not at random."""
    cutout: int = 8
    """Side of the cutout square in pixels; 0: no cutout."""
    student_noise: tuple[str, ...] = ()
    """Noise on the augmented images that students see in training, the teacher does not; each image draws one of the
    given KIND:LEVEL, such as gaussian:3 blur:2, and none for clean images. Levels are 1 to 5; kinds are gaussian,
    uniform, salt_and_pepper, shot, speckle, blur, occlusion, contrast and brightness (see data/corruptions.py)."""

    def check(self) -> None:
        """Raises `InputError` for a value out of range."""
        check_counts(self, "image_size", "workers")
        if not 0 <= self.validation_fraction < 1:
            raise InputError(f"validation_fraction={self.validation_fraction!r} must be in [0, 1), such as 0.1")
        if self.alternate_flip and not self.flip:
            raise InputError("alternate_flip=True is a way to flip, and flip=False; leave one of them out")

    @property
    def in_memory(self) -> bool:
        """Whether the data set is held in memory."""
        from snnkd_jax.data import NAMES

        return self.dataset in NAMES

    def augmentation(self) -> "Augmentation":
        """The augmentation on the device; flips are the data set's if they alternate or the images are on disk."""
        from snnkd_jax.data import Augmentation

        flip = self.flip and self.in_memory and not self.alternate_flip
        return Augmentation(self.crop_padding, flip, self.cutout, self.reflect_padding)

    def noise(self) -> "StudentNoise | None":
        """The noise on the students' images; raises `InputError` for an unknown kind or level."""
        from snnkd_jax.data import StudentNoise

        return StudentNoise(self.student_noise) if self.student_noise else None

    def load(self) -> "Dataset":
        """The data set in memory; raises `InputError` for one that is read from disk, and where `data.load` does."""
        from snnkd_jax.data import NAMES, load

        if not self.in_memory:
            names = ", ".join(NAMES)
            raise InputError(f"dataset {self.dataset!r} is read from disk, for training only; this works with {names}")
        for name in _READING:
            if (value := getattr(self, name)) is not None:
                raise InputError(f"{name}={value!r} is for sets that are read from disk; {self.dataset} needs none")
        own = {name: getattr(self, name) for name in ("validation_fraction", "alternate_flip")}
        return dataclasses.replace(load(self.dataset, self.data_dir), **own)

    def open(self) -> Any:
        """The data set, in memory or on disk; raises `InputError` if it is missing or damaged."""
        if self.in_memory:
            return self.load()
        if self.alternate_flip:
            raise InputError(f"alternate_flip=True: dataset {self.dataset!r} is read from disk; leave it out")
        from snnkd_jax.data.prepared import check_package

        check_package("grain")
        from snnkd_jax.data.on_disk import open_dataset

        names = (*_READING, "image_size", "workers", "flip", "validation_fraction")
        return open_dataset(self.dataset, self.data_dir, **{name: getattr(self, name) for name in names})
