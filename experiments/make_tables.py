"""Write the generated sections of the README and of the pages in `docs/` from the records."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from records.aims import aims_section
from records.energy import energy_section
from records.fidelity import ROWS, fidelity_section, fidelity_source
from records.knobs import knob_source, knob_table, loss_section
from records.nir import nir_section
from records.noise import noise_section
from records.plan import plan_section
from records.speed import speed_section
from records.steps import steps_section
from records.trainings import read_records, tables, with_sections

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
DOCS = ROOT / "docs"

Sections = dict[str, tuple[Path, Callable[[list[dict[str, Any]]], str]]]


def aims(records: list[dict[str, Any]]) -> str:
    """What was set out to be shown, of records of several folders."""
    return aims_section(records, *(read_records(RESULTS / folder) for folder in ("steps", "noise", "energy")))


SECTIONS: Sections = {
    "aims": (RESULTS, aims),
    "loss": (RESULTS / "knobs", loss_section),
    "results": (RESULTS, tables),
    "steps": (RESULTS / "steps", steps_section),
    "noise": (RESULTS / "noise", noise_section),
    "energy": (RESULTS / "energy", energy_section),
    "speed": (RESULTS / "speed", speed_section),
    "plan": (RESULTS / "plan", plan_section),
    "nir": (RESULTS / "nir", nir_section),
}
"""Name of a section of the README to the folder of its records and the function that writes it."""

KNOBS: Sections = {
    group: (RESULTS / "knobs", functools.partial(knob_table, group=group))
    for group in ("neuron", "surrogate", "network", "objective")
}
FIDELITY: Sections = {name: (RESULTS / "fidelity", functools.partial(fidelity_section, section=name)) for name in ROWS}

PAGES: dict[Path, Sections] = {
    ROOT / "README.md": SECTIONS,
    DOCS / "tutorial.md": KNOBS | {"runs": (RESULTS / "knobs", knob_source)},
    DOCS / "fidelity.md": FIDELITY | {"records": (RESULTS / "fidelity", fidelity_source)},
}


def written(page: str, sections: Sections = SECTIONS) -> str:
    """The page with its generated sections as the records have them."""
    return with_sections(page, {name: write(read_records(folder)) for name, (folder, write) in sections.items()})


if __name__ == "__main__":
    for path, sections in PAGES.items():
        path.write_text(written(path.read_text(), sections))
