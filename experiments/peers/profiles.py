"""The profiles of this library's tasks, each taken in a worker of its own, which nothing else runs beside."""

import statistics
import sys
from typing import Any

from .op_class import CLASSES
from .rounds import Benchmark, Entry, Failure
from .settings import BATCH_SIZES

LIBRARY = "snnkd_jax"
MOST_STEPS = 50
"""Of a trace: each adds thousands of events."""


class Profiles(Benchmark):
    """One entry for each task, model and T: the answer of `profile`, and the median step without a trace."""

    def _group(self, model: str, num_steps: int) -> None:
        """Profiles all tasks, one after the other."""
        batch_size = self.settings.batch_size or BATCH_SIZES[model]
        for task in self.settings.tasks:
            print(f"{model} T={num_steps}: profiling {task}", file=sys.stderr)
            entry = Entry(LIBRARY, task, self.settings)
            if not self._attempt(entry, model, num_steps, batch_size):
                continue
            try:
                entry.take_turn(self.settings)
                found = entry.ask("profile", n=min(MOST_STEPS, len(entry.rounds[0])))
            except Failure as error:
                self._fail(entry, model, num_steps, error)
                continue
            finally:
                entry.close()
            where = {"library": LIBRARY, "task": task, "model": model, "num_steps": num_steps}
            untraced = 1e3 * statistics.median(entry.rounds[0])
            self.entries.append({**where, "batch_size": batch_size, **found, "untraced": untraced})


def table(entries: list[dict[str, Any]]) -> str:
    """The profiles as text: one column per entry, one row per class, in ms of a step and % of it."""
    labels = [*CLASSES, "idle", "step", "untraced"]
    columns = []
    for e in entries:
        times = e["milliseconds"] | {name: e[name] for name in labels if name not in CLASSES}
        cells = [f"{times[name]:.2f} ({100 * times[name] / e['step']:.0f} %)" for name in labels]
        columns.append([e["model"], e["task"], f"T={e['num_steps']}", *cells])
    rows = zip(["ms per step", "", "", *labels], *columns, strict=True)
    widths = [26, *(max(map(len, column)) for column in columns)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
