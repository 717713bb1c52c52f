"""Published sets of events in small: their layouts and archives, their splits, and what is missing in them."""

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from event_bytes import aedat2, aedat3, atis, events4, header4, npy, packet3, packet4, write
from synthetic_sets import assert_input_error, tar_gz

from snnkd_jax.data import Binning, from_arrays, load
from snnkd_jax.data.event_archives import unpack
from snnkd_jax.data.event_sets import EVENT_SETS, ordered_like, published_recordings, split, split_digest
from snnkd_jax.data.recordings import Recording


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def some(i: int) -> bytes:
    """Three events, the first at x = i."""
    return atis((i, 1, 5, 1), (1, 1, 6, 0), (2, 3, 7, 0))


NMNIST = {
    f"{part}/{digit}/0000{i}.bin": some(i)
    for part, digit, i in [("Train", 5, 1), ("Train", 0, 2), ("Train", 4, 3), ("Test", 7, 1), ("Test", 2, 2)]
}
CALTECH = {f"Caltech101/{name}/image_000{i}.bin": some(i) for name in ("ant", "bass") for i in range(1, 6)}
CALTECH |= {"Caltech101_annotations/ant/annotation_0001.bin": b"other"}
AEDAT4 = header4() + packet4(events4((1, 2, 3, 1), (1, 2, 4, 0)))
CIFAR = {name: {f"{name}/cifar10_{name}_{i}.aedat": aedat2((i, 2, 3, 1), (1, 2, 4, 0)) for i in range(10)}
         for name in ("cat", "dog")}  # fmt: skip
TONIC = {f"ibmGesture{part}/user{user}_led/{i}.npy": npy(np.array([[i, 1, 1, 5], [3, 4, 0, 9]], float))
         for part, user in (("Train", "01"), ("Test", "24")) for i in (0, 10)}  # fmt: skip
GESTURE = aedat3(packet3((1, 0, 90, 1), (2, 0, 100, 1), (3, 0, 150, 0), (4, 0, 200, 1), (5, 0, 250, 1)))
IBM = {
    "DvsGesture/trials_to_train.txt": b"user01_led.aedat\n",
    "DvsGesture/trials_to_test.txt": b"user24_led.aedat\n",
    "DvsGesture/user01_led.aedat": GESTURE,
    "DvsGesture/user01_led_labels.csv": b"class,startTime_usec,endTime_usec\n8,100,200\n1,200,260\n",
    "DvsGesture/user24_led.aedat": GESTURE,
    "DvsGesture/user24_led_labels.csv": b"class,startTime_usec,endTime_usec\n8,90,151\n",
}
SETS: dict[str, tuple[str, dict[str, bytes], dict[str, int]]] = {
    "nmnist": ("NMNIST", {"train.zip": zipped(NMNIST)}, {"train": 3, "test": 2}),
    "ncaltech101": ("ncaltech101", {"archive.zip": zipped({"Caltech101.zip": zipped(CALTECH)})}, {"all": 10}),
    "cifar10_dvs": ("CIFAR10DVS", {f"{k}.zip": zipped(files) for k, files in CIFAR.items()}, {"all": 20}),
    "dvs_gesture": ("DVSGesture", {"DvsGesture.tar.gz": tar_gz(IBM)}, {"train": 2, "test": 1}),
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch) -> Path:
    """A data directory with the archives of all sets, of which there are few recordings."""
    for name, (folder, archives, counts) in SETS.items():
        small = dataclasses.replace(EVENT_SETS[name], counts=(counts,))
        monkeypatch.setitem(EVENT_SETS, name, small)
        for archive, content in archives.items():
            write(tmp_path / "events" / folder / archive, content)
    return tmp_path


EXPECTED = {
    "nmnist": (["0", "4", "5"], ["2", "7"]),
    "ncaltech101": (["ant"] * 5 + ["bass"] * 5, []),
    "cifar10_dvs": (["cat"] * 9 + ["dog"] * 9, ["cat", "dog"]),
    "dvs_gesture": (["arm_roll", "hand_clapping"], ["arm_roll"]),
}


@pytest.mark.parametrize("name", ["nmnist", "cifar10_dvs", "dvs_gesture"])
def test_archives_are_unpacked_once_and_read(name: str, root: Path, capsys, monkeypatch):
    if name == "nmnist":  # its test set has classes that its training set has not
        NMNIST_ALL = NMNIST | {"Train/7/00004.bin": some(4), "Train/2/00005.bin": some(5)}
        write(root / "events" / "NMNIST" / "train.zip", zipped(NMNIST_ALL))
        monkeypatch.setitem(EVENT_SETS, name, dataclasses.replace(EVENT_SETS[name], counts=({"train": 5, "test": 2},)))
    data = load(name, str(root), Binning(2, "count"))
    train, test = (np.array(data.class_names)[labels].tolist() for labels in (data.train_labels, data.test_labels))
    if name == "nmnist":
        assert (train, test) == (["0", "2", "4", "5", "7"], ["2", "7"])
        assert data.train_images[:, 0, 1, :, 1].argmax(axis=1).tolist() == [2, 5, 3, 1, 4]  # x of the first event
    else:
        assert (train, test) == EXPECTED[name]
    size = EVENT_SETS[name].sensor_size
    assert (data.image_shape, data.frames, data.counts) == ((*size, 2), 2, True)
    assert f"split {data.split_digest}" in capsys.readouterr().out
    assert data.metadata["split"] == data.split_digest
    if name == "dvs_gesture":  # events from the start of a gesture to before its end
        assert data.train_images.sum(axis=(1, 2, 3, 4)).tolist() == [2, 2]
        assert data.test_images.sum() == 3
    (folder,) = [path for path in (root / "events").iterdir() if path.name == SETS[name][0]]
    before = sorted(folder.rglob("*"))
    assert load(name, str(root), Binning(2, "count")).identity == data.identity
    assert sorted(folder.rglob("*")) == before


