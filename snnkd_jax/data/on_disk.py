"""Data sets that are too large for memory: a TFDS directory whose images are read and decoded on access.

Any set of TFDS in the ArrayRecord format with one image and one class per example will do, such as `imagenet2012`; see
`features` for how they are found. It is tested on the split "test" where that has labels, else on "validation": the
labels of ImageNet's test set are not published, and its validation set is what everyone reports. The validation split
of a run is held out from the training split.
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
from snnkd_jax.data.features import (
    TEST_SPLITS,
    Columns,
    as_value,
    check_disjoint,
    choose_image,
    choose_label,
    choose_split,
    columns,
)
from snnkd_jax.data.inputs import Inputs
from snnkd_jax.data.loading import NAMES, data_directory
from snnkd_jax.data.normalisation import NORMALISATIONS, Normalisation, pixel_statistics
from snnkd_jax.data.prepared import append_remedy, check_package, open_builder, open_split
from snnkd_jax.data.reader import DiskSource, centre_crops
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.files import copy_command, is_remote, similar


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
        return self.image_size, self.image_size, self.train.columns.channels

    @functools.cached_property
    def normalisation(self) -> Normalisation:
        """Statistics of ImageNet, else of the centre crops of 1000 images, the same for all seeds and processes."""
        if self.name.startswith("imagenet2012") and self.train.columns.channels == 3:
            return NORMALISATIONS["imagenet"]
        chosen = np.sort(np.random.default_rng(0).permutation(len(self.train))[:1000])
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            images = pool.map(lambda i: centre_crop(self.train[i][0], self.image_size), chosen)
            return pixel_statistics(np.stack(list(images)))

    @property
    def metadata(self) -> dict[str, Any]:
        """Name, classes, split and crops, as JSON values."""
        options = {name: getattr(self, name) for name in ("image_size", "flip", "validation_fraction")}
        columns = self.train.columns
        read = {
            "image_feature": columns.image,
            "label_feature": columns.label,
            "train_split": self.train.split,
            "test_split": self.test.split,
        }
        return {"dataset": self.name, "class_names": list(self.class_names), **options, **read}

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


def open_dataset(
    name: str,
    data_dir: str | None = None,
    *,
    image_feature: str | None = None,
    label_feature: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    **options: Any,
) -> DiskDataset:
    """Opens the latest version of `<data dir>/<name>`, which TFDS has prepared; `name` may be "name/configuration".

    `image_feature`, `label_feature`: features of image and class; None: the supervised keys of the set, else "image"
    and "label", else the only ones of their kind. `train_split`, `test_split`: None: "train", and the first of
    `TEST_SPLITS` that has labels. `options` are the last fields of `DiskDataset`. Raises `InputError` for a data set
    that is not there, incomplete, damaged or in another file format, and, with what was found, for one that has other
    features or splits.
    """
    check_package("array_record.python.array_record_module")
    folder = data_directory(data_dir)
    if is_remote(folder):
        advice = f"copy {folder / name} to a local data_dir with {copy_command(folder)}"
        raise InputError(f"data_dir={folder}: the images of {name} are read on access, from local files; {advice}")
    directory = _latest(name, folder)
    with append_remedy(directory, "prepare it again with TFDS, as array_record, or name another data_dir"):
        builder = open_builder(directory)
    with append_remedy(directory, REMEDY, to_all=False):
        info = builder.info
        image, label = choose_image(info, image_feature), choose_label(info, label_feature)
        train = choose_split("train_split", info, train_split, ("train",))
        source = open_split(builder, train, image)
        found = columns(info, image, label, source)
        test = _test_split(builder, found, test_split)
        check_disjoint(info, train, test)
        training = Examples(source, directory, train, found)
        testing = Examples(open_split(builder, test, image), directory, test, found)
        identity = (directory / "dataset_info.json").read_bytes()
        return DiskDataset(name, identity, found.class_names, training, testing, **options)


def _test_split(builder: Any, found: Columns, asked: str | None) -> str:
    """The split `asked` for, or the first of `TEST_SPLITS` whose first example has a class."""
    splits, unlabelled = builder.info.splits, []
    there = [split for split in TEST_SPLITS if split in splits and splits[split].num_examples]
    for split in [asked] if asked is not None or not there else there:
        split = choose_split("test_split", builder.info, split, TEST_SPLITS)
        value = as_value(open_split(builder, split, found.image)[0][found.label])
        if value in found.labels:
            return split
        unlabelled.append(f"{split} has {found.label} {value!r}")
    raise InputError(f"has no labels to test on ({'; '.join(unlabelled)}); name another split with test_split")


def _latest(name: str, data_dir: Path) -> Path:
    try:
        found = _versions(data_dir / name)
        prepared = [] if found else _prepared(data_dir)
    except OSError as error:
        raise InputError(f"data_dir {data_dir} cannot be read ({error}); name another") from error
    if found:
        return max(found, key=lambda path: [int(number) for number in path.name.split(".")])
    if configurations := [other for other in prepared if other.startswith(f"{name}/")]:
        raise InputError(f"dataset {name!r} has configurations in {data_dir}: name one of {', '.join(configurations)}")
    try:
        check_choice("dataset", name, dict.fromkeys([*NAMES, *prepared]))
    except InputError as error:
        where = f", or have TFDS prepare it in {data_dir} as array_record"
        if not data_dir.is_dir():
            where = f"; data_dir {data_dir} is not there{similar(data_dir)}"
        raise InputError(f"{error}{where}") from None
    raise InputError(f"dataset {name!r} is not in {data_dir}; it is prepared when it is loaded into memory")


def _prepared(data_dir: Path) -> list[str]:
    """The data sets in a folder, as "name" or "name/configuration"."""
    found = [
        path.parent for pattern in ("*/*.*.*", "*/*/*.*.*") for path in data_dir.glob(pattern) if _is_version(path)
    ]
    return sorted({path.relative_to(data_dir).as_posix() for path in found})


def _versions(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.*.*") if _is_version(path)]


def _is_version(path: Path) -> bool:
    return re.fullmatch(r"\d+\.\d+\.\d+", path.name) is not None
