"""`snnkd report RUN`, and `snnkd report RUN RUN ... --out FILE.html` for seeds or recipes side by side."""

from pathlib import Path

import tyro


def report(runs: tyro.conf.Positional[list[Path]], out: Path | None = None) -> None:
    """Write the report of a run, or compare several.

    Args:
        runs: Run directories, finished or not.
        out: The file to write; None: report.html in the directory of the only run.
    """
    from snnkd_jax.report.write import write_report

    print(write_report(runs, out))
