"""The official archives: gzipped idx files (MNIST, Fashion-MNIST) and CIFAR's binary version.

Everything is checked (checksums of gzip, headers, lengths, label ranges, member names), since an archive on a user's
disk may be any file with the right name.

    idx     big-endian int32 header: 0x0800 + 8-bit number of dimensions, then the dimensions; then the bytes
    CIFAR   per image 1 label byte (CIFAR-100: coarse, then fine), then 3072 bytes [channel, row, column]

Sources: the format descriptions on the data sets' home pages, http://yann.lecun.com/exdb/mnist/ and
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import io
import math
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from snnkd_jax.data.class_names import text_lines
from snnkd_jax.data.official import OFFICIAL
from snnkd_jax.errors import InputError

Splits = dict[str, dict[str, np.ndarray]]
"""Split to feature of the stock TFDS builder to array: "image", uint8 `[N, H, W, C]`, and labels, uint8 `[N]`."""


def read_archives(name: str, files: Mapping[str, Path]) -> tuple[Splits, dict[str, list[str]]]:
    """Reads the archives of the data set `name`; `files` gives the path of each by its official file name.

    Returns the splits, and by feature the class names of the labels that have some in the archive. Raises `InputError`,
    which names the file and the fault, for an archive that is not the official one.
    """
    sizes = {"train": OFFICIAL[name].train_size, "test": OFFICIAL[name].test_size}
    if name in _CIFAR:
        return _read_cifar(name, *files.values(), sizes=sizes)
    return _read_mnist(files, sizes), {}


def _read_mnist(files: Mapping[str, Path], sizes: Mapping[str, int]) -> Splits:
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        labels_path = files[f"{prefix}-labels-idx1-ubyte.gz"]
        images = _read_idx(files[f"{prefix}-images-idx3-ubyte.gz"], (sizes[split], 28, 28))
        labels = _read_idx(labels_path, (sizes[split],))
        _check_labels(labels, 10, labels_path, "its labels")
        splits[split] = {"image": images[..., None], "label": labels}
    return splits


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    data = _gunzip(path)
    header = struct.pack(f">{1 + len(shape)}i", 0x0800 + len(shape), *shape)
    _check(path, "its idx header is", data[: len(header)].hex(), header.hex())
    _check(path, "bytes to which it unpacks:", len(data), len(header) + math.prod(shape))
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape)


# Folder, files of each split, and for each label byte in order: its feature, the file of class names, their number.
_CIFAR = {
    "cifar10": (
        "cifar-10-batches-bin",
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]},
        {"label": ("batches.meta.txt", 10)},
    ),
    "cifar100": (
        "cifar-100-binary",
        {"train": ["train.bin"], "test": ["test.bin"]},
        {"coarse_label": ("coarse_label_names.txt", 20), "label": ("fine_label_names.txt", 100)},
    ),
}


def _read_cifar(name: str, path: Path, sizes: Mapping[str, int]) -> tuple[Splits, dict[str, list[str]]]:
    folder, members, labels = _CIFAR[name]
    unpacked = _untar(path)

    def member(file: str) -> bytes:
        if f"{folder}/{file}" not in unpacked:
            raise _damaged(path, f"it has no {folder}/{file}")
        return unpacked[f"{folder}/{file}"]

    class_names = {}
    for feature, (file, num_classes) in labels.items():
        class_names[feature] = text_lines(member(file))
        _check(path, f"classes that {file} names:", len(class_names[feature]), num_classes)
    splits = {}
    for split, files in members.items():
        shape = sizes[split] // len(files), len(labels) + 3 * 32 * 32
        for file in files:
            _check(path, f"bytes of {file}:", len(member(file)), math.prod(shape))
        rows = np.frombuffer(b"".join(map(member, files)), np.uint8).reshape(sizes[split], -1)
        splits[split] = {"image": rows[:, len(labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)}
        for i, (feature, (_, num_classes)) in enumerate(labels.items()):
            _check_labels(rows[:, i], num_classes, path, f"the values of {feature} in its {split} files")
            splits[split][feature] = rows[:, i]
    return splits, class_names


def _untar(path: Path) -> dict[str, bytes]:
    unpacked = _gunzip(path)
    try:
        with tarfile.open(fileobj=io.BytesIO(unpacked), mode="r:") as tar:
            return {info.name: file.read() for info in tar if (file := tar.extractfile(info)) is not None}
    except (tarfile.TarError, KeyError) as error:  # KeyError: a link to a member that is not there
        raise _damaged(path, f"not a tar file ({error})") from error


def _gunzip(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error


def _check_labels(labels: np.ndarray, num_classes: int, path: Path, what: str) -> None:
    if labels.max() >= num_classes:
        raise _damaged(path, f"{what} go up to {labels.max()} for {num_classes} classes")


def _check(path: Path, what: str, found: object, official: object) -> None:
    if found != official:
        raise _damaged(path, f"{what} {found} instead of {official}")


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is not the official archive: {what}; delete it to have it downloaded, or replace it")
