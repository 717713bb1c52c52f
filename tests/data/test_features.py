"""Prepared sets as others name them: features, splits, kinds of images and labels; or what was found instead."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from synthetic_sets import assert_input_error, write

from snnkd_jax.data.on_disk import DiskDataset, open_dataset
from snnkd_jax.runs.config import default_config

F = tfds.features
CLASS = F.ClassLabel(names=["cat", "dog", "eel"])
RGB, GREY, RGBA = (F.Image(shape=(None, None, c), encoding_format="png") for c in (3, 1, 4))


def pixels(i: int, channels: int = 3) -> np.ndarray:
    """A uniform image, by which an example is recognised after any crop; alpha differs from the colours."""
    return np.full((12, 9, channels), [i, 2 * i, 3 * i, 255 - i][:channels], np.uint8)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).save(file, format="PNG")
    return file.getvalue()


def rows(n: int, start: int = 0, /, **made: Any) -> list[dict[str, Any]]:
    """Examples whose features are functions of the number of the image."""
    return [{name: make(i) for name, make in made.items()} for i in range(start, start + n)]


def opened(
    folder: Path, splits: dict[str, list[dict[str, Any]]], features: dict[str, Any], **options: Any
) -> DiskDataset:
    write(folder, splits, **features)
    return open_dataset("photos", str(folder), image_size=8, workers=2, **options)


def read(data: DiskDataset, channels: int = 3) -> dict[int, str]:
    """The name of the class by the number of the image, over both splits, having checked the images."""
    found = {}
    for examples in (data.train, data.test):
        for i in range(len(examples)):
            image, label = examples[i]
            array = np.asarray(image).reshape(12, 9, -1)
            number = int(array[0, 0, 0])
            np.testing.assert_array_equal(array, pixels(number, channels))
            found[number] = data.class_names[label]
    return found


NAMES = {i: ("cat", "dog", "eel")[i % 3] for i in range(9)}
SETS: dict[str, tuple[dict[str, Any], dict[str, Any], int, dict[str, Any]]] = {
    "img and lbl": ({"img": RGB, "lbl": CLASS}, {"img": lambda i: png(pixels(i)), "lbl": lambda i: i % 3}, 3, {}),
    "two labels, one usual": (
        {"image": RGB, "label": CLASS, "coarse": F.ClassLabel(num_classes=2)},
        {"image": lambda i: png(pixels(i)), "label": lambda i: i % 3, "coarse": lambda i: i % 2},
        3,
        {},
    ),
    "two labels, one asked for": (
        {"image": RGB, "label": F.ClassLabel(num_classes=2), "fine": CLASS},
        {"image": lambda i: png(pixels(i)), "label": lambda i: i % 2, "fine": lambda i: i % 3},
        3,
        {"label_feature": "fine"},
    ),
    "supervised keys": (
        {
            "image": RGB,
            "other": RGB,
            "species": CLASS,
            "label": F.Scalar(np.int64),
            "supervised_keys": ("other", "species"),
        },
        {
            "image": lambda _: png(pixels(99)),
            "other": lambda i: png(pixels(i)),
            "species": lambda i: i % 3,
            "label": lambda i: i,
        },
        3,
        {},
    ),
    "grey": ({"x": GREY, "y": CLASS}, {"x": lambda i: png(pixels(i, 1)), "y": lambda i: i % 3}, 1, {}),
    "alpha": ({"x": RGBA, "y": CLASS}, {"x": lambda i: png(pixels(i, 4)), "y": lambda i: i % 3}, 4, {}),
    "arrays": (
        {"x": F.Tensor(shape=(12, 9, 3), dtype=np.uint8), "y": CLASS},
        {"x": pixels, "y": lambda i: i % 3},
        3,
        {},
    ),
    "texts": (
        {"image": RGB, "breed": F.Text()},
        {"image": lambda i: png(pixels(i)), "breed": lambda i: NAMES[i]},
        3,
        {},
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_any_set_of_one_image_and_one_class_is_read(kind: str, tmp_path: Path) -> None:
    features, made, channels, options = SETS[kind]
    data = opened(tmp_path, {"train": rows(6, **made), "val": rows(3, 6, **made)}, features, **options)
    assert (len(data.train), len(data.test), data.test.split) == (6, 3, "val")
    assert data.class_names == ("cat", "dog", "eel")
    assert read(data, channels) == NAMES
    assert data.image_shape == (8, 8, channels)
    images = data.inputs(2, 0).training(0)["images"]
    assert images.shape == (2, 8, 8, channels)
    np.testing.assert_array_equal(images[0, 3, 4], pixels(int(images[0, 0, 0, 0]), channels)[0, 0])
    assert len(data.normalisation.mean) == channels


@pytest.mark.parametrize(("dtype", "offset"), [(np.int64, 1), (np.uint8, 250), (np.int32, 0)])
def test_numbers_without_names_are_classes_in_their_order(tmp_path: Path, dtype: Any, offset: int) -> None:
    """As labels from 1 to K: they are values here, not indices."""
    made: dict[str, Any] = {"image": lambda i: png(pixels(i)), "label": lambda i: i % 3 + offset}
    features = {"image": RGB, "label": F.Scalar(dtype)}
    data = opened(tmp_path, {"train": rows(6, **made), "dev": rows(3, 6, **made)}, features)
    assert data.class_names == tuple(str(k + offset) for k in range(3))
    assert read(data) == {i: str(i % 3 + offset) for i in range(9)}


def test_a_class_that_training_has_not_seen_is_refused(tmp_path: Path) -> None:
    made: dict[str, Any] = {"image": lambda i: png(pixels(i)), "label": lambda i: 7 if i == 8 else i % 3}
    data = opened(
        tmp_path, {"train": rows(6, **made), "test": rows(3, 6, **made)}, {"image": RGB, "label": F.Scalar(np.int64)}
    )
    assert_input_error(lambda: read(data), str(tmp_path), "split test", "has label 7", "none of the 3 classes")


MADE: dict[str, Any] = {"image": lambda i: png(pixels(i)), "label": lambda i: i % 3}
PLAIN = {"image": RGB, "label": CLASS}


def test_splits_are_options(tmp_path: Path) -> None:
    write(tmp_path, {"all_of_it": rows(9, **MADE), "extra": rows(2, 20, **MADE)}, **PLAIN)

    def split(**options: str) -> DiskDataset:
        return open_dataset("photos", str(tmp_path), **options)

    data = split(train_split="all_of_it[:6]", test_split="all_of_it[6:]")
    assert (len(data.train), len(data.test)) == (6, 3)
    assert read(data) == NAMES
    assert len(split(train_split="all_of_it", test_split="extra").train) == 9
    for options, told in (
        ({}, ["no split train", "all_of_it, extra", "train_split"]),
        ({"train_split": "all_of_it"}, ["no split test or validation", "all_of_it, extra", "test_split"]),
        ({"train_split": "all_of_them"}, ["train_split", "'all_of_them'", "did you mean all_of_it?"]),
        ({"train_split": "all_of_it", "test_split": "all_of_it"}, ["share examples", "all_of_it"]),
        ({"train_split": "all_of_it[:7]", "test_split": "all_of_it[6:]"}, ["share examples"]),
        ({"train_split": "all_of_it+extra", "test_split": "extra[:1]"}, ["share examples"]),
        ({"train_split": "all_of_it[5:5]", "test_split": "extra"}, ["train_split", "no example"]),
        ({"train_split": "all_of_it[zz", "test_split": "extra"}, ["train_split", "all_of_it[zz", "extra"]),
        ({"train_split": "none[:5]", "test_split": "extra"}, ["train_split", "none[:5]", "extra"]),
    ):
        assert_input_error(lambda options=options: split(**options), str(tmp_path / "photos" / "1.0.0"), *told)


ONE: dict[str, Any] = {"image": lambda i: png(pixels(i))}
NO_SET: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str], list[str]]] = {
    "two images": (
        {"left": RGB, "right": RGB, "label": CLASS},
        {"left": MADE["image"], "right": MADE["image"], "label": MADE["label"]},
        {},
        ["several features", "image_feature", "left, right"],
    ),
    "two classes": (
        {"image": RGB, "genus": CLASS, "species": CLASS},
        ONE | {"genus": MADE["label"], "species": MADE["label"]},
        {},
        ["several features", "label_feature", "genus, species"],
    ),
    "no class": (
        {"image": RGB, "bbox": F.Tensor(shape=(4,), dtype=np.float32)},
        ONE | {"bbox": lambda _: np.zeros(4, np.float32)},
        {},
        ["one class", "bbox"],
    ),
    "several labels": (
        {"image": RGB, "labels": F.Sequence(CLASS)},
        ONE | {"labels": lambda i: [i % 3, 1]},
        {},
        ["one class", "labels (Sequence"],
    ),
    "16 bits": (
        {"image": F.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"), "label": CLASS},
        {"image": lambda i: png(pixels(i, 1)[..., 0].astype(np.uint16)[..., None]), "label": MADE["label"]},
        {},
        ["eight bits", "image (Image uint16"],
    ),
    "floats": (
        {"image": F.Tensor(shape=(12, 9, 3), dtype=np.float32), "label": CLASS},
        {"image": lambda i: pixels(i).astype(np.float32), "label": MADE["label"]},
        {},
        ["eight bits", "float32"],
    ),
    "an identity": (
        {"image": RGB, "id": F.Scalar(np.int64)},
        ONE | {"id": lambda i: i},
        {},
        ["feature id has 6 values in 6 examples", "label_feature"],
    ),
    "unlabelled": (
        {"image": RGB, "label": F.Scalar(np.int64)},
        ONE | {"label": lambda i: -1 if i == 2 else i % 2},
        {},
        ["feature label of example", "is -1"],
    ),
    "a typo": (PLAIN, MADE, {"label_feature": "lable"}, ["label_feature 'lable'", "did you mean label?"]),
    "the wrong one": (PLAIN, MADE, {"image_feature": "label"}, ["image_feature 'label'", "image (Image uint8"]),
}


@pytest.mark.parametrize("kind", NO_SET)
def test_what_is_no_such_set_is_told_with_what_it_has(kind: str, tmp_path: Path) -> None:
    features, made, options, told = NO_SET[kind]
    splits = {"train": rows(6, **made), "test": rows(3, 6, **made)}
    directory = str(tmp_path / "photos" / "1.0.0")
    assert_input_error(lambda: opened(tmp_path, splits, features, **options), directory, *told)


def test_test_splits_without_labels_are_told(tmp_path: Path) -> None:
    unlabelled = [row | {"label": -1} for row in rows(2, 6, **MADE)]
    splits = {"train": rows(6, **MADE), "test": unlabelled, "val": unlabelled}
    assert_input_error(
        lambda: opened(tmp_path, splits, PLAIN), "no labels", "test has label -1", "val has", "test_split"
    )


def test_an_empty_test_split_is_passed_over(tmp_path: Path) -> None:
    directory = write(
        tmp_path, {"train": rows(6, **MADE), "test": rows(1, **MADE), "eval": rows(3, 6, **MADE)}, **PLAIN
    )
    info = json.loads((directory / "dataset_info.json").read_text())
    next(split for split in info["splits"] if split["name"] == "test")["shardLengths"] = ["0"]
    (directory / "dataset_info.json").write_text(json.dumps(info))
    assert open_dataset("photos", str(tmp_path)).test.split == "eval"


def test_image_that_loses_information_stops_the_reading_by_name(tmp_path: Path) -> None:
    """Transparency in a set of three channels."""
    made = MADE | {"image": lambda i: png(pixels(i, 4))}
    data = opened(tmp_path, {"train": rows(6, **made), "test": rows(3, 6, **made)}, PLAIN)
    assert_input_error(lambda: data.train[1], f"example 1 of {tmp_path}", "split train", "transparent", "prepare")


def test_names_and_folders_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, {"train": rows(6, **MADE), "test": rows(3, 6, **MADE)}, **PLAIN)
    (tmp_path / "birds" / "small" / "1.0.0").mkdir(parents=True)
    for name, folder, told in (
        ("fotos", tmp_path, ["dataset 'fotos'", "did you mean photos?", str(tmp_path)]),
        ("birds", tmp_path, ["has configurations", "birds/small"]),
        ("birds/smal", tmp_path, ["did you mean birds/small?"]),
        ("photos", tmp_path.with_name(f"{tmp_path.name}x"), ["is not there", f"did you mean {tmp_path}?"]),
        ("photos", tmp_path / "photo" / "1.0.0", ["is not there", f"did you mean {tmp_path / 'photos' / '1.0.0'}?"]),
    ):
        assert_input_error(lambda name=name, folder=folder: open_dataset(name, str(folder)), *told)


def test_options_of_sets_on_disk_are_refused_for_others() -> None:
    config = default_config("digits").replace(test_split="validation")
    assert_input_error(config.open_data, "test_split='validation'", "digits")


def test_a_configuration_names_features_and_splits(tmp_path: Path) -> None:
    write(tmp_path, {"fit": rows(6, **MADE), "check": rows(3, 6, **MADE)}, **PLAIN)
    config = default_config("photos").replace(data_dir=str(tmp_path), train_split="fit", test_split="check")
    data = config.open_data()
    assert read(data) == NAMES
    assert data.metadata["test_split"] == "check"
