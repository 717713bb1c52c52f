"""Synthetic archives of the official data sets: official names and formats, a handful of random images.

And what several tests do with them: compare examples, expect an error, run a program in a process of its own.
"""

import contextlib
import gzip
import io
import os
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnkd_jax.data import Dataset
from snnkd_jax.data.official import OFFICIAL
from snnkd_jax.errors import InputError

TRAIN, TEST = 15, 4  # examples in the synthetic archives; CIFAR-10 spreads the former over five files
CHECKSUM_WARNING = "ignore:.*has SHA-256:UserWarning"  # synthetic archives cannot have the official checksums
OFFICIAL_NAMES = tuple(OFFICIAL)


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


def flip_last(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 255])


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


def write(data_dir: Path, splits: dict[str, list[dict[str, Any]]], version: str = "1.0.0", **features: Any) -> Path:
    """Writes the data set `photos`, by default of dark and bright photographs, and returns its directory."""
    import tensorflow_datasets as tfds

    keys = features.pop("supervised_keys", None)
    features = features or {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["dark", "bright"]),
        "file_name": tfds.features.Text(),
    }

    class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
        name, VERSION = "photos", tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=keys
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {split: self._generate_examples(examples) for split, examples in splits.items()}

        def _generate_examples(self, examples):
            yield from enumerate(examples)

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder: Any = Photos(data_dir=data_dir, file_format="array_record")  # pyright: ignore[reportCallIssue]
        builder.download_and_prepare()
    return data_dir / "photos" / version
