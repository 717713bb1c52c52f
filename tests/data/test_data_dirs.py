"""Data directories that cannot be used: of any other kind, without permission, or damaged."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_sets import (
    CHECKSUM_WARNING,
    TRAIN,
    assert_input_error,
    flip_last,
    manual,
    mnist_members,
    pack,
    put,
    version_dir,
)

from snnkd_jax.data import load
from snnkd_jax.data.loading import data_directory
from snnkd_jax.data.on_disk import open_dataset
from snnkd_jax.runs.config import default_config


def test_unusable_data_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for value, mention in (
        (str(tmp_path / "file" / "data"), "cannot write"),
        (str(tmp_path / ("x" * 300)), "cannot look into"),
    ):
        monkeypatch.setenv("TFDS_DATA_DIR", value)
        assert_input_error(lambda: load("mnist"), value, mention, "TFDS_DATA_DIR")


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        ("az://container/data", ["pip install adlfs"]),
        ("AZ:/container/data", ["pip install adlfs"]),  # "az:/" is what pathlib makes of it
        ("hdfs://host/data", ["local path", "gs, s3, az"]),
        ("file:///data", ["local path"]),
        ("~nobody-of-this-name/data", ["home", "give the path"]),
        (" ", ["is empty"]),
    ],
)
def test_folders_that_are_none_are_refused_under_the_name_of_their_argument(
    folder: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mnist", "imagenet2012"):
        config = default_config(name).replace(data_dir=folder)
        assert_input_error(config.open_data, "data_dir", folder.lower().split(":/")[0], *told)
    monkeypatch.setenv("TFDS_DATA_DIR", folder)
    assert_input_error(lambda: load("mnist"), "TFDS_DATA_DIR", *told)


def test_a_home_is_expanded_and_paths_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_directory("~/sets") == data_directory(tmp_path / "sets") == tmp_path / "sets"
    monkeypatch.setenv("TFDS_DATA_DIR", "~/other")
    assert data_directory(None) == tmp_path / "other"
    monkeypatch.chdir(tmp_path)
    assert data_directory("a:b") == tmp_path / "a:b"


@pytest.mark.parametrize(("platform", "advice"), [("win32", "WSL2"), ("linux", "pip install array-record")])
def test_a_missing_package_is_named_before_anything_is_downloaded(
    platform: str, advice: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As array_record on Windows: what is missing, and what needs it not."""
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "array_record.python.array_record_module", None)
        patched.setattr(sys, "platform", platform)
        for name in ("mnist", "cifar100"):
            assert_input_error(lambda name=name: load(name), "array_record", advice, "digits", "from_arrays")
        assert_input_error(lambda: open_dataset("photos", str(data_dir)), "array_record", advice)
        assert list(data_dir.iterdir()) == []
        patched.setitem(sys.modules, "grain", None)
        config = default_config("photos").replace(data_dir=str(data_dir))
        assert_input_error(config.open_data, "package grain", "digits", "from_arrays")


def test_read_only_data_dir(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal is simulated, since root may write to a folder of any mode."""

    def denied(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    assert_input_error(lambda: load("mnist"), "cannot write", str(data_dir), "Permission denied", "TFDS_DATA_DIR")


def test_default_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorflow_datasets" / "mnist" / "3.0.1").mkdir(parents=True)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_input_error(lambda: load("mnist"), str(tmp_path / "tensorflow_datasets" / "mnist" / "3.0.1"))


def edit_info(directory: Path, old: str, new: str) -> None:
    path = directory / "dataset_info.json"
    text = json.dumps(json.loads(path.read_text()))
    assert old in text
    path.write_text(text.replace(old, new))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_record(path: Path) -> None:
    data = path.read_bytes()
    middle = data.rindex(b"IDAT")  # within the last image
    path.write_bytes(data[:middle] + flip_last(data[middle : middle + 20]) + data[middle + 20 :])


PREPARED_DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no info": (lambda d: (d / "dataset_info.json").unlink(), "no dataset_info.json"),
    "cut info": (lambda d: truncate(d / "dataset_info.json"), "cannot be read"),
    "no features": (lambda d: (d / "features.json").unlink(), "cannot be read"),
    "no records": (lambda d: next(d.glob("*-test*")).unlink(), "No such file"),
    "cut records": (lambda d: truncate(next(d.glob("*-test*"))), "cannot be read"),
    "empty records": (lambda d: os.truncate(next(d.glob("*-train*")), 0), "cannot be read"),
    "flipped record": (lambda d: flip_record(next(d.glob("*-train*"))), "hash mismatch"),
    "label out of range": (
        lambda d: (d / "features.json").write_text((d / "features.json").read_text().replace('"10"', '"9"')),
        "labels are from 0 to 8, those of 9 classes",
    ),
    "swapped splits": (
        lambda d: next(d.glob("*-test*")).replace(next(d.glob("*-train*"))),
        "cannot be read",
    ),
    "tfrecord": (lambda d: edit_info(d, "array_record", "tfrecord"), "holds tfrecord files, only array_record"),
    "empty directory": (lambda d: [path.unlink() for path in d.iterdir()], "not a complete TFDS directory"),
}


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
@pytest.mark.parametrize("damage", PREPARED_DAMAGE)
def test_damaged_prepared_directory(damage: str, data_dir: Path) -> None:
    put(manual(data_dir, "mnist"), pack("mnist", mnist_members()[0]))
    load("mnist")
    directory = version_dir(data_dir, "mnist")
    spoil, what = PREPARED_DAMAGE[damage]
    spoil(directory)
    assert_input_error(lambda: load("mnist"), str(directory), what, "move it away", "TFDS_DATA_DIR")


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
def test_smaller_prepared_directory_is_read_with_a_warning(data_dir: Path) -> None:
    put(manual(data_dir, "mnist"), pack("mnist", mnist_members()[0]))
    load("mnist")
    edit_info(version_dir(data_dir, "mnist"), f'["{TRAIN}"]', f'["{TRAIN - 1}"]')
    with pytest.warns(UserWarning, match="holds 14 train examples, the official set 15"):
        dataset = load("mnist")
    assert len(dataset.train_labels) == TRAIN - 1
