"""`python -m snnkd_jax.report`."""

from pathlib import Path

import tyro

from snnkd_jax.errors import told_in_one_line
from snnkd_jax.report.write import write_report


def main(runs: tyro.conf.Positional[list[Path]], out: Path | None = None) -> None:
    """Write the report of a run, or compare several.

    Args:
        runs: Run directories, finished or not.
        out: The file to write; None: report.html in the directory of the only run.
    """
    print(write_report(runs, out))


if __name__ == "__main__":
    with told_in_one_line():
        tyro.cli(main)
