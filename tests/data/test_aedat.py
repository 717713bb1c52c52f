"""AEDAT files from bytes laid out by hand, and one line for each fault."""

from pathlib import Path

import pytest
from event_bytes import aedat2, aedat3, events4, header4, packet3, packet4, write
from synthetic_sets import assert_input_error

from snnkd_jax.data.event_files import read_events

EVENTS = [(3, 2, 5, 1), (33, 0, 5, 0), (0, 29, 70_000, 0), (7, 7, 8_000_000, 1)]
SENSOR = 30, 34
SPECIAL = (1 << 15).to_bytes(4, "big") + (6).to_bytes(4, "big")
OTHER = packet3((1, 1, 1, 1), kind=2, room=1) + packet3((2, 2, 2, 1), valid=0)


def aedat4(*packets: bytes, compression: int = 0) -> bytes:
    return header4(compression) + b"".join(packets)


FILES = {
    "2.aedat": aedat2(*EVENTS),
    "2-special.aedat": aedat2() + SPECIAL + aedat2(*EVENTS, lines="").removeprefix(b"#!AER-DAT2.0\r\n"),
    "3.aedat": aedat3(OTHER, packet3(*EVENTS[:2], room=3), OTHER, packet3(*EVENTS[2:])),
    "4.aedat4": aedat4(
        packet4(events4(*EVENTS[:3])), packet4(b"frame", 0), packet4(events4()), packet4(events4(*EVENTS[3:]))
    ),
    "4-table.aedat4": header4(0, len(header4()) + len(packet4(events4(*EVENTS))))
    + packet4(events4(*EVENTS))
    + b"table",
}


@pytest.mark.parametrize("name", FILES)
def test_what_was_written_is_read(name: str, tmp_path: Path):
    path = write(tmp_path / name, FILES[name])
    known = {"2": (128, 128), "4": SENSOR}.get(name[0])
    events = read_events(path, SENSOR if known is None else None)
    assert list(zip(*(getattr(events, field).tolist() for field in "xytp"), strict=True)) == EVENTS
    assert events.sensor_size == (known or SENSOR)


