"""Draw the figures of the README from the records in `experiments/results/`; needs matplotlib (extra `bench`)."""

import sys
from pathlib import Path

import figure_speed
import figure_steps
import matplotlib as mpl  # pyright: ignore[reportMissingImports]

from snnkd_jax.errors import InputError
from snnkd_jax.records import read_records

HERE = Path(__file__).parent
FIGURES = {"speed": figure_speed.draw, "steps": figure_steps.draw}
"""Folder of records to the function that draws them."""

if __name__ == "__main__":
    mpl.use("svg")
    try:
        for name, draw in FIGURES.items():
            if records := read_records(HERE / "results" / name):
                draw(records, HERE / "figures" / f"{name}.svg")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
