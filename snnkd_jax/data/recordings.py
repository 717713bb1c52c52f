"""The recordings of a data set of events, and their frames, which are prepared once.

The frames are one file, written in one step: `<data dir>/events/<name>-<digest>.npz`. The digest is that of the
settings and of the names, sizes and times of change of all files, so that other settings or files are prepared anew.
"""

import concurrent.futures
import dataclasses
import functools
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from snnkd_jax.data.event_files import read_events
from snnkd_jax.data.events import Binning, Events
from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import check_writable, is_remote, write_atomically

PARTS = ("train", "test")

_read_whole = functools.lru_cache(maxsize=4)(read_events)  # the spans of a file follow each other

FORMAT = 2
"""To be raised when frames of the same recordings become others."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """A file of events, or those in `span` of it, times start <= t < end; its class, and its order of columns."""

    path: Path
    label: str
    span: tuple[float, float] | None = None
    order: str = "xytp"

    def read(self, sensor_size: tuple[int, int] | None) -> Events:
        """Its events; raises `InputError` as `read_events` does, and for a span without any."""
        if self.span is None:
            return read_events(self.path, sensor_size, self.order)
        events = _read_whole(self.path, sensor_size, self.order)
        start, end = np.searchsorted(events.t, self.span)
        name = "{}, t = {:g} to {:g}".format(events.name, *self.span)
        columns = {field: getattr(events, field)[start:end] for field in "xytp"}
        return Events(**columns, sensor_size=events.sensor_size, name=name)

    def identity(self) -> list[Any]:
        """What a change of the recording changes, as JSON values."""
        stat = self.path.stat()
        return [self.label, self.path.name, stat.st_size, stat.st_mtime_ns, self.span]


@dataclasses.dataclass(frozen=True)
class Recordings:
    """All recordings of a data set: those to train on, and those to test on."""

    name: str
    train: list[Recording]
    test: list[Recording]
    class_names: tuple[str, ...]
    sensor_size: tuple[int, int] | None = None

    def frames(self, binning: Binning, data_dir: Path, workers: int = 1) -> dict[str, NDArray]:
        """Frames uint8 `[N, T, h, w, 2]` and labels int32 `[N]` of both parts; `workers` threads read the files.

        Raises `InputError` for a recording that is wrong, and if `data_dir` cannot be written.
        """
        if is_remote(data_dir):
            raise InputError(f"data_dir={data_dir}: frames of events are prepared in a local folder; name one")
        size = self.sensor_size or self.train[0].read(None).sensor_size
        settings = {"format": FORMAT, "sensor_size": size, **dataclasses.asdict(binning)}
        files = {part: [recording.identity() for recording in getattr(self, part)] for part in PARTS}
        digest = sha256(json.dumps(settings | {"files": files}, sort_keys=True).encode())[:16]
        file = data_dir / "events" / f"{self.name}-{digest}.npz"
        if not file.exists():
            check_writable("data_dir", file.parent)
            self._prepare(file, binning, size, workers)
        return _read(file)

    def _prepare(self, file: Path, binning: Binning, size: tuple[int, int], workers: int) -> None:
        arrays: dict[str, NDArray] = {}
        for part in PARTS:
            recordings: list[Recording] = getattr(self, part)
            frames = np.empty((len(recordings), binning.num_steps, *binning.frame_size(size), 2), np.uint8)
            shown = tqdm(recordings, f"{file.stem}, {part}", unit="recordings", leave=False)
            for i, found in enumerate(_in_threads(lambda r: binning.frames(r.read(size)), shown, workers)):
                frames[i] = found
            arrays[f"{part}_images"] = frames
            arrays[f"{part}_labels"] = np.array([self.class_names.index(r.label) for r in recordings], np.int32)
        content = io.BytesIO()
        np.savez(content, **arrays)  # pyright: ignore[reportArgumentType] with checksums, and not compressed
        try:
            write_atomically(file, content.getvalue())
        except OSError as error:
            raise InputError(f"data_dir {file.parent} cannot be written ({error.strerror}); name another") from error


def _in_threads(function: Any, items: Any, workers: int) -> Iterator[Any]:
    """The results in the order of the items; after an error, what has not begun is left out."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            waiting = []
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            yield from (future.result() for future in waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _read(file: Path) -> dict[str, NDArray]:
    """Images and labels of both parts, whose checksums are verified."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return {f"{part}_{kind}": stored[f"{part}_{kind}"] for part in PARTS for kind in ("images", "labels")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{file} is damaged ({reason}); delete it to have it prepared") from error
