"""The figure of speed.

Bars: images/s in training of each library, at the T that most of them have, 4 if there is a choice. Lines, if a record
has several T: time and memory of a training step against T. The same records give the same bytes.
"""

from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError
from snnkd_jax.report.style import STYLE, Figure, mpl

OURS = ("snnkd_jax", "snnkd_jax, rate-based")
COLOURS = {
    "snnkd_jax": "#1f6fb2",
    "snnkd_jax, rate-based": "#0b3c66",
    "spikingjelly": "#d9822b",
    "spikingjelly-compile": "#f0b26b",
    "snntorch": "#7a9a3a",
    "norse": "#8c6bb1",
    "spyx": "#b5505f",
    "naive-jax": "#888888",
}


def series(records: list[dict[str, Any]], tasks: tuple[str, ...]) -> dict[str, dict[str, dict[int, dict[str, Any]]]]:
    """Model to library to T to its entry; a later record replaces an earlier one."""
    found: dict[str, dict[str, dict[int, dict[str, Any]]]] = {}
    for record in records:
        for entry in record["entries"]:
            if entry["task"] in tasks:
                name = OURS[1] if entry["task"] in ("rate", "kd-rate") else entry["library"]
                found.setdefault(entry["model"], {}).setdefault(name, {})[entry["num_steps"]] = entry
    order = list(COLOURS)
    return {
        model: dict(sorted(libraries.items(), key=lambda item: order.index(item[0])))
        for model, libraries in sorted(found.items())
    }


def draw_bars(axes: Any, model: str, libraries: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Images per second with least and greatest."""
    counts = [t for by_t in libraries.values() for t in by_t]
    num_steps = max(set(counts), key=lambda t: (counts.count(t), t == 4, t))
    shown = {name: by_t[num_steps] for name, by_t in libraries.items() if num_steps in by_t}
    speeds = [entry["images_per_second"] for entry in shown.values()]
    medians = [s["median"] for s in speeds]
    errors = [[s["median"] - s["min"] for s in speeds], [s["max"] - s["median"] for s in speeds]]
    axes.barh(
        list(shown), medians, xerr=errors, color=[COLOURS[n] for n in shown], error_kw={"ecolor": "#333333", "lw": 1.2}
    )
    for i, s in enumerate(speeds):
        axes.text(s["max"] + 0.02 * max(x["max"] for x in speeds), i, f"{s['median']:.3g}", va="center")
    axes.set_xlim(0, 1.15 * max(s["max"] for s in speeds))
    axes.invert_yaxis()
    axes.grid(axis="x", color="#dddddd")
    batch = next(iter(shown.values()))["batch_size"]
    axes.set_title(f"{model}, batch {batch}, T = {num_steps}", loc="left", fontweight="bold")
    axes.set_xlabel("training, images/s (longer is better)")


def draw_lines(axes: Any, libraries: dict[str, dict[int, dict[str, Any]]], quantity: str) -> None:
    """Seconds or memory of a step against T."""
    for name, by_t in libraries.items():
        if len(by_t) < 2:
            continue
        ts = sorted(by_t)
        values = [by_t[t]["seconds"]["median"] if quantity == "time" else by_t[t]["peak_bytes"] / 1e9 for t in ts]
        axes.plot(ts, values, "o-", color=COLOURS[name], lw=2.5 if name in OURS else 1.5, label=name)
    axes.set_xscale("log", base=2)
    ticks = sorted({t for by_t in libraries.values() for t in by_t})
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    axes.set_xlabel("time steps T")
    axes.set_ylabel("seconds per step" if quantity == "time" else "peak memory, GB")
    if quantity == "time":
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=10)
    axes.grid(color="#dddddd")


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Writes the figure of these records, those of kind `benchmark` of full width and default batch, float32 on CPU.

    Bars and lines of different sizes would say nothing beside each other.
    """
    records = [r for r in records if r["kind"] == "benchmark"]
    same = {"width": 1, "batch_size": None, "device": "cpu", "dtype": "float32"}
    records = [r for r in records if (same | r["settings"]).items() >= same.items()]
    if not records:
        raise InputError("no record of speed of full width; run experiments/benchmark.py --record NAME")
    found = series(records, ("train", "rate"))
    swept = [model for model, libraries in found.items() if any(len(by_t) > 1 for by_t in libraries.values())]
    with mpl.rc_context(STYLE):
        rows = 1 + len(swept)
        figure = Figure(figsize=(12, 4 * rows), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False)
        for axes, (model, libraries) in zip(grid[0], found.items(), strict=False):
            draw_bars(axes, model, libraries)
        for axes in grid[0][len(found) :]:
            axes.set_axis_off()
        for row, model in zip(grid[1:], swept, strict=True):
            for axes, quantity in zip(row, ("time", "memory"), strict=True):
                draw_lines(axes, found[model], quantity)
                axes.set_title(f"{model}: {quantity} of a training step", loc="left", fontweight="bold")
        figure.savefig(path, metadata={"Date": None})
