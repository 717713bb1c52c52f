"""Draw the figures of the README from the records in `experiments/results/`."""

from pathlib import Path

import figure_energy
import figure_noise
import figure_speed
import figure_steps
import matplotlib as mpl
from records.trainings import read_records

from snnkd_jax import data
from snnkd_jax.errors import told_in_one_line

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
OF_ALL = {"energy": figure_energy.draw, "speed": figure_speed.draw, "steps": figure_steps.draw}
"""Folder of records to the function that draws one figure of them."""

if __name__ == "__main__":
    mpl.use("svg")
    with told_in_one_line():
        for name, draw in OF_ALL.items():
            if records := read_records(HERE / "results" / name):
                draw(records, FIGURES / f"{name}.svg")
        # Of the data set that may be shown anywhere.
        figure_noise.draw_levels(data.load("digits"), FIGURES / "noise-levels.png")
        for record in read_records(HERE / "results" / "noise"):
            figure_noise.draw_curves(record, FIGURES / f"noise-{record['name']}.svg")
