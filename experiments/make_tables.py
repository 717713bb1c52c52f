"""Write the README's generated sections from the records in `experiments/results/`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from snnkd_jax.energy_records import energy_section
from snnkd_jax.noise_records import noise_section
from snnkd_jax.plan_records import plan_section
from snnkd_jax.records import read_records, tables, with_sections
from snnkd_jax.speed_records import speed_section
from snnkd_jax.step_records import steps_section

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"

SECTIONS: dict[str, tuple[Path, Callable[[list[dict[str, Any]]], str]]] = {
    "results": (RESULTS, tables),
    "steps": (RESULTS / "steps", steps_section),
    "noise": (RESULTS / "noise", noise_section),
    "energy": (RESULTS / "energy", energy_section),
    "speed": (RESULTS / "speed", speed_section),
    "plan": (RESULTS / "plan", plan_section),
}
"""Name of a section to the folder of its records and the function that writes it."""


def written(readme: str) -> str:
    """The README with its generated sections as the records have them."""
    return with_sections(readme, {name: write(read_records(folder)) for name, (folder, write) in SECTIONS.items()})


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(written(path.read_text()))
