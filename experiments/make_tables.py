"""Write the README's result section from the records in `experiments/results/`."""

from pathlib import Path

from snnkd_jax.records import read_records, with_tables

ROOT = Path(__file__).parent.parent

if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(), read_records(ROOT / "experiments" / "results")))
