"""The log of a run, `metrics.jsonl`: one JSON object a line, one line for each epoch of each network."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends to `<directory>/metrics.jsonl`, and to TensorBoard events where tensorboardX is installed."""

    def __init__(self, directory: Path):
        self._path = directory / "metrics.jsonl"
        self._writer = None
        if importlib.util.find_spec("tensorboardX") is not None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(directory / "tensorboard"))

    def rewind(self, phase: str, step: int) -> None:
        """Drops what `phase` logged after `step`, and a line cut off by a crash: both will be written again."""
        if not self._path.exists():
            return
        kept = [
            line
            for line in self._path.read_text().splitlines()
            if (entry := _parse(line)) is not None and not (entry["phase"] == phase and entry["step"] > step)
        ]
        replacement = self._path.with_suffix(".tmp")
        replacement.write_text("".join(line + "\n" for line in kept))
        replacement.replace(self._path)

    def write(self, entry: dict[str, Any]) -> None:
        """Writes one entry; it has "phase" and "step", numbers, and dictionaries of numbers."""
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._writer is not None:
            for name, value in _flat(entry).items():
                self._writer.add_scalar(f"{entry['phase']}/{name}", value, entry["step"])
            self._writer.flush()

    def close(self) -> None:
        """Closes the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()


def _parse(line: str) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def _flat(entry: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat = {}
    for name, value in entry.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("step", "epoch"):
            flat[prefix + name] = value
    return flat