def test_a_folder_of_tonic_is_read_as_it_is(root, monkeypatch):
    """Its arrays have the columns x, y, p and t."""
    folder = root / "events" / "DVSGesture"
    for name, content in TONIC.items():
        write(folder / name, content)
    (folder / "DvsGesture.tar.gz").unlink()
    monkeypatch.setitem(
        EVENT_SETS, "dvs_gesture", dataclasses.replace(EVENT_SETS["dvs_gesture"], counts=({"train": 2, "test": 2},))
    )
    found = published_recordings("dvs_gesture", root)
    assert [recording.label for recording in found.train] == ["hand_clapping", "other_gestures"]
    events = found.train[1].read((128, 128))
    assert [getattr(events, field).tolist() for field in "xytp"] == [[10, 3], [1, 4], [5, 9], [1, 0]]


def test_archives_in_archives_and_annotations(root):
    found = published_recordings("ncaltech101", root)
    assert len(found.train) + len(found.test) == 10
    assert {recording.label for recording in found.train} == {"ant", "bass"}


def test_the_split_is_the_last_tenth_of_each_class_by_the_numbers_in_the_names():
    names = {"a": range(20), "b": range(100, 135)}
    recordings = [Recording(Path(f"{label}/r_{i}.bin"), label) for label, numbers in names.items() for i in numbers]
    parts = split(recordings[::-1])
    assert [recording.path.stem for recording in parts["test"]] == ["r_131", "r_132", "r_133", "r_134", "r_18", "r_19"]
    assert sorted(map(str, [r.path for r in parts["train"] + parts["test"]])) == sorted(str(r.path) for r in recordings)


def test_the_digest_of_a_split_depends_on_names_and_parts_alone(root):
    found = published_recordings("cifar10_dvs", root)
    digest = split_digest(found)
    for path in [recording.path for recording in found.train + found.test]:
        path.rename(path.with_suffix(".aedat4"))
    again = published_recordings("cifar10_dvs", root)
    assert split_digest(again) == digest
    assert split_digest(dataclasses.replace(again, train=again.train[1:])) != digest
    assert split_digest(dataclasses.replace(again, train=again.test, test=again.train)) != digest


def test_what_is_missing_in_a_published_set_is_told(root, tmp_path):
    assert_input_error(lambda: load("nmnist", str(tmp_path / "none")), "nmnist", "Train.zip", "put it there")
    published_recordings("nmnist", root)
    next((root / "events" / "NMNIST").rglob("*.bin")).unlink()
    assert_input_error(lambda: load("nmnist", str(root)), "not 3 train, 2 test", "unpack or download it again")
    (root / "events" / "DVSGesture" / "DvsGesture.tar.gz").write_bytes(
        tar_gz(IBM | {"DvsGesture/user01_led_labels.csv": b"a\nb"})
    )
    assert_input_error(lambda: load("dvs_gesture", str(root)), "user01_led_labels.csv", "download it again")
    assert_input_error(lambda: load("cifar10_dvs", str(root), paired=True), "paired=True", "event_digits and nmnist")


def test_an_archive_that_is_damaged_or_half_unpacked_leaves_nothing(tmp_path, monkeypatch):
    archive = write(tmp_path / "a" / "train.zip", zipped(NMNIST)[:-9])
    assert_input_error(lambda: unpack(tmp_path / "a"), str(archive), "cannot be unpacked", "download it again")
    tar = write(tmp_path / "b" / "c.tar.gz", tar_gz(IBM)[:-40])
    assert_input_error(lambda: unpack(tmp_path / "b"), str(tar), "cannot be unpacked")
    archive.write_bytes(zipped(NMNIST))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        unpack(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["train.zip"]


def test_images_are_in_the_order_of_the_recordings_that_were_made_of_them(root):
    """Recording 00003 of N-MNIST is of the third image."""
    found = published_recordings("nmnist", root)
    pixels = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1)
    images = from_arrays(train=(pixels, np.array([0, 1, 2])), test=(pixels, np.array([2, 1, 0])))
    ordered = ordered_like(found, images)
    assert (ordered.train_labels.tolist(), ordered.train_images.ravel().tolist()) == ([1, 2, 0], [1, 2, 0])
    assert ordered.test_images.ravel().tolist() == [1, 0]
    few = from_arrays(train=(pixels[:2], np.array([0, 1])), test=(pixels[:2], np.array([1, 0])))
    assert_input_error(lambda: ordered_like(found, few), "00003", "2 images")
