"""Recordings on disk: each format from bytes laid out by hand, the folder, and one line for each fault."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_bytes import atis, npy, npz, write
from synthetic_sets import assert_input_error

from snnkd_jax.data import Binning, load
from snnkd_jax.data.event_files import read_events

X, Y, T, P = [3, 33, 0, 7], [2, 0, 33, 7], [5, 5, 70_000, 8_000_000], [1, 0, 0, 1]
SENSOR = 34, 34


EVENTS = list(zip(X, Y, T, P, strict=True))
STRUCTURED = np.array(
    [(t, x, y, bool(p)) for x, y, t, p in EVENTS], [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")]
)
COLUMNS = np.array(EVENTS)
SIGNED = np.where(COLUMNS == [[-1, -1, -1, 0]], -1, COLUMNS)
BIN = atis(*EVENTS)
FILES = {
    "structured.npy": npy(STRUCTURED),
    "columns.npy": npy(COLUMNS),
    "floats.npy": npy(COLUMNS.astype(np.float32)),
    "signed.npy": npy(SIGNED),
    "separate.npz": npz(x=X, y=Y, t=T, p=np.array(P, np.int8)),
    "one.npz": npz(events=STRUCTURED),
    "n-mnist.bin": BIN,
}


@pytest.mark.parametrize("name", FILES)
def test_what_was_written_is_read(name: str, tmp_path: Path):
    events = read_events(write(tmp_path / name, FILES[name]), SENSOR)
    found = [getattr(events, field).tolist() for field in "xytp"]
    assert found == [X, Y, T, P]


def test_times_of_bin_files_go_on_after_an_overflow(tmp_path):
    """2^13 for each event with y = 240, from there on."""
    content = atis((1, 1, 8000, 0), (0, 240, 0, 0), (2, 1, 10, 1), (0, 240, 0, 0), (3, 1, 20, 1))
    events = read_events(write(tmp_path / "a.bin", content), SENSOR)
    assert (events.x.tolist(), events.t.tolist()) == ([1, 2, 3], [8000, 8192 + 10, 2 * 8192 + 20])


def changed(field: str, event: int, value: int) -> bytes:
    array = COLUMNS.copy()
    array[event, "xytp".index(field)] = value
    return npy(array)


FAULTS: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "cut bin": ("a.bin", BIN[:-2], ("18 bytes", "event 3", "copy it again")),
    "cut npy": ("a.npy", npy(COLUMNS)[:-9], ("cannot be read", "copy it again")),
    "cut npz": ("a.npz", npz(x=X, y=Y, t=T, p=P)[:-30], ("cannot be read", "copy it again")),
    "empty bin": ("a.bin", b"", ("no events", "leave it out")),
    "empty npy": ("a.npy", npy(COLUMNS[:0]), ("no events", "leave it out")),
    "no bytes": ("a.npy", b"", ("cannot be read",)),
    "unsorted": ("a.npy", changed("t", 2, 1), ("event 2: t = 1", "sort")),
    "unsorted bin": ("a.bin", atis((1, 1, 9, 0), (1, 1, 8, 0)), ("event 1: t = 8", "sort")),
    "out of the sensor": ("a.npy", changed("x", 1, 34), ("event 1: x = 34", "34x34")),
    "out of the sensor, bin": ("a.bin", atis((1, 35, 9, 0)), ("event 0: y = 35", "34x34")),
    "polarity": ("a.npy", changed("p", 3, 2), ("event 3: p = 2", "1 for brighter")),
    "two conventions": ("a.npy", changed("p", 3, -1), ("event 1: p = 0", "others are -1")),
    "other columns": ("a.npy", npy(COLUMNS[:, :3]), ("(4, 3)", "[N, 4]")),
    "other names": ("a.npz", npz(x=X, y=Y, timestamp=T, p=P), ("timestamp", "give x, y, t and p")),
    "fractions": ("a.npy", npy(COLUMNS + 0.5), ("event 0: x = 3.5", "columns x, y, t, p")),
    "objects": ("a.npy", npy(np.zeros(0)).replace(b"<f8", b"|O "), ("cannot be read",)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_ends_in_one_line_that_names_file_and_event(fault: str, tmp_path: Path):
    name, content, told = FAULTS[fault]
    path = write(tmp_path / name, content)
    assert_input_error(lambda: read_events(path, SENSOR), str(path), *told)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings to train on and one to test on, of each of the classes 2 and 10, in several formats."""
    root = tmp_path / "set"
    for label in ("10", "2"):
        content = atis((int(label), 1, 7, 1), (1, 1, 8, 0))
        write(root / "Train" / label / "b.bin", content)
        write(root / "Train" / label / "a.npy", npy(np.array([(int(label), 2, 7, 1), (1, 1, 9, 0)])))
        write(root / "Test" / label / "c.bin", content)
    return root


