"""Data sets: reading, preparing without TensorFlow, and every way in which files or the network can fail.

The archives are synthetic: official names and formats, a handful of random images. The tests at the end read the
real sets where TFDS_DATA_DIR has them.
"""

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from snnkd_jax.data import NAMES, Dataset, load, prepare
from snnkd_jax.data.official import OFFICIAL
from snnkd_jax.errors import InputError

TRAIN, TEST = 15, 4  # examples in the synthetic archives; CIFAR-10 spreads the former over five files
REAL_DATA_DIR = os.environ.get("TFDS_DATA_DIR")
CHECKSUM_WARNING = "ignore:.*has SHA-256:UserWarning"  # synthetic archives cannot have the official checksums
OFFICIAL_NAMES = tuple(OFFICIAL)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TFDS directory in which every set has TRAIN and TEST examples, and no proxy."""
    for name, official in list(OFFICIAL.items()):
        monkeypatch.setitem(OFFICIAL, name, replace(official, train_size=TRAIN, test_size=TEST))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path


def random_images(shape: tuple[int, int, int], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {split: rng.integers(0, 256, (n, *shape), np.uint8) for split, n in (("train", TRAIN), ("test", TEST))}


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


def tar_gz(members: dict[str, bytes], link: str | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "missing"
            tar.addfile(info)
    return file.getvalue()


def mnist_members(seed: int = 0) -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Returns the unpacked official files, and the images and labels of each split."""
    members, splits = {}, {}
    for split, images in random_images((28, 28, 1), seed).items():
        labels = np.arange(len(images), dtype=np.uint8)[::-1] % 10
        prefix = {"train": "train", "test": "t10k"}[split]
        members[f"{prefix}-images-idx3-ubyte"] = idx(images[..., 0])
        members[f"{prefix}-labels-idx1-ubyte"] = idx(labels)
        splits[split] = images, labels
    return members, splits


def cifar_members(name: str) -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Returns the members of the official tar file, and the images and (fine) labels of each split."""
    members, splits, records = {}, {}, {}
    for split, images in random_images((32, 32, 3), seed=1).items():
        labels = np.arange(len(images), dtype=np.uint8) * (7 if name == "cifar100" else 1) % 100
        labels %= 100 if name == "cifar100" else 10
        leading = [labels % 20, labels] if name == "cifar100" else [labels]
        records[split] = np.column_stack([*leading, images.transpose(0, 3, 1, 2).reshape(len(images), -1)])
        splits[split] = images, labels
    if name == "cifar10":
        for i, batch in enumerate(np.split(records["train"], 5), 1):
            members[f"cifar-10-batches-bin/data_batch_{i}.bin"] = batch.tobytes()
        members["cifar-10-batches-bin/test_batch.bin"] = records["test"].tobytes()
        members["cifar-10-batches-bin/batches.meta.txt"] = "".join(f"ten {i}\n" for i in range(10)).encode() + b"\n"
    else:
        for split, rows in records.items():
            members[f"cifar-100-binary/{split}.bin"] = rows.tobytes()
        members["cifar-100-binary/fine_label_names.txt"] = "".join(f"fine_{i}\n" for i in range(100)).encode()
        members["cifar-100-binary/coarse_label_names.txt"] = "".join(f"coarse_{i}\n" for i in range(20)).encode()
    return members, splits


def pack(name: str, members: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the archives by file name."""
    if name.startswith("cifar"):
        return {f"cifar-{name.removeprefix('cifar')}-binary.tar.gz": tar_gz(members)}
    return {f"{file}.gz": gzip.compress(data) for file, data in members.items()}


def members_of(name: str) -> tuple[dict[str, bytes], dict[str, tuple[np.ndarray, np.ndarray]]]:
    return cifar_members(name) if name.startswith("cifar") else mnist_members(OFFICIAL_NAMES.index(name))


