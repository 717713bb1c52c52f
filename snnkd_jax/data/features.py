"""What a prepared set of TFDS holds: which feature is the image, which the class, and which splits are for what.

An image is one feature of eight bits per row, encoded or as an array, with 1 to 4 channels. A class is a `ClassLabel`,
or one integer, boolean or text per row, whose values in the training split are then the classes, in their order.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from snnkd_jax.data.class_names import check_class_names
from snnkd_jax.errors import InputError, check_choice

TEST_SPLITS = ("test", "validation", "val", "valid", "dev", "eval")
"""Splits to test on, by preference, where none is named."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """The features of image and class, the `channels` of the former, and the label of each value of the latter."""

    image: str
    channels: int
    label: str
    class_names: tuple[str, ...]
    labels: Mapping[Any, int]

    def label_of(self, example: Mapping[str, Any]) -> int:
        """The label of an example; raises `InputError` if its class is none of the training split's."""
        value = as_value(example[self.label])
        if value not in self.labels:
            raise InputError(f"has {self.label} {value!r}, which is none of the {len(self.labels)} classes")
        return self.labels[value]


def as_value(stored: Any) -> Any:
    """An integer or a text, as TFDS reads it."""
    return stored.decode() if isinstance(stored, bytes) else int(stored)


def choose_image(info: Any, asked: str | None) -> str:
    """The feature that is the image; raises `InputError`, with what there is, if that is not clear."""
    return _choose("image_feature", info, asked, 0, [_is_image], "one image of eight bits and 1 to 4 channels")


def choose_label(info: Any, asked: str | None) -> str:
    """The feature that is the class; raises `InputError`, with what there is, if that is not clear."""
    return _choose("label_feature", info, asked, 1, [_is_class, _is_scalar], "one class")


def choose_split(option: str, info: Any, asked: str | None, usual: Iterable[str]) -> str:
    """The split `asked` for, which may be a part such as "train[:80%]", or the first of the `usual` ones that exists.

    Raises `InputError`, with the splits that there are, for one that does not exist or has no example.
    """
    splits = {name: split for name, split in info.splits.items() if split.num_examples}
    if asked is None:
        if not (found := [name for name in usual if name in splits]):
            part = "; a part of one will do, such as train[80%:]" if option == "test_split" else ""
            raise InputError(
                f"has no split {' or '.join(usual)}, only {', '.join(splits)}; name one with {option}{part}"
            )
        return found[0]
    if asked in splits:
        return asked
    if not set("[+") & set(asked):
        check_choice(option, asked, splits)
    try:
        size = info.splits[asked].num_examples
    except Exception as error:  # of TFDS's parser
        reason = " ".join(str(error).split())
        raise InputError(f"{option} {asked!r} cannot be read ({reason}); there are {', '.join(splits)}") from error
    if not size:
        raise InputError(f"{option} {asked!r} has no example; there are {', '.join(splits)}")
    return asked


def check_disjoint(info: Any, train: str, test: str) -> None:
    """Raises `InputError` if an example is in both splits."""
    for a in info.splits[train].file_instructions:
        for b in info.splits[test].file_instructions:
            if a.filename == b.filename and max(a.skip, b.skip) < min(a.skip + a.take, b.skip + b.take):
                raise InputError(
                    f"train_split {train!r} and test_split {test!r} share examples; give parts that do not, such as "
                    "train[:80%] and train[80%:]"
                )


def columns(info: Any, image: str, label: str, train: Iterable[Mapping[str, Any]]) -> Columns:
    """How images and classes are read; `train`, the training examples, is only read if classes have no names.

    Raises `InputError` for an example without a class, and for a feature that hardly has a value twice.
    """
    feature, shape = info.features[label], info.features[image].shape
    make = functools.partial(Columns, image, (shape[-1] or 3) if len(shape) == 3 else 1, label)
    if _is_class(feature):
        names = check_class_names(label, feature.names or range(feature.num_classes))
        return make(names, {i: i for i in range(len(names))})
    values = [as_value(example[label]) for example in train]
    if absent := [i for i, value in enumerate(values) if value in ("", -1)]:
        raise InputError(f"feature {label} of example {absent[0]} is {values[absent[0]]!r}, no class")
    classes = sorted(set(values))
    if not 2 <= len(classes) <= len(values) / 2:
        raise InputError(
            f"feature {label} has {len(classes)} values in {len(values)} examples, so it is no class; name one with "
            f"label_feature: {_listed(info)}"
        )
    return make(check_class_names(label, classes), {value: i for i, value in enumerate(classes)})


def _choose(
    option: str, info: Any, asked: str | None, place: int, kinds: list[Callable[[Any], bool]], what: str
) -> str:
    features = info.features
    if asked is not None:
        check_choice(option, asked, features)
        if not any(fits(features[asked]) for fits in kinds):
            raise InputError(f"{option} {asked!r} is not {what} per example; there are {_listed(info)}")
        return asked
    keys = info.supervised_keys or ()
    for usual in (keys[place] if len(keys) == 2 else None, ("image", "label")[place]):
        if isinstance(usual, str) and usual in features and any(fits(features[usual]) for fits in kinds):
            return usual
    for fits in kinds:
        found = [key for key in sorted(features) if fits(features[key])]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"has several features that may be {what}; name one with {option}: {', '.join(found)}")
    raise InputError(f"has no feature that is {what} per example, only {_listed(info)}")


def _listed(info: Any) -> str:
    kinds = {
        key: f"{type(f).__name__} {f.np_dtype} {f.shape}" for key, f in info.features.items() if hasattr(f, "shape")
    }
    return ", ".join(f"{key} ({kinds.get(key, type(info.features[key]).__name__)})" for key in sorted(info.features))


def _is_image(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    shape: Any = feature.shape
    if isinstance(feature, tfds.features.Image):
        shaped = shape[-1] in (None, 1, 2, 3, 4) and not isinstance(feature, tfds.features.LabeledImage)
    elif isinstance(feature, tfds.features.Tensor):
        shaped = len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 2, 3, 4))
    else:
        return False
    return shaped and _dtype(feature) == np.uint8


def _is_class(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    return isinstance(feature, tfds.features.ClassLabel) and feature.num_classes is not None


def _is_scalar(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.Tensor) or feature.shape != ():
        return False
    return isinstance(feature, tfds.features.Text) or _dtype(feature).kind in "iub"


def _dtype(feature: Any) -> np.dtype:
    return np.dtype(feature.np_dtype)
