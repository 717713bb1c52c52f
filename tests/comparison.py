"""One comparison for what tests check against something independent: it asserts, and reports to the fidelity page.

`pytest --fidelity FILE` appends a JSON line for each comparison that has a name, a row of
`experiments/records/fidelity.py`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

report: Path | None = None  # set by conftest.py


def agrees(found: Any, expected: Any, rtol: float = 0.0, atol: float = 0.0, *, name: str | None = None) -> None:
    """Asserts `|found - expected| <= atol + rtol |expected|`; without tolerances, that the two are equal.

    The error that is reported is the largest `|found - expected| / (|expected| + atol / rtol)`, to be set against rtol,
    or for `rtol = 0` the largest difference, to be set against atol.
    """
    if name is not None and report is not None:
        kind, tolerance = ("relative", rtol) if rtol else ("absolute", atol) if atol else ("exact", 0.0)
        a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        difference = np.abs(a - b)
        scale = np.abs(b) + atol / rtol if rtol else np.ones(b.shape)
        error = np.divide(difference, scale, out=np.zeros(difference.shape), where=difference > 0).max(initial=0)
        with report.open("a") as file:
            file.write(json.dumps({"name": name, "kind": kind, "tolerance": tolerance, "error": float(error)}) + "\n")
    if rtol or atol:
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)
    else:
        np.testing.assert_array_equal(found, expected)
