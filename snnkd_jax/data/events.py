"""Recordings of event cameras, and their frames.

An event is a pixel (x, y), a time t and a polarity p: 1 if the pixel became brighter, 0 if darker. A network reads
frames: per time step and pixel the numbers of events of both polarities, `[T, H, W, 2]`, darker first.
"""

import dataclasses
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.errors import InputError, check_choice, check_count

By = Literal["time", "count"]


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
    """The N >= 1 events of one recording, in the order of time.

    `x` and `y` are columns and rows, whole numbers `[N]` within `sensor_size` (H, W); `t` are times `[N]` in any unit,
    whole numbers or floats; `p` is 1 or 0, `[N]`. Raises `InputError`, which calls the recording `name` and names the
    first event that is wrong, for anything else.
    """

    x: Any
    y: Any
    t: Any
    p: Any
    sensor_size: tuple[int, int]
    name: str = "events"

    def __post_init__(self):
        for field in ("x", "y", "t", "p"):
            object.__setattr__(self, field, _numbers(f"{self.name}: {field}", getattr(self, field), field == "t"))
        lengths = {field: len(getattr(self, field)) for field in ("x", "y", "t", "p")}
        if len(set(lengths.values())) > 1:
            raise InputError(f"{self.name}: {lengths} values; give one of each per event")
        if not len(self.t):
            raise InputError(f"{self.name} has no events; leave it out")
        height, width = self.sensor_size
        for field, size in (("x", width), ("y", height)):
            advice = f"outside of a sensor of {height}x{width} pixels (height x width); give another sensor_size"
            self._refuse(field, (getattr(self, field) < 0) | (getattr(self, field) >= size), advice)
        self._refuse("p", ~np.isin(self.p, (0, 1)), "no polarity; give 1 for brighter and 0 for darker")
        self._refuse("t", ~np.isfinite(self.t), "no time; leave the event out")
        late = np.diff(self.t, prepend=self.t[:1]) < 0
        self._refuse("t", late, "before the event in front of it; sort the events by time")

    def _refuse(self, field: str, wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            i = int(np.argmax(wrong))
            raise InputError(f"{self.name}, event {i}: {field} = {getattr(self, field)[i]} is {what}")


def _numbers(name: str, values: Any, fractions: bool) -> NDArray:
    """Values `[N]` as int64, or with `fractions` also float64."""
    found = np.asarray(values)
    kinds, wanted = ("biuf", "numbers") if fractions else ("biu", "whole numbers")
    if found.ndim != 1 or found.dtype.kind not in kinds:
        raise InputError(f"{name} is {found.dtype} {found.shape}; give {wanted}, one per event")
    return found.astype(np.float64 if found.dtype.kind == "f" else np.int64)


@dataclasses.dataclass(frozen=True)
class Binning:
    """Division of a recording into T = `num_steps` frames: every event is in one of them.

    Event i = 0, ..., N - 1 is in bin

        min(T - 1, floor(T (t[i] - t[0]) / (t[N-1] - t[0])))    by "time", 0 if all times are equal
        floor(T i / N)                                          by "count"

    so that bins by time are equal parts of the recording, whatever the unit of t, and bins by count have equal numbers
    of events, up to one. With `size` (h, w) the pixels (x, y) of a sensor of (H, W) are those (floor(w x / W),
    floor(h y / H)) of the frame. A byte holds 255 events: more in one pixel and bin raise `InputError`, or with
    `saturate` count as 255.
    """

    num_steps: int = 10
    by: By = "time"
    size: tuple[int, int] | None = None
    saturate: bool = False

    def __post_init__(self):
        check_count("num_steps", self.num_steps)
        check_choice("bin_by", self.by, get_args(By))

    def bins(self, events: Events) -> NDArray[np.int64]:
        """The bin of every event, `[N]`."""
        if self.by == "count":
            return self.num_steps * np.arange(len(events.t)) // len(events.t)
        since = events.t - events.t[0]
        if not since[-1]:
            return np.zeros(len(since), np.int64)
        return np.minimum(self.num_steps * since // since[-1], self.num_steps - 1).astype(np.int64)

    def frame_size(self, sensor_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the frames of a sensor; raises `InputError` if they are larger than the sensor."""
        size = self.size or sensor_size
        if size[0] > sensor_size[0] or size[1] > sensor_size[1]:
            found = "frame_size={}x{}, and the sensor has {}x{} pixels".format(*size, *sensor_size)
            raise InputError(f"{found}; give a smaller one, or none")
        return size

    def counts(self, events: Events) -> NDArray[np.int64]:
        """Numbers of events, `[T, h, w, 2]`; their sum is N."""
        (height, width), (h, w) = events.sensor_size, self.frame_size(events.sensor_size)
        shape = (self.num_steps, h, w, 2)
        cells = np.ravel_multi_index(
            (self.bins(events), h * events.y // height, w * events.x // width, events.p), shape
        )
        return np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)

    def frames(self, events: Events) -> NDArray[np.uint8]:
        """`counts` as bytes."""
        counts = self.counts(events)
        if (most := counts.max()) > 255 and not self.saturate:
            t, y, x, _ = np.unravel_index(counts.argmax(), counts.shape)
            found = f"{most} events of one polarity at x = {x}, y = {y} in frame {t}, more than the 255 that fit"
            raise InputError(f"{events.name} has {found}; give more num_steps, or saturate to count them as 255")
        return np.minimum(counts, 255).astype(np.uint8)
