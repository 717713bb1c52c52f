"""Matplotlib and its settings for all figures; the same numbers give the same bytes.

Figures are written to files without `pyplot`, so no backend for windows or notebooks is needed.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _without_backend() -> Iterator[None]:
    """Keeps Matplotlib's import from failing where MPLBACKEND is inherited from a notebook and not installed here."""
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    yield
    if backend is not None:
        os.environ["MPLBACKEND"] = backend
        with contextlib.suppress(ValueError):
            mpl.rcParams["backend"] = backend  # as the import does


with _without_backend():
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = ["STYLE", "Figure", "Line2D", "mpl"]

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "snnkd",
    "svg.fonttype": "path",
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "white"),
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
