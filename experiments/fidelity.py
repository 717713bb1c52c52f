"""The record of what tests found when they compared each equation of the library with something independent.

    python -m pytest --fidelity found.jsonl
    python experiments/fidelity.py found.jsonl --record cpu
    python experiments/make_tables.py

Tests name a row of `records/fidelity.py` where they compare (`tests/comparison.py`), and tell the error.
"""

import json
import sys
from pathlib import Path
from typing import Any

import tyro
from records.fidelity import ROWS

from snnkd_jax.cli.arguments import call
from snnkd_jax.errors import InputError
from snnkd_jax.runs.record import write_record

RESULTS = Path(__file__).parent / "results" / "fidelity"


def main(found: tyro.conf.Positional[list[Path]], record: str, packages: tuple[str, ...] = (), notes: str = "") -> None:
    """Make a record of what comparisons found.

    Args:
        found: Files that `pytest --fidelity` wrote.
        record: Write experiments/results/fidelity/<record>.json.
        packages: Further packages whose versions matter.
        notes: What a reader should know.
    """
    lines = [line for path in found for line in path.read_text().splitlines()]
    rows = summed_up([json.loads(line) for line in lines])
    write_record(RESULTS / f"{record}.json", "fidelity", {"rows": rows, "notes": notes}, packages)


def summed_up(comparisons: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each row its kind of tolerance, the tolerance, the largest error and the number of comparisons.

    Raises `InputError` for a row that the page does not have, or that was compared with several tolerances.
    """
    known = [name for rows in ROWS.values() for name in rows]
    found: dict[str, dict[str, Any]] = {}
    for comparison in comparisons:
        name, limit = comparison["name"], {key: comparison[key] for key in ("kind", "tolerance")}
        if name not in known:
            raise InputError(f"name {name!r} is no row of experiments/records/fidelity.py; add it there")
        row = found.setdefault(name, limit | {"error": 0.0, "comparisons": 0})
        if not limit.items() <= row.items():
            raise InputError(f"row {name!r} has the tolerances {row} and {limit}; give each a row of its own")
        row["error"] = max(row["error"], comparison["error"])
        row["comparisons"] += 1
    return {name: found[name] for name in known if name in found}


if __name__ == "__main__":
    sys.exit(call(main))
