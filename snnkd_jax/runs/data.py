"""The data section of a configuration."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnkd_jax.errors import InputError, check_choice, check_counts, parse_size
from snnkd_jax.files import absolute
from snnkd_jax.runs.option import Section

if TYPE_CHECKING:
    from snnkd_jax.data import Augmentation, Binning, Dataset, StudentNoise

EVENT_SETS, EVENT_FOLDER = ("event_digits", "nmnist", "dvs_gesture", "cifar10_dvs", "ncaltech101"), "events:"
"""Data sets of events, and the prefix of those that are folders, without importing JAX."""

PAIRED_SETS = ("event_digits", "nmnist")
"""Sets of events with images that belong to them."""

_DROPS = ("drop_time", "drop_area", "drop_events", "swap_polarity")
_EVENTS = ("bin_by", "frame_size", "saturate", "sensor_size", *_DROPS)
_READING = ("image_feature", "label_feature", "train_split", "test_split")


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Data set, validation split and augmentation."""

    dataset: str = "cifar10"
    """digits (included in scikit-learn, no download), mnist, fashion_mnist, cifar10 or cifar100, held in memory;
    event_digits, recordings of a simulated event camera, nmnist, dvs_gesture, cifar10_dvs or ncaltech101 (see
    data/event_sets.py), or events:FOLDER, your own, in train/<class>/* and test/<class>/* (see data/event_files.py), in
    memory as well; or any image classification set that TFDS has prepared as array_record, read from disk, such as
    imagenet2012."""
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
    bin_by: str = "time"
    """Division of events into one frame per time step: time, equal parts of a recording, or count, equal numbers of
    events."""
    frame_size: str | None = None
    """Size of the frames of events in pixels, HEIGHTxWIDTH, such as 48x48; None: that of the event camera."""
    saturate: bool = False
    """Count more than 255 events in one pixel and frame as 255, instead of refusing the recording."""
    sensor_size: str | None = None
    """Size of the event camera of events:FOLDER in pixels, HEIGHTxWIDTH, such as 34x34; None: the files say it."""
    image_size: int = 224
    """Side in pixels to which images read from disk are resized."""
    workers: int = 16
    """Threads per process that read images or recordings from disk; no result depends on their number."""
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
    drop_time: float = 0.0
    """Largest share of successive frames whose events are lost; each recording draws its own, up to this one."""
    drop_area: float = 0.0
    """Largest share of height and width of a rectangle of pixels whose events are lost."""
    drop_events: float = 0.0
    """Largest share of all events that are lost."""
    swap_polarity: bool = False
    """Exchange the two polarities of the events at random."""
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
        check_choice("bin_by", self.bin_by, ("time", "count"))
        for name in ("frame_size", "sensor_size"):
            if (size := getattr(self, name)) is not None:
                parse_size(name, size)
        if self.has_events:
            if self.student_noise:
                raise InputError(
                    f"student_noise={self.student_noise!r} is noise on images, and {self.dataset} has events"
                )
            return
        for name in _EVENTS:
            if (value := getattr(self, name)) != getattr(DataConfig, name):
                raise InputError(f"{name}={value!r} is for events, and {self.dataset} has images; leave it out")

    @property
    def has_events(self) -> bool:
        """Whether the data set has recordings of an event camera, of which a network sees one frame per time step."""
        return self.dataset in EVENT_SETS or self.dataset.startswith(EVENT_FOLDER)

    @property
    def label(self) -> str:
        """The data set in tables and records: a folder of events without the path to it."""
        folder = self.dataset.removeprefix(EVENT_FOLDER)
        return self.dataset if folder == self.dataset else f"{EVENT_FOLDER}{Path(folder).name}"

    def canonical(self) -> dict[str, Any]:
        """The data set with an absolute path."""
        folder = self.dataset.removeprefix(EVENT_FOLDER)
        same = folder == self.dataset
        return {"dataset": self.dataset if same else f"{EVENT_FOLDER}{absolute('dataset', folder)}"}

    @property
    def in_memory(self) -> bool:
        """Whether the data set is held in memory."""
        from snnkd_jax.data import NAMES

        return self.dataset in NAMES or self.has_events

    def augmentation(self, images: bool = False) -> "Augmentation":
        """The augmentation on the device, with `images` that of images that belong to events.

        Flips are the data set's if they alternate or the images are on disk.
        """
        from snnkd_jax.data import Augmentation, EventAugmentation

        flip = self.flip and self.in_memory and not self.alternate_flip
        of_images = self.crop_padding, flip, self.cutout, self.reflect_padding
        if images or not self.has_events:
            return Augmentation(*of_images)
        return EventAugmentation(*of_images, **{name: getattr(self, name) for name in _DROPS})

    def noise(self) -> "StudentNoise | None":
        """The noise on the students' images; raises `InputError` for an unknown kind or level."""
        from snnkd_jax.data import StudentNoise

        return StudentNoise(self.student_noise) if self.student_noise else None

    def load(self, num_steps: int, paired: bool = False) -> "Dataset":
        """The data set in memory, events in `num_steps` frames, with `paired` the images that belong to them.

        Raises `InputError` for one that is read from disk, and where `data.load` does.
        """
        from snnkd_jax.data import NAMES, load

        if not self.in_memory:
            names = ", ".join(NAMES)
            raise InputError(f"dataset {self.dataset!r} is read from disk, for training only; this works with {names}")
        for name in _READING:
            if (value := getattr(self, name)) is not None:
                raise InputError(f"{name}={value!r} is for sets that are read from disk; {self.dataset} needs none")
        own: dict[str, Any] = {name: getattr(self, name) for name in ("validation_fraction", "alternate_flip")}
        events: dict[str, Any] = {"sensor_size": self.sensor_size, "workers": self.workers, "paired": paired}
        data = load(self.dataset, self.data_dir, self.binning(num_steps), **events)
        if data.paired is not None:
            own["paired"] = dataclasses.replace(data.paired, **own)
        return dataclasses.replace(data, **own)

    def binning(self, num_steps: int) -> "Binning | None":
        """The division of events into `num_steps` frames; None for images."""
        from snnkd_jax.data import Binning

        if not self.has_events:
            return None
        by: Any = self.bin_by
        size = None if self.frame_size is None else parse_size("frame_size", self.frame_size)
        return Binning(num_steps, by, size, self.saturate)

    def open(self, num_steps: int, paired: bool = False) -> Any:
        """The data set, in memory or on disk, events in `num_steps` frames, with `paired` the images of theirs.

        Raises `InputError` if it is missing or damaged.
        """
        if self.in_memory:
            return self.load(num_steps, paired)
        if self.alternate_flip:
            raise InputError(f"alternate_flip=True: dataset {self.dataset!r} is read from disk; leave it out")
        from snnkd_jax.data.prepared import check_package

        check_package("grain")
        from snnkd_jax.data.on_disk import open_dataset

        names = (*_READING, "image_size", "workers", "flip", "validation_fraction")
        return open_dataset(self.dataset, self.data_dir, **{name: getattr(self, name) for name in names})
