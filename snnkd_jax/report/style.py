"""Matplotlib and its settings for all figures; the same numbers give the same bytes.

Figures are written to files without `pyplot`, so no backend for windows or notebooks is needed.
"""

import os
from typing import Any

try:
    import matplotlib as mpl
except ValueError:
    # MPLBACKEND is a notebook's, inherited by a process in whose environment there is no such backend.
    del os.environ["MPLBACKEND"]
    import matplotlib as mpl

from matplotlib.figure import Figure

__all__ = ["STYLE", "Figure", "mpl"]

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "snnkd",
    "svg.fonttype": "path",
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
