"""AEDAT files of event cameras, versions 2.0, 3.1 and 4.0: columns x, y, p and t in microseconds of their events.

| version | what follows the header lines                                                       | sensor size       |
| ------- | ----------------------------------------------------------------------------------- | ----------------- |
| 2.0     | 32 bits of address and 32 bits of time per event, big-endian                        | DVS128: 128x128   |
| 3.1     | packets: a header of 28 bytes, then per event 32 bits of data and 32 of time        | is not in it      |
| 4.0     | packets of FlatBuffers, compressed by LZ4, by Zstandard or not: `aedat4`            | in it             |

The address of a DVS128 has y in bits 14-8, x in bits 7-1 and in bit 0 the polarity, 1 for darker; bit 15 marks what is
no pixel. Its picture stands upright with columns 127 - y and rows 127 - x, as CIFAR10-DVS is read everywhere. The data
of a polarity event (type 1 in 3.1, whose other packets are skipped) have x in bits 31-17, y in bits 16-2, the polarity
in bit 1 and in bit 0 whether it is valid; the time overflows every 2^31 us, which the packet's header counts.

Source: the descriptions of the formats by iniVation. Other cameras' files of version 2.0 have other addresses and are
refused; DV converts them to 4.0.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data import aedat4
from snnkd_jax.errors import InputError

Recorded = tuple[dict[str, Any], tuple[int, int] | None]
"""Columns by name, and the size of the sensor (H, W) in pixels, if the file has it."""

_DVS128 = 128
_HEADER = struct.Struct("<hhiiiiii")
_POLARITY, _EVENT = 1, 8  # type of a packet, and bytes per event
_END = b"#!END-HEADER"
_AGAIN = "copy it again, or leave it out"


def read_aedat(path: Path, content: bytes) -> Recorded:
    """The events in the content of a file; raises `InputError` if it is cut, damaged or of another kind."""
    version = content[:14].rstrip(b"\r\n").removeprefix(b"#!AER-DAT")
    if version.startswith(b"4"):
        return aedat4.read_aedat4(path, content)
    if version.startswith(b"3.1"):
        return _version3(path, content, _after_lines(path, content, version)), None
    if version.startswith(b"2"):
        return _version2(path, content, _after_lines(path, content, version)), (_DVS128, _DVS128)
    found = repr(content[:14].decode("ascii", "replace"))
    raise InputError(f"{path} begins with {found}, not with #!AER-DAT and 2.0, 3.1 or 4.0; convert it, or leave it out")


def _after_lines(path: Path, content: bytes, version: bytes) -> int:
    """The position after the header lines."""
    at = 0
    while content[at : at + 1] == b"#":
        line = content[at : (content.find(b"\n", at) + 1) or len(content)]
        at += len(line)
        if b"AEChip" in line and version.startswith(b"2") and b"DVS128" not in line:
            chip = line.decode("ascii", "replace").strip("# \r\n")
            raise InputError(f"{path} is of another camera than a DVS128 ({chip}); convert it to AEDAT 4, as DV does")
        if line.startswith(_END):
            break
    return at


def _version2(path: Path, content: bytes, at: int) -> dict[str, NDArray]:
    if (len(content) - at) % _EVENT:
        i = (len(content) - at) // _EVENT
        raise InputError(f"{path} ends within event {i}: an event has {_EVENT} bytes; {_AGAIN}")
    address, t = np.frombuffer(content, ">u4", offset=at).reshape(-1, 2).T.astype(np.int64)
    if (wrong := address >> 16 > 0).any():
        i = int(np.argmax(wrong))
        raise InputError(f"{path}, event {i}: address {address[i]:#x} is none of a DVS128; convert it to AEDAT 4")
    address, t = address[address >> 15 == 0], t[address >> 15 == 0]
    last = _DVS128 - 1
    return {"x": last - (address >> 8 & last), "y": last - (address >> 1 & last), "t": t, "p": 1 - (address & 1)}


def _version3(path: Path, content: bytes, at: int) -> dict[str, NDArray]:
    parts, n = [np.zeros((2, 0), np.int64)], 0
    while at < len(content):
        if len(content) - at < _HEADER.size:
            raise InputError(f"{path} ends within the header of a packet, after event {n - 1}; {_AGAIN}")
        kind, _, size, _, overflow, capacity, number, _ = _HEADER.unpack_from(content, at)
        at += _HEADER.size
        if not (0 <= number <= capacity and size > 0 and overflow >= 0) or (kind == _POLARITY and size != _EVENT):
            header = f"a packet of {number} events of {size} bytes, with room for {capacity}"
            raise InputError(f"{path}, after event {n - 1}: {header}, cannot be; {_AGAIN}")
        if len(content) - at < size * capacity:
            raise InputError(f"{path} ends within a packet of {number} events, after event {n - 1}; {_AGAIN}")
        if kind == _POLARITY:
            data, t = np.frombuffer(content, "<u4", 2 * number, at).reshape(-1, 2).T.astype(np.int64)
            valid = data & 1 == 1
            parts.append(np.stack([data[valid], (t + (overflow << 31))[valid]]))
            n += int(valid.sum())
        at += size * capacity
    data, t = np.concatenate(parts, axis=1)
    return {"x": data >> 17, "y": data >> 2 & 0x7FFF, "t": t, "p": data >> 1 & 1}
