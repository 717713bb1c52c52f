"""Data sets that are too large for memory: a TFDS directory whose images are read and decoded on access.

Any image classification set of TFDS in the ArrayRecord format will do, such as `imagenet2012`: features "image" and
"label", a split "train", and one to test on. That is "test" where it has labels, else "validation": the labels of
ImageNet's test set are not published, and its validation set is what everyone reports. The validation split of a run
is held out from "train".
"""

import concurrent.futures
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from snnkd_jax.data.batches import split_indices
from snnkd_jax.data.crops import centre_crop
from snnkd_jax.data.examples import REMEDY, Examples
from snnkd_jax.data.inputs import Inputs
from snnkd_jax.data.loading import NAMES, data_directory
from snnkd_jax.data.normalisation import NORMALISATIONS, Normalisation, pixel_statistics
from snnkd_jax.data.prepared import append_remedy, open_builder, open_split
from snnkd_jax.data.reader import DiskSource, centre_crops
from snnkd_jax.errors import InputError, check_choice


@dataclasses.dataclass(frozen=True, eq=False)
class DiskDataset:
    """A training and a test set of labelled photographs on disk.

    `workers` threads decode images, crop them by area, resize them to `image_size` and, with `flip`, mirror them.
    """

    name: str
    identity: bytes
    class_names: tuple[str, ...]
    train: Examples
    test: Examples
    image_size: int = 224
    workers: int = 16
    flip: bool = True
    validation_fraction: float = 0.1
    frames: ClassVar[None] = None  # images, no sequences

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`[H, W, C]` of every image."""
        return self.image_size, self.image_size, 3

    @functools.cached_property
    def normalisation(self) -> Normalisation:
        """Statistics of ImageNet, else of the centre crops of 1000 images, the same for all seeds and processes."""
        if self.name.startswith("imagenet2012"):
            return NORMALISATIONS["imagenet"]
        chosen = np.sort(np.random.default_rng(0).permutation(len(self.train))[:1000])
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            images = pool.map(lambda i: centre_crop(self.train[i][0], self.image_size), chosen)
            return pixel_statistics(np.stack(list(images)))

    @property
    def metadata(self) -> dict[str, Any]:
        """Name, classes, split and crops, as JSON values."""
        options = {name: getattr(self, name) for name in ("image_size", "flip", "validation_fraction")}
        return {"dataset": self.name, "class_names": list(self.class_names), **options}

    def inputs(self, batch_size: int, seed: int) -> Inputs:
        """The batches of a training; raises `InputError` for a batch that is larger than the training set."""
        training, validation = split_indices(len(self.train), self.validation_fraction, seed)
        if batch_size > len(training):
            raise InputError(f"batch_size={batch_size!r} must be at most {len(training)}, the training images")
        reading = {"image_size": self.image_size, "batch_size": batch_size, "threads": self.workers}
        return Inputs(
            DiskSource(self.train, training, flip=self.flip, seed=seed, **reading),
            functools.partial(centre_crops, self.train, validation, **reading) if len(validation) else None,
            functools.partial(centre_crops, self.test, np.arange(len(self.test)), **reading),
        )


def open_dataset(name: str, data_dir: str | None = None, **options: Any) -> DiskDataset:
    """Opens the latest version of `<data dir>/<name>`, which TFDS has prepared; `name` may be "name/configuration".

    `options` are the last fields of `DiskDataset`. Raises `InputError` for a data set that is not there, incomplete,
    damaged or in another file format, or that has other features or splits than those of image classification.
    """
    directory = _latest(name, data_directory(data_dir))
    with append_remedy(directory, REMEDY):
        builder = open_builder(directory)
        features = builder.info.features
        if missing := [key for key in ("image", "label") if key not in features]:
            raise InputError(f"has no feature {' and no '.join(missing)}, only {', '.join(features)}")
        num_classes = features["label"].num_classes
        class_names = tuple(features["label"].names or map(str, range(num_classes)))
        examples = functools.partial(_examples, builder, directory, num_classes)
        identity = (directory / "dataset_info.json").read_bytes()
        return DiskDataset(name, identity, class_names, examples("train"), examples("test", "validation"), **options)


def _latest(name: str, data_dir: Path) -> Path:
    try:
        found = [path for path in (data_dir / name).glob("*.*.*") if re.fullmatch(r"\d+\.\d+\.\d+", path.name)]
    except OSError as error:
        raise InputError(f"data_dir {data_dir} cannot be read ({error}); name another") from error
    if not found:
        try:
            check_choice("dataset", name, NAMES)
        except InputError as error:
            raise InputError(f"{error}, or have TFDS prepare it in {data_dir} as array_record") from None
        raise InputError(f"dataset {name!r} is not in {data_dir}; it is prepared when it is loaded into memory")
    return max(found, key=lambda path: [int(number) for number in path.name.split(".")])


def _examples(builder: Any, directory: Path, num_classes: int, *splits: str) -> Examples:
    """The first of the splits that exists and has labels."""
    for split in splits:
        if split in builder.info.splits and builder.info.splits[split].num_examples:
            source = open_split(builder, split)
            if source[0]["label"] >= 0:
                return Examples(source, f"{directory}, split {split}", num_classes)
    wanted, found = " or ".join(splits), ", ".join(builder.info.splits)
    raise InputError(f"has no split {wanted} with labels, only {found}")
