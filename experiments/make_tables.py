"""Write the README's result and speed sections from the records in `experiments/results/`."""

from pathlib import Path

from snnkd_jax.records import read_records, with_tables

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"

if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(), read_records(RESULTS), read_records(RESULTS / "benchmark")))