def put(folder: Path, archives: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in archives.items():
        (folder / file).write_bytes(data)


def manual(data_dir: Path, name: str) -> Path:
    return data_dir / "downloads" / "manual" / name


def version_dir(data_dir: Path, name: str) -> Path:
    (directory,) = (path for path in (data_dir / name).iterdir() if not path.name.startswith("incomplete"))
    return directory


def assert_same_examples(dataset: Dataset, splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """TFDS stores examples shuffled, so both sides are sorted by the bytes of their (distinct) images."""
    for split, (images, labels) in splits.items():
        found = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        assert found[0].dtype == np.uint8
        assert found[1].dtype == np.int32
        orders = [sorted(range(len(x)), key=lambda i, x=x: x[i].tobytes()) for x in (found[0], images)]
        np.testing.assert_array_equal(found[0][orders[0]], images[orders[1]])
        np.testing.assert_array_equal(found[1][orders[0]], labels[orders[1]])


def assert_input_error(call: Callable[[], Any], *mentions: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for mention in mentions:
        assert mention in message, f"{mention!r} is not in: {message}"


# --- names and digits ---


def test_names() -> None:
    assert NAMES == ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")


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


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 255])


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
    "too short": ("t10k-labels-idx1-ubyte.gz", lambda d: gzip.compress(gzip.decompress(d)[:-1]), "unpacks to 11 bytes"),
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
        "9218 bytes instead of 9219",
    ),
    "label 10": (
        "cifar10",
        lambda m: tar_gz(changed(m, "batch_5.bin", lambda d: b"\x0a" + d[1:])),
        "label in its train",
    ),
    "9 names": ("cifar10", lambda m: tar_gz(changed(m, "meta.txt", lambda d: d[6:])), "names 9 classes instead of 10"),
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


