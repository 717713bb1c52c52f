"""What all figures have in common; the same numbers give the same bytes."""

from typing import Any

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "snnkd",
    "svg.fonttype": "path",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
