"""Data sets: preparing from archives without TensorFlow, and reading; at the end the real ones, where there are any.

The archives are synthetic.
"""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from real_data import load_real
from synthetic_sets import (
    CHECKSUM_WARNING,
    OFFICIAL_NAMES,
    TEST,
    TRAIN,
    assert_input_error,
    assert_same_examples,
    cifar_members,
    flip_last,
    idx,
    manual,
    members_of,
    mnist_members,
    pack,
    put,
    run_python,
    tar_gz,
    version_dir,
)

from snnkd_jax.data import NAMES, load, prepare
from snnkd_jax.errors import InputError

# --- names and digits ---


def test_names() -> None:
    events = ("event_digits", "nmnist", "dvs_gesture", "cifar10_dvs", "ncaltech101")
    assert ("digits", *events, "mnist", "fashion_mnist", "cifar10", "cifar100") == NAMES


def test_unknown_name() -> None:
    assert_input_error(lambda: load("cifar-10"), "dataset", "'cifar-10'", "did you mean cifar10?", *NAMES)
    with pytest.raises(InputError, match="imagenet") as caught:
        load("imagenet")
    assert "did you mean" not in str(caught.value)


def test_digits() -> None:
    from sklearn.datasets import load_digits

    raw: Any = load_digits()
    digits = load("digits")
    assert digits.image_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.class_names[3] == "3"
    assert len(digits.train_images) == len(digits.train_labels) == 1437
    assert len(digits.test_images) == len(digits.test_labels) == 360
    assert digits.train_images.dtype == np.uint8
    assert digits.train_labels.dtype == np.int32
    order = np.random.default_rng(0).permutation(1797)
    images = np.concatenate([digits.train_images, digits.test_images])
    np.testing.assert_array_equal(np.concatenate([digits.train_labels, digits.test_labels]), raw.target[order])
    assert set(np.unique(images)) == {round(v * 255 / 16) for v in range(17)}
    assert np.abs(images[..., 0] / 255 * 16 - raw.images[order]).max() < 0.04