@pytest.mark.parametrize(("module", "compression"), [("lz4.frame", 1), ("lz4.frame", 2), ("zstandard", 3)])
def test_compressed_packets_are_read(module: str, compression: int, tmp_path: Path):
    compress = pytest.importorskip(module).compress
    *first, last = [compress(events4(event)) for event in EVENTS]
    content = aedat4(*map(packet4, [*first, last]), compression=compression)
    events = read_events(write(tmp_path / "a.aedat4", content))
    assert list(zip(*(getattr(events, field).tolist() for field in "xytp"), strict=True)) == EVENTS
    for i, damaged in enumerate((b"...." + last[4:], last[: len(last) // 2], b"")):
        path = write(tmp_path / f"{i}.aedat4", aedat4(*map(packet4, [*first, damaged]), compression=compression))
        assert_input_error(lambda path=path: read_events(path), str(path), "after event 2", "copy it again")


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lz4.frame", None)
    path = write(tmp_path / "a.aedat4", aedat4(packet4(events4(*EVENTS)), compression=1))
    assert_input_error(lambda: read_events(path), str(path), "lz4", "pip install 'snnkd-jax[events]'")


def test_times_go_on_after_an_overflow(tmp_path):
    """2^31 us for each overflow that the header of a packet counts."""
    content = aedat3(packet3((1, 1, 2**31 - 2, 1)), packet3((2, 1, 3, 0), overflow=1))
    assert read_events(write(tmp_path / "a.aedat", content), SENSOR).t.tolist() == [2**31 - 2, 2**31 + 3]


FAULTS: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    "cut, 2": ("a.aedat", FILES["2.aedat"][:-1], ("within event 3", "copy it again")),
    "cut, 3": ("a.aedat", FILES["3.aedat"][:-3], ("after event 1", "packet of 2 events", "copy it again")),
    "cut header, 3": ("a.aedat", aedat3(packet3(*EVENTS), packet3()[:9]), ("after event 3", "header", "copy it again")),
    "cut, 4": ("a.aedat4", FILES["4.aedat4"][:-3], ("after event 2", "ends within", "copy it again")),
    "cut header, 4": ("a.aedat4", aedat4(packet4(events4(*EVENTS)), b"123"), ("after event 3", "header of a packet")),
    "cut before the table": ("a.aedat4", header4(0, 10_000), ("of 10000", "copy it again")),
    "short vector": (
        "a.aedat4",
        aedat4(packet4(events4(*EVENTS)[:-16])),
        ("after event -1", "damaged", "copy it again"),
    ),
    "no header": ("a.aedat4", b"#!AER-DAT4.0\r\n", ("header is damaged", "copy it again")),
    "other stream": ("a.aedat4", header4(kind="IMUS"), ("no stream of events", "leave it out")),
    "unknown compression": ("a.aedat4", header4(9), ("compression 9",)),
    "impossible packet": (
        "a.aedat",
        aedat3(packet3((1, 1, 1, 1), (2, 2, 2, 2))).replace(b"\2\0\0\0\2\0\0\0\2\0\0\0", b"\1\0\0\0\2\0\0\0\2\0\0\0"),
        ("room for 1", "copy it again"),
    ),
    "empty, 2": ("a.aedat", aedat2(), ("no events", "leave it out")),
    "empty, 3": ("a.aedat", aedat3(), ("no events", "leave it out")),
    "empty, 4": ("a.aedat4", aedat4(), ("no events", "leave it out")),
    "no bytes": ("a.aedat", b"", ("begins with ''", "leave it out")),
    "version 1": ("a.aedat", b"#!AER-DAT1.0\r\n", ("#!AER-DAT1.0", "convert it")),
    "unsorted, 2": ("a.aedat", aedat2((1, 1, 9, 0), (1, 1, 8, 0)), ("event 1: t = 8", "sort")),
    "unsorted, 3": ("a.aedat", aedat3(packet3((1, 1, 9, 0), (1, 1, 8, 0))), ("event 1: t = 8", "sort")),
    "unsorted, 4": ("a.aedat4", aedat4(packet4(events4((1, 1, 9, 0), (1, 1, 8, 0)))), ("event 1: t = 8", "sort")),
    "other camera, 2": ("a.aedat", aedat2(lines="# AEChip: Davis640\r\n"), ("Davis640", "AEDAT 4")),
    "address, 2": ("a.aedat", aedat2() + b"\0\1\0\0\0\0\0\1", ("event 0", "0x10000", "AEDAT 4")),
    "out of the sensor, 3": ("a.aedat", aedat3(packet3((34, 1, 9, 0))), ("event 0: x = 34", "30x34")),
    "out of the sensor, 4": ("a.aedat4", aedat4(packet4(events4((1, 30, 9, 0)))), ("event 0: y = 30", "30x34")),
    "polarity, 4": ("a.aedat4", aedat4(packet4(events4((1, 1, 9, 2)))), ("event 0: p = 2", "1 for brighter")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_ends_in_one_line_that_names_file_and_event(fault: str, tmp_path: Path):
    name, content, told = FAULTS[fault]
    path = write(tmp_path / name, content)
    size = SENSOR if b"AER-DAT3" in content[:12] else None
    assert_input_error(lambda: read_events(path, size), str(path), *told)


def test_the_size_of_the_sensor_is_that_of_the_file(tmp_path):
    path = write(tmp_path / "a.aedat4", FILES["4.aedat4"])
    assert_input_error(lambda: read_events(path, (34, 34)), str(path), "30x34 pixels, not 34x34", "leave sensor_size")
    other = write(tmp_path / "a.aedat", FILES["3.aedat"])
    assert_input_error(lambda: read_events(other), "sensor_size", str(other), "HEIGHTxWIDTH")