SETUP = """
import sys, warnings
from dataclasses import replace
import snnkd_jax.data
assert not {{"tensorflow_datasets", "sklearn", "PIL"}} & sys.modules.keys(), "import snnkd_jax.data is not lazy"
from snnkd_jax.data import load, prepare
from snnkd_jax.data.official import OFFICIAL
for key in OFFICIAL:
    OFFICIAL[key] = replace(OFFICIAL[key], train_size={train}, test_size={test})
warnings.simplefilter("ignore")
"""


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh process in which `import tensorflow` works, by way of an empty package in `folder`."""
    (folder / "tensorflow").mkdir(parents=True)
    (folder / "tensorflow" / "__init__.py").touch()
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-c", SETUP.format(train=TRAIN, test=TEST) + textwrap.dedent(code)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


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


# --- data directories that cannot be used ---


def test_unusable_data_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for value, mention in (
        (str(tmp_path / "file" / "data"), "cannot write"),
        (str(tmp_path / ("x" * 300)), "cannot look into"),
        ("gs://bucket/data", "not a local folder"),
    ):
        monkeypatch.setenv("TFDS_DATA_DIR", value)
        assert_input_error(lambda: load("mnist"), value, mention, "TFDS_DATA_DIR")


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
        "train labels from 0 to 9 for 9 classes",
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


# --- downloads ---


@contextlib.contextmanager
def serving(bodies: dict[str, bytes], headers: dict[str, str] | None = None) -> Iterator[str]:
    """Serves `bodies` by file name on loopback, with false `headers` where given."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies.get(self.path.rsplit("/", 1)[1])
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            for key, value in (headers or {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/folder/"
        server.shutdown()


def publish(monkeypatch: pytest.MonkeyPatch, base: str, archives: dict[str, bytes]) -> None:
    """Makes `base` the official address, and the checksums and sizes of `archives` the official ones."""
    official = {
        file: (base + file, SimpleNamespace(size=len(data), checksum=hashlib.sha256(data).hexdigest()))
        for file, data in archives.items()
    }
    monkeypatch.setattr(prepare, "_official_files", lambda _: official)


def test_download(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files are downloaded, one is there already; no warning, since all have the official checksum."""
    members, splits = mnist_members()
    archives = pack("mnist", members)
    local = "train-images-idx3-ubyte.gz"
    put(manual(data_dir, "mnist"), {local: archives[local]})
    with serving({file: data for file, data in archives.items() if file != local}) as base:
        publish(monkeypatch, base, archives)
        assert_same_examples(load("mnist"), splits)
    assert {path.name: path.read_bytes() for path in manual(data_dir, "mnist").iterdir()} == archives


@pytest.mark.parametrize("fault", ["checksum", "longer", "shorter", "broken connection", "broken chunks", "not found"])
def test_bad_download_leaves_no_file(fault: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = pack("cifar10", cifar_members("cifar10")[0])
    ((file, data),) = archives.items()
    bodies, headers, what = {
        "checksum": ({file: flip_last(data)}, None, "SHA-256"),
        "longer": ({file: data + b"\0"}, None, "another size"),
        "shorter": ({file: data[:-1]}, None, "another size"),
        "broken connection": ({file: data[:-1]}, {"Content-Length": str(len(data))}, ""),
        "broken chunks": ({file: data}, {"Transfer-Encoding": "chunked"}, "IncompleteRead"),
        "not found": ({}, None, "answered 404"),
    }[fault]
    with serving(bodies, headers) as base:
        publish(monkeypatch, base, archives)
        assert_input_error(lambda: load("cifar10"), "downloading failed", what, file, base)
    assert list(manual(data_dir, "cifar10").iterdir()) == []
    assert not (data_dir / "cifar10").exists()


def test_error_names_the_files_still_missing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = pack("mnist", mnist_members()[0])
    served = dict(sorted(archives.items())[:2])  # the first two of four
    with serving(served) as base:
        publish(monkeypatch, base, archives)
        with pytest.raises(InputError) as caught:
            load("mnist")
    assert [file in str(caught.value) for file in sorted(archives)] == [False, False, True, True]
    assert {path.name for path in manual(data_dir, "mnist").iterdir()} == served.keys()


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_no_network_fails_within_ten_seconds(kind: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port stands for a missing network, a socket that never answers for a firewall that drops packets."""
    archives = pack("mnist", mnist_members()[0])
    local = "t10k-labels-idx1-ubyte.gz"
    put(manual(data_dir, "mnist"), {local: archives[local]})
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if kind == "silent":
            server.listen()
        base = f"http://127.0.0.1:{server.getsockname()[1]}/"
        publish(monkeypatch, base, archives)
        start = time.monotonic()
        missing = [file for file in archives if file != local]
        assert_input_error(
            lambda: load("mnist"), "--dataset mnist", str(manual(data_dir, "mnist")), *missing, "--dataset digits", base
        )
        assert time.monotonic() - start < 10


def test_hanging_name_lookup(data_dir: Path) -> None:
    """A name lookup cannot be interrupted: neither the call nor the end of the process may wait for it."""
    code = """
        import socket, time
        from snnkd_jax.data import download
        from snnkd_jax.errors import InputError
        download._ANSWER_SECONDS = 1
        socket.getaddrinfo = lambda *args, **kwargs: time.sleep(60)
        try:
            load("cifar10")
        except InputError as error:
            print(error)
    """
    start = time.monotonic()
    done = run_python(code, data_dir / "packages")
    assert time.monotonic() - start < 10
    assert done.returncode == 0, done.stderr
    assert "did not answer within 1 s" in done.stdout
    assert "--dataset digits" in done.stdout


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
def test_real_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not REAL_DATA_DIR or not (Path(REAL_DATA_DIR) / name).exists():
        pytest.skip(f"TFDS_DATA_DIR ({REAL_DATA_DIR or 'not set'}) has no {name}")
    monkeypatch.setenv("TFDS_DATA_DIR", REAL_DATA_DIR)
    dataset = load(name)
    train, test = HISTOGRAMS[name]
    assert np.bincount(dataset.train_labels).tolist() == train
    assert np.bincount(dataset.test_labels).tolist() == test
    assert dataset.train_images.shape == (sum(train), *dataset.image_shape)
    assert dataset.test_images.shape == (sum(test), *dataset.image_shape)
    assert dataset.image_shape == ((32, 32, 3) if name.startswith("cifar") else (28, 28, 1))
    assert dataset.num_classes == len(train)
    assert dataset.train_images.min() == 0
    assert dataset.train_images.max() == 255
