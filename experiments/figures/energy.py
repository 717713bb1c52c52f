"""The figure of the energy of an image, one panel for each record: what its MACs and what its ACs cost."""

from pathlib import Path
from typing import Any

from snnkd_jax.analysis.joules import joules
from snnkd_jax.report.energy import title
from snnkd_jax.report.style import STYLE, Figure, mpl

MAC_COLOUR, AC_COLOUR = "#b8442f", "#2f6db8"


def draw(records: list[dict[str, Any]], path: Path) -> None:
    """Writes the figure: a bar for each network of a record, of the part of its MACs and that of its ACs."""
    heights = [len(record["networks"]) for record in records]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, sum(0.5 * n + 1.2 for n in heights)), layout="constrained")
        grid = figure.subplots(len(records), 1, height_ratios=[n + 1 for n in heights], squeeze=False)
        for axes, record in zip(grid[:, 0], records, strict=True):
            draw_bars(axes, record)
        bars = grid[0, 0].get_legend_handles_labels()
        figure.legend(*bars, frameon=False, fontsize=9, loc="outside upper right", ncols=2)
        figure.supxlabel("energy an image, µJ (45 nm, memory access not included)", fontsize=10)
        figure.savefig(path, metadata={"Date": None})


def draw_bars(axes: Any, record: dict[str, Any]) -> None:
    """One record, its first network on top; at each bar its energy."""
    networks = list(record["networks"].items())[::-1]
    steps = ["" if network["num_steps"] is None else f", T = {network['num_steps']}" for _, network in networks]
    titles = [title(record, role) + of_steps for (role, _), of_steps in zip(networks, steps, strict=True)]
    macs, acs = (
        [1e6 * joules(*counts(network), record["mac_pj"], record["ac_pj"]) for _, network in networks]
        for counts in (lambda network: (network["macs"], 0), lambda network: (0, network["acs"]))
    )
    axes.barh(titles, macs, color=MAC_COLOUR, label="multiplications (MAC)")
    bars = axes.barh(titles, acs, left=macs, color=AC_COLOUR, label="accumulations (AC)")
    axes.bar_label(bars, [f" {a + b:.3g}" for a, b in zip(macs, acs, strict=True)], fontsize=10)
    axes.margins(x=0.1)
    axes.set_title(record["dataset"], loc="left", fontweight="bold")
