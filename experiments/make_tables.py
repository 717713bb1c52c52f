"""Write the README's result and speed sections from the records in `experiments/results/`."""

from pathlib import Path

from snnkd_jax.records import read_records, tables, with_sections
from snnkd_jax.speed_records import speed_section

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"


def written(readme: str) -> str:
    """The README with its generated sections as the records have them."""
    sections = {"results": tables(read_records(RESULTS)), "speed": speed_section(read_records(RESULTS / "speed"))}
    return with_sections(readme, sections)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(written(path.read_text()))
