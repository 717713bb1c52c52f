"""AEDAT 4.0: packets of FlatBuffers, as DV and dv-processing write them.

    line       #!AER-DAT4.0
    IOHeader   compression, position of the table of packets (-1: none), description of the streams in XML
    packet     stream, size, and as many bytes: an EventPacket if the XML has the type EVTS for the stream, compressed
    ...
    table      from its position to the end; not read

A FlatBuffer has its size in front of it. An event has 16 bytes: t in microseconds (8), x (2), y (2), polarity (1).
Source: the description of the format by iniVation.
"""

import functools
import importlib
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

from snnkd_jax.errors import InputError

_LINE = b"#!AER-DAT4.0\r\n"
_EVENT = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "itemsize": 16})
_AGAIN = "copy it again, or leave it out"
_FIELDS = {name: 4 + 2 * i for i, name in enumerate(("compression", "table", "streams"))}
"""Places of the fields of an IOHeader in its FlatBuffer's table of fields."""


def read_aedat4(path: Path, content: bytes) -> tuple[dict[str, Any], tuple[int, int]]:
    """Columns of the events by name, and the size of the sensor (H, W); raises `InputError` for anything else."""
    compression, end, stream, sensor_size, at = _header(path, content)
    decompress = _decompressor(path, compression)
    packets, n = [np.zeros(0, _EVENT)], 0
    while at < end:
        where = f"{path}, after event {n - 1}"
        if end - at < 8:
            raise InputError(f"{where}: ends within the header of a packet; {_AGAIN}")
        number, size = struct.unpack_from("<ii", content, at)
        at += 8
        if not 0 <= size <= end - at:
            raise InputError(f"{where}: ends within a packet of {size} bytes; {_AGAIN}")
        if number == stream:
            try:
                packets.append(_events(decompress(content[at : at + size])))
            except (ValueError, RuntimeError, struct.error, TypeError, IndexError) as error:
                raise InputError(f"{where}: a damaged packet ({type(error).__name__}: {error}); {_AGAIN}") from error
            n += len(packets[-1])
        at += size
    events = np.concatenate(packets)
    return {name: events[name].astype(np.int64) for name in ("x", "y", "t", "p")}, sensor_size


def _header(path: Path, content: bytes) -> tuple[int, int, int, tuple[int, int], int]:
    """Compression, end of the packets, number of the stream of events, size of its sensor, position after it."""
    try:
        (size,) = struct.unpack_from("<I", content, len(_LINE))
        at = len(_LINE) + 4 + size
        table = _root(content[len(_LINE) : at], b"IOHE")
        offset = table.Offset(_FIELDS["compression"])
        compression = table.Get(number_types.Int32Flags, offset + table.Pos) if offset else 0
        offset = table.Offset(_FIELDS["table"])
        end = table.Get(number_types.Int64Flags, offset + table.Pos) if offset else -1
        xml = bytes(table.String(table.Offset(_FIELDS["streams"]) + table.Pos)).decode()
        for node in ElementTree.fromstring(xml).iter("node"):
            if node.findtext("attr[@key='typeIdentifier']") == "EVTS":
                width, height = (int(node.findtext(f"node/attr[@key='{key}']") or "") for key in ("sizeX", "sizeY"))
                last = len(content) if end < 0 else end
                if last > len(content):
                    raise InputError(f"{path} has {len(content)} bytes, of {end} and more; {_AGAIN}")
                return compression, last, int(node.get("name", "")), (height, width), at
    except InputError:
        raise
    except (ValueError, struct.error, TypeError, IndexError, ElementTree.ParseError) as error:
        raise InputError(f"{path}: its header is damaged ({type(error).__name__}: {error}); {_AGAIN}") from error
    raise InputError(f"{path} has no stream of events; leave it out")


def _root(content: bytes, identifier: bytes) -> Table:
    """The table of a FlatBuffer with its size in front of it."""
    if content[8:12] != identifier or struct.unpack_from("<I", content)[0] > len(content) - 4:
        raise ValueError(f"no whole {identifier.decode()}")
    return Table(content, 4 + struct.unpack_from("<I", content, 4)[0])


def _events(content: bytes) -> Any:
    table = _root(content, b"EVTS")
    if not (offset := table.Offset(4)):
        return np.zeros(0, _EVENT)
    return np.frombuffer(content, _EVENT, table.VectorLen(offset), table.Vector(offset))


def _decompressor(path: Path, compression: int) -> Callable[[bytes], bytes]:
    """The inverse of a compression: 0 none, 1 and 2 LZ4, 3 and 4 Zstandard."""
    if compression == 0:
        return lambda content: content
    try:
        if compression in (1, 2):
            return importlib.import_module("lz4.frame").decompress
        if compression in (3, 4):
            return functools.partial(_decompress_zstandard, importlib.import_module("zstandard"))
    except ImportError as error:
        raise InputError(f"{path} is compressed and needs {error.name}: pip install 'snnkd-jax[events]'") from error
    raise InputError(f"{path} has compression {compression}, of 0 to 4; {_AGAIN}")


def _decompress_zstandard(zstandard: Any, content: bytes) -> bytes:
    """Raises `ValueError` for damaged content, and for a frame that is cut: the package returns what there is of it."""
    decompressor = zstandard.ZstdDecompressor().decompressobj()
    try:
        found = decompressor.decompress(content)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if not decompressor.eof:
        raise ValueError("it ends within a frame")
    return found
