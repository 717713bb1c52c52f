"""Files of recordings, laid out byte by byte from the descriptions of their formats."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

XML = """<dv version="2.0"><node name="outInfo" path="/outInfo/">
<node name="0" path="/outInfo/0/"><attr key="typeIdentifier" type="string">FRME</attr></node>
<node name="1" path="/outInfo/1/"><attr key="typeIdentifier" type="string">{kind}</attr>
<node name="info" path="/outInfo/1/info/"><attr key="sizeX" type="int">34</attr><attr key="sizeY" type="int">30</attr>
</node></node></node></dv>"""

Event = tuple[int, int, int, int]
"""x, y, t and p."""


def npy(array: np.ndarray) -> bytes:
    """The format of `.npy` by its description: magic, version 1.0, length of the header, header, data."""
    header = repr({"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape})
    header = header + " " * (63 - (len(header) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + array.tobytes()


def npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", npy(np.asarray(array)))
    return file.getvalue()


def atis(*events: Event) -> bytes:
    """N-MNIST's five bytes: x, y, polarity as the highest bit, and 23 bits of time."""
    return b"".join(bytes([x, y]) + (p << 23 | t).to_bytes(3, "big") for x, y, t, p in events)


def aedat2(*events: Event, lines: str = "# AEChip: DVS128\r\n") -> bytes:
    """The address of a DVS128 has rows (from 127) in bits 7-1, columns in 14-8, and 0 for brighter in bit 0."""
    words = [((127 - x) << 8 | (127 - y) << 1 | (1 - p), t) for x, y, t, p in events]
    return f"#!AER-DAT2.0\r\n{lines}".encode() + b"".join(struct.pack(">II", *word) for word in words)


def packet3(*events: Event, kind: int = 1, overflow: int = 0, room: int = 0, valid: int = 1) -> bytes:
    """A packet of version 3.1, with `room` for more events than it has."""
    n, size = len(events), 8
    header = struct.pack("<hhiiiiii", kind, 0, size, 4, overflow, n + room, n, n)
    data = b"".join(struct.pack("<Ii", x << 17 | y << 2 | p << 1 | valid, t) for x, y, t, p in events)
    return header + data + bytes(size * room)


def aedat3(*packets: bytes) -> bytes:
    return b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n" + b"".join(packets)


def header4(compression: int = 0, table: int = -1, kind: str = "EVTS") -> bytes:
    """The line of version 4.0 and its IOHeader: a FlatBuffer with its size, root, type, table of fields, and table."""
    xml = XML.format(kind=kind).encode()
    fields = struct.pack("<HHHHH2x", 10, 20, 4, 8, 16)
    values = struct.pack("<iiqI", 12, compression, table, 4) + struct.pack("<I", len(xml)) + xml + b"\0"
    content = struct.pack("<I", 20) + b"IOHE" + fields + values
    return b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(content)) + content


def events4(*events: Event) -> bytes:
    """An EventPacket: a FlatBuffer with its size, as it is before its compression."""
    vector = struct.pack("<I", len(events)) + b"".join(struct.pack("<qhhB3x", t, x, y, p) for x, y, t, p in events)
    content = struct.pack("<I", 16) + b"EVTS" + struct.pack("<HHH2x", 6, 8, 4) + struct.pack("<iI", 8, 4) + vector
    return struct.pack("<I", len(content)) + content


def packet4(content: bytes, stream: int = 1) -> bytes:
    return struct.pack("<ii", stream, len(content)) + content


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
