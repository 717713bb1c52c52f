"""The figure of accuracy against the number of time steps, one panel for each data set."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from snnkd_jax.errors import InputError
from snnkd_jax.report.style import STYLE, Figure, mpl

MARKERS = "osD^vP*X"
PANELS_IN_A_ROW = 2


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Writes the figure: a line for each entry of a record, mean over seeds, with a band of one standard deviation."""
    if not records:
        raise InputError("no record of accuracy by time steps; run `snnkd steps` with --record")
    datasets = list(dict.fromkeys(record["dataset"] for record in records))
    methods = list(dict.fromkeys(_method(entry) for record in records for entry in record["entries"]))
    with mpl.rc_context(STYLE):
        columns = min(len(datasets), PANELS_IN_A_ROW)
        rows = math.ceil(len(datasets) / columns)
        figure = Figure(figsize=(6.5 * columns, 4.5 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(datasets) :]:
            axes.set_axis_off()
        for axes, dataset in zip(grid.flat, datasets, strict=False):
            entries = [entry for record in records if record["dataset"] == dataset for entry in record["entries"]]
            longest = max(len(entry["accuracy"][0]) for entry in entries)
            for entry in entries:
                index = methods.index(_method(entry))  # a method looks the same in all panels
                by_seed = 100 * np.asarray(entry["accuracy"])
                ts = np.array([t for t in 2 ** np.arange(10) if t <= by_seed.shape[1]])
                mean, std = by_seed[:, ts - 1].mean(0), by_seed[:, ts - 1].std(0, ddof=1 if len(by_seed) > 1 else 0)
                (line,) = axes.plot(ts, mean, color=f"C{index}", marker=MARKERS[index % len(MARKERS)])
                line.set_label(f"{entry['method']}, {entry['network']}")
                axes.fill_between(ts, mean - std, mean + std, color=line.get_color(), alpha=0.2, lw=0)
                if "ordinary" in entry:
                    axes.axhline(100 * np.mean(entry["ordinary"]), color=line.get_color(), lw=0.8, ls=":")
            ticks = [t for t in 2 ** np.arange(10) if t <= longest]
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [str(t) for t in ticks])
            axes.minorticks_off()
            axes.set_xlabel("time steps T (dotted: the ANN)")
            axes.set_ylabel("test accuracy, %")
            axes.set_title(dataset, loc="left", fontweight="bold")
            axes.grid(color="#dddddd")
            axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        figure.savefig(path, metadata={"Date": None})


def _method(entry: dict[str, Any]) -> str:
    """Without the T of training."""
    return entry["method"].partition(", trained at")[0]
