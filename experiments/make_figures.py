"""Draw the figures of the documentation from the records in `experiments/results/`."""

import sys
from pathlib import Path

from figures import energy, noise, speed, steps
from records.trainings import read_records

from snnkd_jax import data
from snnkd_jax.cli.status import exit_status

HERE = Path(__file__).parent
FIGURES = HERE.parent / "docs" / "figures"
OF_ALL = {"energy": energy.draw, "speed": speed.draw, "steps": steps.draw}
"""Folder of records to the function that draws one figure of them."""


def main() -> None:
    """Draws all figures."""
    for name, draw in OF_ALL.items():
        if records := read_records(HERE / "results" / name):
            draw(records, FIGURES / f"{name}.svg")
    # The data set whose images may be published.
    noise.draw_levels(data.load("digits"), FIGURES / "noise-levels.png")
    for record in read_records(HERE / "results" / "noise"):
        noise.draw_curves(record, FIGURES / f"noise-{record['name']}.svg")


if __name__ == "__main__":
    sys.exit(exit_status(main))
