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

COLOURS = {"teacher": "#888888", "student_baseline": "#d9822b", "student": "#1f6fb2"}
"""Of the networks of a run, on white."""