# --- preparing from local archives ---


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_prepares_and_reads_back(name: str, data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import tensorflow_datasets as tfds

    members, splits = members_of(name)
    put(manual(data_dir, name), pack(name, members))
    dataset = load(name)
    assert dataset.name == name
    assert_same_examples(dataset, splits)
    captured = capfd.readouterr()
    assert captured.out == f"preparing {name} in {data_dir} ...\n"
    assert captured.err == ""

    stock: Any = tfds.builder(name, data_dir=data_dir, file_format="array_record")  # the class that TFDS registers
    assert stock.is_prepared()
    assert version_dir(data_dir, name).name == str(stock.version)
    fresh = tfds.builder(name, data_dir=data_dir / "elsewhere")
    assert repr(stock.info.features) == repr(fresh.info.features)
    assert {split: info.num_examples for split, info in stock.info.splits.items()} == {"train": TRAIN, "test": TEST}
    assert tuple(stock.info.features["label"].names) == dataset.class_names
    for split in ("train", "test"):
        examples = list(stock.as_data_source(split))
        np.testing.assert_array_equal([e["image"] for e in examples], getattr(dataset, f"{split}_images"))
        np.testing.assert_array_equal([e["label"] for e in examples], getattr(dataset, f"{split}_labels"))
        if name == "cifar100":
            assert all(e["coarse_label"] == e["label"] % 20 for e in examples)
        if name.startswith("cifar"):
            by_id = {e["id"].decode(): e["image"] for e in examples}
            np.testing.assert_array_equal(by_id[f"{split}_00003"], splits[split][0][3])


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
def test_class_names(data_dir: Path) -> None:
    for name in OFFICIAL_NAMES:
        put(manual(data_dir, name), pack(name, members_of(name)[0]))
    assert load("mnist").class_names == tuple("0123456789")
    assert load("fashion_mnist").class_names[-1] == "Ankle boot"
    assert load("cifar10").class_names[4] == "ten 4"
    assert load("cifar100").class_names[42] == "fine_42"
    assert load("cifar100").num_classes == 100


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
def test_cifar_archive_directly_in_manual(data_dir: Path) -> None:
    members, splits = cifar_members("cifar10")
    put(data_dir / "downloads" / "manual", pack("cifar10", members))
    assert_same_examples(load("cifar10"), splits)


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
def test_prepares_once(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives = pack("mnist", mnist_members()[0])
    put(manual(data_dir, "mnist"), archives)
    first = load("mnist")
    for file in archives:
        (manual(data_dir, "mnist") / file).unlink()
    capsys.readouterr()
    np.testing.assert_array_equal(load("mnist").train_images, first.train_images)
    assert capsys.readouterr().out == ""


def test_checksum_warning(data_dir: Path) -> None:
    archives = pack("cifar10", cifar_members("cifar10")[0])
    put(manual(data_dir, "cifar10"), archives)
    with pytest.warns(UserWarning, match="SHA-256") as record:
        load("cifar10")
    (message,) = (str(warning.message) for warning in record)
    (data,) = archives.values()
    assert str(manual(data_dir, "cifar10") / "cifar-10-binary.tar.gz") in message
    assert hashlib.sha256(data).hexdigest() in message
    assert "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd" in message  # TFDS's, of the official file


MNIST_DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "not gzip": ("train-images-idx3-ubyte.gz", lambda _: b"<html>not found</html>", "gzip"),
    "truncated gzip": ("t10k-images-idx3-ubyte.gz", lambda data: data[:-20], "end-of-stream"),
    "flipped bit": (
        "train-images-idx3-ubyte.gz",
        lambda data: data[:1000] + flip_last(data[1000:2000]) + data[2000:],
        "",
    ),
    "labels for images": (
        "train-images-idx3-ubyte.gz",
        lambda _: gzip.compress(idx(np.zeros(TRAIN, np.uint8))),
        "idx header is 00000801",
    ),
    "too few": ("t10k-labels-idx1-ubyte.gz", lambda _: gzip.compress(idx(np.zeros(TEST - 1, np.uint8))), "idx header"),
    "too short": ("t10k-labels-idx1-ubyte.gz", lambda d: gzip.compress(gzip.decompress(d)[:-1]), "unpacks: 11"),
    "too long": ("t10k-labels-idx1-ubyte.gz", lambda d: gzip.compress(gzip.decompress(d) + b"\0"), "instead of 12"),
    "label 10": (
        "train-labels-idx1-ubyte.gz",
        lambda _: gzip.compress(idx(np.full(TRAIN, 10, np.uint8))),
        "its labels go up to 10 for 10 classes",
    ),
    "bad deflate": ("train-images-idx3-ubyte.gz", lambda data: data[:10] + b"\xff" * 100, "decompressing"),
    "empty": ("train-labels-idx1-ubyte.gz", lambda _: b"", "idx header is  instead of"),
}


@pytest.mark.parametrize("damage", MNIST_DAMAGE)
def test_damaged_mnist(damage: str, data_dir: Path) -> None:
    file, spoil, what = MNIST_DAMAGE[damage]
    archives = pack("mnist", mnist_members()[0])
    put(manual(data_dir, "mnist"), archives | {file: spoil(archives[file])})
    assert_input_error(lambda: load("mnist"), str(manual(data_dir, "mnist") / file), "not the official archive", what)
    assert not (data_dir / "mnist").exists()


def without(members: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: data for key, data in members.items() if not key.endswith(name)}


def changed(members: dict[str, bytes], name: str, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    return {key: change(data) if key.endswith(name) else data for key, data in members.items()}


CIFAR_DAMAGE: dict[str, tuple[str, Callable[[dict[str, bytes]], bytes], str]] = {
    "no batch": (
        "cifar10",
        lambda m: tar_gz(without(m, "data_batch_3.bin")),
        "it has no cifar-10-batches-bin/data_batch_3",
    ),
    "python version": (
        "cifar10",
        lambda m: tar_gz({key.replace("bin/", "py/"): data for key, data in m.items()}),
        "it has no cifar-10-batches-bin/batches.meta.txt",
    ),
    "short batch": (
        "cifar10",
        lambda m: tar_gz(changed(m, "batch_2.bin", lambda d: d[:-1])),
        "batch_2.bin: 9218 instead of 9219",
    ),
    "label 10": (
        "cifar10",
        lambda m: tar_gz(changed(m, "batch_5.bin", lambda d: b"\x0a" + d[1:])),
        "label in its train",
    ),
    "9 names": ("cifar10", lambda m: tar_gz(changed(m, "meta.txt", lambda d: d[6:])), "names: 9 instead of 10"),
    "not tar": ("cifar10", lambda _: gzip.compress(b"x" * 5000), "not a tar file"),
    "cut tar": ("cifar10", lambda m: gzip.compress(gzip.decompress(tar_gz(m))[:20000]), "not a tar file"),
    "dangling link": ("cifar10", lambda _: tar_gz({}, link="cifar-10-batches-bin/test_batch.bin"), "not a tar file"),
    "cut gzip": ("cifar100", lambda m: tar_gz(m)[:-100], "end-of-stream"),
    "coarse label 20": (
        "cifar100",
        lambda m: tar_gz(changed(m, "test.bin", lambda d: b"\x14" + d[1:])),
        "coarse_label in its test files go up to 20 for 20 classes",
    ),
}


@pytest.mark.parametrize("damage", CIFAR_DAMAGE)
def test_damaged_cifar(damage: str, data_dir: Path) -> None:
    name, spoil, what = CIFAR_DAMAGE[damage]
    (file,) = pack(name, {})
    put(manual(data_dir, name), {file: spoil(cifar_members(name)[0])})
    assert_input_error(lambda: load(name), str(manual(data_dir, name) / file), "not the official archive", what)
    assert not (data_dir / name).exists()


def test_without_tensorflow(data_dir: Path) -> None:
    for name in OFFICIAL_NAMES:
        put(manual(data_dir, name), pack(name, members_of(name)[0]))
    code = """
        for attempt in ("prepare", "read"):
            for key in OFFICIAL:
                assert len(load(key).test_labels) == 4
        assert "tensorflow" not in sys.modules
        import tensorflow  # it could have been imported
    """
    done = run_python(code, data_dir / "packages")
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
def test_killed_preparation_leaves_nothing_to_mistake(data_dir: Path) -> None:
    members, splits = mnist_members()
    put(manual(data_dir, "mnist"), pack("mnist", members))
    code = """
        import os
        png, calls = prepare._png, []
        def dying(image):
            calls.append(1)
            if len(calls) == 17:  # in the second split
                os._exit(9)
            return png(image)
        prepare._png = dying
        load("mnist")
    """
    done = run_python(code, data_dir / "packages")
    assert done.returncode == 9, done.stderr
    assert [path.name.startswith("incomplete") for path in (data_dir / "mnist").iterdir()] == [True]
    assert_same_examples(load("mnist"), splits)


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
def test_full_disk(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(manual(data_dir, "mnist"), pack("mnist", mnist_members()[0]))

    def no_space(_: np.ndarray) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "_png", no_space)
    assert_input_error(lambda: load("mnist"), str(data_dir), "No space left on device")
    assert list((data_dir / "mnist").iterdir()) == []


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
def test_another_process_is_faster(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members, splits = mnist_members()
    put(manual(data_dir, "mnist"), pack("mnist", members))
    load("mnist")
    finished = version_dir(data_dir, "mnist")
    aside = finished.rename(data_dir / "aside")
    png = prepare._png

    def slow(image: np.ndarray) -> bytes:
        if aside.exists():
            aside.rename(finished)
        return png(image)

    monkeypatch.setattr(prepare, "_png", slow)
    assert_same_examples(load("mnist"), splits)
    assert list(finished.parent.iterdir()) == [finished]


# --- real data ---

HISTOGRAMS = {
    "mnist": (
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ),
    "fashion_mnist": ([6000] * 10, [1000] * 10),
    "cifar10": ([5000] * 10, [1000] * 10),
    "cifar100": ([500] * 100, [100] * 100),
}


@pytest.mark.parametrize("name", OFFICIAL_NAMES)
def test_real_data(name: str) -> None:
    dataset = load_real(name)
    train, test = HISTOGRAMS[name]
    assert np.bincount(dataset.train_labels).tolist() == train
    assert np.bincount(dataset.test_labels).tolist() == test
    assert dataset.train_images.shape == (sum(train), *dataset.image_shape)
    assert dataset.test_images.shape == (sum(test), *dataset.image_shape)
    assert dataset.image_shape == ((32, 32, 3) if name.startswith("cifar") else (28, 28, 1))
    assert dataset.num_classes == len(train)
    assert dataset.train_images.min() == 0
    assert dataset.train_images.max() == 255