def loaded(folder: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"data_dir": str(folder.parent / "data"), "sensor_size": "4x12", "binning": Binning(2)}
    return load(f"events:{folder}", **given | options)


def test_a_folder_is_a_data_set_in_the_order_of_its_names(folder):
    data = loaded(folder)
    assert (data.name, data.class_names, data.frames, data.image_shape) == ("events:set", ("2", "10"), 2, (4, 12, 2))
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 0, 1, 1], [0, 1])
    expected = np.zeros((2, 4, 12, 2), np.uint8)
    expected[0, 2, 2, 1] = expected[1, 1, 1, 0] = 1  # a.npy of class 2
    np.testing.assert_array_equal(data.train_images[0], expected)
    assert data.train_images.sum() == 8


def test_other_numbers_of_workers_give_the_same_frames(folder):
    for label in ("2", "10"):
        for i in range(12):
            write(folder / "Train" / label / f"r{i}.bin", atis((int(label), i % 4, i, 1), (1, 1, 90, 0)))
    first = loaded(folder)
    for workers in (2, 7):
        data = loaded(folder, data_dir=str(folder.parent / f"data{workers}"), workers=workers)
        assert data.identity == first.identity
    write(folder / "Train" / "2" / "r3.bin", b"123")
    assert_input_error(lambda: loaded(folder, workers=3), "r3.bin", "3 bytes")


def test_prepared_frames_are_found_again_by_settings_and_recordings(folder, monkeypatch):
    first = loaded(folder)
    (file,) = (folder.parent / "data" / "events").iterdir()
    read = []
    monkeypatch.setattr("snnkd_jax.data.recordings.read_events", lambda *given: read.append(1) or read_events(*given))
    again = loaded(folder)
    assert (again.identity, read) == (first.identity, [])
    for options in ({"binning": Binning(3)}, {"binning": Binning(2, "count")}, {"sensor_size": "5x12"}):
        read.clear()
        loaded(folder, **options)
        assert len(read) == 6
    read.clear()
    write(folder / "Train" / "2" / "d.bin", atis((3, 3, 1, 1)))
    assert len(loaded(folder).train_labels) == 5
    assert len(read) == 7
    file.write_bytes(file.read_bytes().replace(bytes(100), bytes(99) + b"\1", 1))
    (folder / "Train" / "2" / "d.bin").unlink()
    assert_input_error(lambda: loaded(folder), str(file), "damaged", "delete it")


def test_a_preparation_that_is_killed_leaves_nothing_that_is_taken_for_whole(folder, monkeypatch):
    write(folder / "Test" / "2" / "z.bin", b"123")
    assert_input_error(lambda: loaded(folder), "z.bin", "3 bytes")
    assert list((folder.parent / "data" / "events").iterdir()) == []
    (folder / "Test" / "2" / "z.bin").unlink()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        loaded(folder)
    assert list((folder.parent / "data" / "events").iterdir()) == []


def test_what_is_missing_in_a_folder_is_told(folder):
    assert_input_error(lambda: loaded(folder, sensor_size=None), "sensor_size", "does not say it", "HEIGHTxWIDTH")
    assert_input_error(lambda: loaded(folder, sensor_size="34"), "sensor_size='34'", "HEIGHTxWIDTH")
    assert_input_error(lambda: loaded(folder.parent / "sett"), "sett is not a folder", "did you mean")
    write(folder / "Test" / "3" / "a.bin", BIN)
    assert_input_error(lambda: loaded(folder), "test has the classes 3", "train has not")
    write(folder / "Train" / "3" / "a.h5", BIN)
    assert_input_error(lambda: loaded(folder), "a.h5 is none of .npy, .npz, .bin", "convert it")
    (folder / "Test").rename(folder / "check")
    assert_input_error(lambda: loaded(folder), "has no folder test")
    assert_input_error(lambda: load("digits", sensor_size="4x4"), "sensor_size='4x4'", "digits")
