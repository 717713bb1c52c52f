"""Metrics of an epoch, and the log of a run, `metrics.jsonl`: one JSON object per epoch of each network."""

import contextlib
import importlib.util
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from snnkd_jax.files import append, is_remote, write_atomically
from snnkd_jax.lock import Lock
from snnkd_jax.parallel.hosts import is_host0


class MetricsLog:
    """The log `<directory>/metrics.jsonl` and, with tensorboardX, TensorBoard events; the first process writes them.

    `lock` is that of the directory. There are no TensorBoard events in a bucket.
    """

    def __init__(self, directory: Path, lock: Lock | None = None):
        self._path, self._lock, self._writer = directory / "metrics.jsonl", lock, None
        if is_host0() and not is_remote(directory) and importlib.util.find_spec("tensorboardX") is not None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(directory / "tensorboard"))

    def rewind(self, phase: str, step: int) -> list[dict[str, Any]]:
        """Drops the entries of `phase` after `step`, which is resumed there; returns its remaining entries."""
        entries = [e for e in read_log(self._path.parent) if e["phase"] != phase or e["step"] <= step]
        if is_host0():
            write_atomically(self._path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
        return [entry for entry in entries if entry["phase"] == phase]

    def seconds(self) -> float:
        """Returns the total time of all epochs, those of earlier sessions included."""
        return sum(entry["seconds"] for entry in read_log(self._path.parent))

    def write(self, entry: dict[str, Any]) -> None:
        """Appends an entry with "phase", "step" and "seconds": numbers, and dictionaries of numbers."""
        if not is_host0():
            return
        if self._lock is not None:
            self._lock.check()
        append(self._path, json.dumps(entry))
        if self._writer is not None:
            for name, value in flatten_dict(entry, sep="/").items():
                if isinstance(value, int | float) and name not in ("step", "epoch"):
                    self._writer.add_scalar(f"{entry['phase']}/{name}", value, entry["step"])
            self._writer.flush()

    def close(self) -> None:
        """Closes the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()


def read_log(directory: Path) -> list[dict[str, Any]]:
    """Reads `<directory>/metrics.jsonl`, without lines cut off by a crash; a missing file has no entries."""
    path, entries = directory / "metrics.jsonl", []
    for line in path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict) and entry.keys() >= {"phase", "step", "seconds"}]


class EpochMetrics:
    """Means over an epoch; a step's metrics are read when the next step has been dispatched."""

    def __init__(self):
        self._reset()
        self._pending = None
        self.latest: dict[str, float] = {}

    def _reset(self):
        self._sums: dict[str, float] = defaultdict(float)
        self._count, self._first_step, self._last_call = 0, 0.0, time.perf_counter()

    def add(self, metrics: Any) -> None:
        """Adds the metrics of a step that has just been dispatched; waits for those of the step before."""
        self._first_step = self._first_step or time.perf_counter()
        metrics, self._pending = jax.device_get(self._pending), metrics
        if metrics is None:
            return
        rate = mean_rate({name: float(rate) for name, rate in metrics.pop("firing_rates").items()})
        self.latest = {name: float(x) for name, x in metrics.items()} | ({} if rate is None else {"firing_rate": rate})
        for name, value in self.latest.items():
            self._sums[name] += value
        self._count += 1

    def take(self, batch_size: int) -> dict[str, float]:
        """Returns the means since the last call, the number of averaged steps, time and speed.

        `seconds` includes compilation and evaluation; `images_per_second`, measured from the second step on, does not.
        """
        self.add(None)
        now = time.perf_counter()
        means = {name: value / self._count for name, value in self._sums.items()} | {
            "averaged_steps": self._count,  # fewer than an epoch's where it was resumed in the middle
            "seconds": now - self._last_call,
            "images_per_second": max(self._count - 1, 1) * batch_size / (now - self._first_step),
        }
        self._reset()
        return means


def mean_rate(rates: dict[str, float]) -> float | None:
    """Returns the mean over layers; None for an ANN."""
    return float(np.mean(list(rates.values()))) if rates else None
