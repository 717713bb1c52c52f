"""The record of the tests that compare each equation of the library with an independent implementation.

    python -m pytest --fidelity found.jsonl -m "not multihost and not plan and not peers and not browser and not remote"
    python experiments/fidelity.py found.jsonl --record cpu
    python experiments/make_tables.py

A test names the row of `records/fidelity.py` that it compares (`tests/comparison.py`), and its error is written.
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
    """Write the record of the comparisons.

    Args:
        found: Files written by `pytest --fidelity`.
        record: Write experiments/results/fidelity/<record>.json.
        packages: Further packages whose versions are recorded.
        notes: Remarks for the record.
    """
    lines = [line for path in found for line in path.read_text().splitlines()]
    rows = summed_up([json.loads(line) for line in lines])
    names = [*(path.name for path in found), "--record", record, *(["--packages", *packages] if packages else [])]
    content = {"command": f"python experiments/fidelity.py {' '.join(names)}", "rows": rows, "notes": notes}
    write_record(RESULTS / f"{record}.json", "fidelity", content, packages)


def summed_up(comparisons: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Kind of tolerance, tolerance, largest error and number of comparisons of each row.

    Raises `InputError` for a row that is not on the page, or that was compared with several tolerances.
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
