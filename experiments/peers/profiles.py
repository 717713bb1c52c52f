"""The profiles of this library's tasks, each taken in a worker of its own, which nothing else runs beside."""

import statistics
import sys
import time
from typing import Any

from snnkd_jax.runs.models import time_steps

from .op_class import CLASSES
from .rounds import Benchmark, Entry, Failure, place, title
from .workload import Workload, steps_and_levels

LIBRARY = "snnkd_jax"
MOST_STEPS = 50
"""Of a trace: each adds thousands of events."""


class Profiles(Benchmark):
    """One entry for each task, model and T: the answer of `profile`, and the median step without a trace."""

    def _group(self, work: Workload, deadline: float) -> None:
        """Profiles all tasks, one after the other; none is begun after `deadline`."""
        for task in self.settings.tasks:
            if time.monotonic() > deadline:
                self.left_out.append({"library": LIBRARY, **place(work, task)})
                continue
            print(f"{title(work)}: profiling {task}", file=sys.stderr)
            entry = Entry(LIBRARY, task, self.settings)
            if not self._attempt(entry, work):
                continue
            try:
                entry.take_turn(self.settings)
                found = entry.ask("profile", n=min(MOST_STEPS, len(entry.rounds[0])))
            except Failure as error:
                self._fail(entry, work, error)
                continue
            finally:
                entry.close()
            where = {"library": LIBRARY, **place(work, task), "batch_size": work.batch_size}
            self.entries.append({**where, **found, "untraced": 1e3 * statistics.median(entry.rounds[0])})


def table(entries: list[dict[str, Any]]) -> str:
    """The profiles as text: one column per entry, one row per class, in ms of a step and % of it."""
    labels = [*CLASSES, "idle", "step", "untraced"]
    columns = []
    for e in entries:
        times = e["milliseconds"] | {name: e[name] for name in labels if name not in CLASSES}
        cells = [f"{times[name]:.2f} ({100 * times[name] / e['step']:.0f} %)" for name in labels]
        columns.append([e["model"], e["task"], time_steps(*steps_and_levels(e["task"], e["num_steps"])), *cells])
    rows = zip(["ms per step", "", "", *labels], *columns, strict=True)
    widths = [26, *(max(map(len, column)) for column in columns)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
