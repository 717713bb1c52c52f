"""Files of one recording of events: what they hold is read, or refused by file and event.

| file                | content                                                                                     |
| ------------------- | ------------------------------------------------------------------------------------------- |
| `.npy`              | a structured array with fields x, y, t and p, or an array `[N, 4]` with these columns       |
| `.npz`              | arrays x, y, t and p, or a single array as in a `.npy` file                                 |
| `.bin`              | five bytes per event, of N-MNIST and N-Caltech101: x, y, 1 bit p, 23 bits t in microseconds |
| `.aedat`, `.aedat4` | AEDAT 2.0, 3.1 or 4.0, whichever its first line says (`snnkd_jax.data.aedat`)               |

The polarity darker is 0 or -1, whichever the file has. In a `.bin` file an event with y = 240 is none: from there on,
2^13 us are added to the times, which have overflowed. Source: the files' own readers, of Orchard et al. 2015.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data.aedat import Recorded, read_aedat
from snnkd_jax.data.events import Events
from snnkd_jax.errors import InputError

SUFFIXES = (".npy", ".npz", ".bin", ".aedat", ".aedat4")
_FIELDS = ("x", "y", "t", "p")
_OVERFLOW, _PERIOD = 240, 2**13


def read_events(path: Path, sensor_size: tuple[int, int] | None = None, order: str = "xytp") -> Events:
    """The recording of a file, from a sensor of (H, W) pixels.

    `sensor_size` may be None if the file says it, as AEDAT 4.0 does; `order` is that of the columns of an array
    `[N, 4]`. Raises `InputError`, which names the file, if it is damaged, holds anything else or is of another sensor,
    and with the event as `Events`.
    """
    columns, known = _recorded(path, order)
    size = known or sensor_size
    if size is None:
        raise InputError(f"sensor_size: {path} does not say it; give HEIGHTxWIDTH in pixels, such as 34x34 for N-MNIST")
    if known is not None and sensor_size not in (None, known):
        sizes = "{}x{} pixels, not {}x{}".format(*known, *sensor_size)
        raise InputError(f"{path} is of a sensor of {sizes}; leave sensor_size out, or leave out other sensors' files")
    columns["p"] = _polarity(path, np.asarray(columns["p"]))
    return Events(**columns, sensor_size=size, name=str(path))


def _recorded(path: Path, order: str) -> Recorded:
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path} is none of {', '.join(SUFFIXES)}; convert it, or leave it out")
    if path.suffix in (".npy", ".npz"):
        return _columns(path, _load(path), order), None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a recording that is there") from error
    return (_bin(path, content), None) if path.suffix == ".bin" else read_aedat(path, content)


def _load(path: Path) -> Any:
    """The array of a `.npy` file; the only one, or a dictionary of x, y, t and p, of a `.npz` file."""
    try:
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                return loaded
            arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path} cannot be read ({reason}); copy it again, or leave it out") from error
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _columns(path: Path, found: Any, order: str) -> dict[str, NDArray]:
    """x, y, t and p."""
    names: Any = found if isinstance(found, dict) else found.dtype.names
    if names is not None and set(_FIELDS) <= set(names):
        return {name: found[name] for name in _FIELDS}
    found = np.asarray(found)
    if names is None and found.ndim == 2 and found.shape[1] == 4:
        return {name: _whole(path, name, column) for name, column in zip(order, found.T, strict=True)}
    has = f"{', '.join(names) or 'nothing'}" if names is not None else f"an array of {found.dtype} {found.shape}"
    raise InputError(f"{path} has {has}; give x, y, t and p, as fields, as arrays, or as the columns of [N, 4]")


def _whole(path: Path, name: str, column: NDArray) -> NDArray:
    """A column of an array of floats, in which only times may be fractions."""
    if column.dtype.kind != "f" or name == "t":
        return column
    if (wrong := ~np.isfinite(column) | (column != np.floor(column))).any():
        i = int(np.argmax(wrong))
        raise InputError(f"{path}, event {i}: {name} = {column[i]} is no whole number; give columns x, y, t, p")
    return column.astype(np.int64)


def _polarity(path: Path, p: NDArray) -> NDArray:
    """1 for brighter and 0 for darker; raises `InputError` for a file with both 0 and -1."""
    if p.dtype.kind == "i" and (p == -1).any():
        if (p == 0).any():
            i = int(np.argmax(p == 0))
            raise InputError(f"{path}, event {i}: p = 0, but others are -1; give 1 and 0, or 1 and -1")
        return np.where(p == -1, 0, p)
    return p


def _bin(path: Path, content: bytes) -> dict[str, NDArray]:
    if len(content) % 5:
        cut = f"{len(content)} bytes, which ends within event {len(content) // 5}: an event has 5"
        raise InputError(f"{path} has {cut}; copy it again, or leave it out")
    x, y, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, 5).T.astype(np.int64)
    t = ((high & 127) << 16) + (middle << 8) + low + _PERIOD * np.cumsum(y == _OVERFLOW)
    events = y != _OVERFLOW
    return {name: values[events] for name, values in (("x", x), ("y", y), ("t", t), ("p", high >> 7))}
