"""Data sets that are too large for memory: a TFDS directory whose images are read and decoded when they are asked for.

Any image classification set of TFDS's in the ArrayRecord format will do, such as `imagenet2012`: features "image" and
"label", a split "train", and one to test on. That is "test" where it has labels, else "validation": the labels of
ImageNet's test set are not published, and its validation set is what everyone reports. What hyper-parameters may be
chosen on is a part of "train" that is held out.
"""

import dataclasses
import functools
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snnkd_jax.data.crops import centre, random_part
from snnkd_jax.data.loading import NAMES, data_directory
from snnkd_jax.data.prepared import open_builder, open_split, told_what_to_do
from snnkd_jax.errors import InputError, check_choice

_REMEDY = "have TFDS prepare it again, or name another data_dir"


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """One split, by the index of the example, in the order in which it is stored; several threads may read it."""

    source: Any
    where: str
    num_classes: int

    def __len__(self) -> int:
        return len(self.source)

    def random_part(self, i: int, size: int, rng: np.random.Generator, flip: bool) -> tuple[NDArray, np.int32]:
        """A random part of image i for training, uint8 `[size, size, 3]`, and its label."""
        image, label = self._read(i)
        return random_part(image, size, rng, flip), label

    def centre(self, i: int, size: int) -> tuple[NDArray, np.int32]:
        """The centre of image i, uint8 `[size, size, 3]`, and its label."""
        image, label = self._read(i)
        return centre(image, size), label

    def _read(self, i: int) -> tuple[Image.Image, np.int32]:
        """Image i in red, green and blue, and its label.

        Raises `InputError`, which names the record, if it cannot be read or decoded, or has no label.
        """
        name = ""
        try:
            example = self.source[i]
            name = f" ({example['file_name'].decode()})" if "file_name" in example else ""
            image, label = Image.open(io.BytesIO(example["image"])).convert("RGB"), int(example["label"])
        except Exception as error:  # Pillow's plugins and ArrayRecord raise nearly anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"record {i}{name} of {self.where} cannot be read ({reason}): {_REMEDY}") from error
        if not 0 <= label < self.num_classes:
            raise InputError(f"record {i}{name} of {self.where} has label {label} of {self.num_classes}: {_REMEDY}")
        return image, np.int32(label)


@dataclasses.dataclass(frozen=True, eq=False)
class Streamed:
    """A training and a test set of labelled photographs on disk; `identity` is that of the copy and its shards."""

    name: str
    identity: bytes
    class_names: tuple[str, ...]
    train: Examples
    test: Examples


def open_streamed(name: str, data_dir: str | None = None) -> Streamed:
    """Opens `<data dir>/<name>/<version>`, the latest version; a name may have a configuration, "name/config".

    Args:
        name: of a data set that TFDS has prepared.
        data_dir: as in `data_directory`.

    Raises:
        InputError: the data set is not there, is incomplete, damaged or in another file format, or has other features
            or splits than those of an image classification set.
    """
    directory = _latest(name, data_directory(data_dir))
    with told_what_to_do(directory, _REMEDY):
        builder = open_builder(directory)
        features = builder.info.features
        if missing := [key for key in ("image", "label") if key not in features]:
            raise InputError(f"{directory} has no feature {' and no '.join(missing)}, only {', '.join(features)}")
        num_classes = features["label"].num_classes
        class_names = tuple(features["label"].names or map(str, range(num_classes)))
        examples = functools.partial(_examples, builder, directory, num_classes)
        identity = (directory / "dataset_info.json").read_bytes()
        return Streamed(name, identity, class_names, examples(("train",)), examples(("test", "validation")))


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


def _examples(builder: Any, directory: Path, num_classes: int, splits: tuple[str, ...]) -> Examples:
    """The first of the splits that is there and has labels."""
    for split in splits:
        if split in builder.info.splits and builder.info.splits[split].num_examples:
            source = open_split(builder, split)
            if source[0]["label"] >= 0:
                return Examples(source, f"{directory}, split {split}", num_classes)
    wanted, found = " or ".join(splits), ", ".join(builder.info.splits)
    raise InputError(f"{directory} has no split {wanted} with labels, only {found}")
