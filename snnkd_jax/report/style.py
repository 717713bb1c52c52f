"""Matplotlib settings of all figures; the same numbers give the same bytes."""

from typing import Any

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "snnkd",
    "svg.fonttype": "path",
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
