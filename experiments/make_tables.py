"""Write the generated sections of the README and of the pages in `docs/` from the records."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from records.aims import aims_section
from records.energy import energy_section
from records.events import events_section
from records.fidelity import ROWS, fidelity_section, fidelity_source
from records.headline import headline_section
from records.knobs import knob_source, knob_table
from records.nir import nir_section
from records.noise import noise_section
from records.plan import plan_section
from records.presets import loss_section, presets_section
from records.speed import speed_section
from records.speed_aims import speed_aims_section
from records.steps import steps_section
from records.students import students_section
from records.trainings import read_records, tables, with_sections

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
DOCS = ROOT / "docs"

Sections = dict[str, tuple[Path, Callable[[list[dict[str, Any]]], str]]]


def aims(records: list[dict[str, Any]]) -> str:
    """What was set out to be shown, of records of several folders."""
    return aims_section(
        records, *(read_records(RESULTS / folder) for folder in ("steps", "noise", "energy", "presets"))
    )


def headline(records: list[dict[str, Any]]) -> str:
    """The README's table, of the records of trainings and of one conversion."""
    return headline_section(records, read_records(RESULTS / "steps"))


def knobs(group: str) -> tuple[Path, Callable[[list[dict[str, Any]]], str]]:
    """The tutorial's table of one group of options."""
    return RESULTS / "knobs", functools.partial(knob_table, group=group)


def fidelity(section: str) -> tuple[Path, Callable[[list[dict[str, Any]]], str]]:
    """A section of the fidelity page."""
    return RESULTS / "fidelity", functools.partial(fidelity_section, section=section)


PAGES: dict[Path, Sections] = {
    ROOT / "README.md": {"headline": (RESULTS, headline)},
    DOCS / "results.md": {"aims": (RESULTS, aims), "results": (RESULTS, tables)},
    DOCS / "presets.md": {"presets": (RESULTS / "presets", presets_section), "loss": (RESULTS / "knobs", loss_section)},
    DOCS / "time_steps.md": {"steps": (RESULTS / "steps", steps_section)},
    DOCS / "noise.md": {"noise": (RESULTS / "noise", noise_section)},
    DOCS / "energy.md": {"energy": (RESULTS / "energy", energy_section)},
    DOCS / "speed.md": {
        "speed_aims": (RESULTS / "speed", speed_aims_section),
        "speed": (RESULTS / "speed", speed_section),
    },
    DOCS / "events.md": {"events": (RESULTS / "events", events_section)},
    DOCS / "inference.md": {"students": (RESULTS, students_section)},
    DOCS / "scaling.md": {"plan": (RESULTS / "plan", plan_section)},
    DOCS / "neuromorphic.md": {"nir": (RESULTS / "nir", nir_section)},
    DOCS / "tutorial.md": {
        "runs": (RESULTS / "knobs", knob_source),
        **{group: knobs(group) for group in ("neuron", "surrogate", "network", "objective")},
    },
    DOCS / "fidelity.md": {
        "records": (RESULTS / "fidelity", fidelity_source),
        **{name: fidelity(name) for name in ROWS},
    },
}
"""Page to its generated sections: name to the folder of the records and the function that writes the section."""


def written(page: str, sections: Sections) -> str:
    """The page with its generated sections as the records have them."""
    return with_sections(page, {name: write(read_records(folder)) for name, (folder, write) in sections.items()})


if __name__ == "__main__":
    for path, sections in PAGES.items():
        path.write_text(written(path.read_text(), sections))
