"""Names of classes, as files and other programs leave them."""

import codecs
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_sets import CHECKSUM_WARNING, assert_input_error, cifar_members, manual, pack, put, version_dir

from snnkd_jax.data import Dataset, from_arrays, load

IMAGES, LABELS = np.zeros((6, 2, 2, 1), np.uint8), np.arange(6, dtype=np.int32) % 3


def named(class_names: Any) -> tuple[str, ...]:
    return from_arrays((IMAGES, LABELS), (IMAGES, LABELS), class_names).class_names


@pytest.mark.parametrize(
    "content",
    [
        b"cat\nd\xc3\xb6g\neel\n",
        codecs.BOM_UTF8 + b"cat\r\nd\xc3\xb6g\r\neel",
        codecs.BOM_UTF8 + b"cat\r\nd\xc3\xb6g\r\neel\r\n\r\n  \r\n",
        b"cat \rd\xc3\xb6g\t\r eel",
        "cat\r\ndög\r\neel\r\n".encode("utf-16"),
        codecs.BOM_UTF16_BE + "cat\ndög\neel".encode("utf-16-be"),
    ],
    ids=["plain", "BOM, CRLF", "blank lines at the end", "CR, space", "UTF-16", "UTF-16 BE"],
)
def test_a_text_file_has_a_name_per_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert named(path) == named(str(path)) == ("cat", "dög", "eel")


def test_names_are_cleaned_wherever_they_come_from() -> None:
    names = ["\ufeffcat", "dog\r", np.str_(" eel")]
    assert named(names) == ("cat", "dog", "eel")
    assert Dataset("own", IMAGES, LABELS, IMAGES, LABELS, tuple(names)).class_names == ("cat", "dog", "eel")
    assert named([b"cat", b"dog", b"eel"]) == ("cat", "dog", "eel")
    assert named([7, 8, 9]) == ("7", "8", "9")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"cat\n\neel\n", ["class 1 is empty"]),
        (b"cat\ndog\ncat\n", ["classes 0 and 2", "'cat'"]),
        (b"cat\n cat\t\neel", ["classes 0 and 1", "'cat'"]),
        (b"caf\xe9\ndog\neel", ["cannot be read"]),
        (b"cat\ndog\n", ["2 in row 2", "2 classes"]),
    ],
)
def test_other_names_are_refused(content: bytes, told: list[str], tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    assert_input_error(lambda: named(path), *told, *([] if "row" in told[0] else [f"class_names {path}"]))
    assert_input_error(lambda: named(tmp_path / "nmes.txt"), "nmes.txt", f"did you mean {path}?")


@pytest.mark.filterwarnings(CHECKSUM_WARNING)
def test_the_files_of_a_prepared_set_are_cleaned_too(data_dir: Path) -> None:
    put(manual(data_dir, "cifar10"), pack("cifar10", cifar_members("cifar10")[0]))
    load("cifar10")
    file = version_dir(data_dir, "cifar10") / "label.labels.txt"
    names = [f"thing {i}" for i in range(10)]
    file.write_bytes(codecs.BOM_UTF8 + "\r\n".join(names).encode() + b"\r\n\r\n")
    assert load("cifar10").class_names == tuple(names)
