"""`snnkd report RUN`, and `snnkd report RUN RUN ... --out FILE.html` for seeds or recipes side by side."""

from pathlib import Path
from typing import Annotated

import tyro

from snnkd_jax.cli.arguments import one_or_more


def report(runs: tyro.conf.Positional[Annotated[list[Path], one_or_more("RUN")]], out: Path | None = None) -> None:
    """Write the HTML report of a run, or compare several runs.

    Args:
        runs: Run directories, finished or not.
        out: HTML file to write; None: report.html in the directory of the only run.
    """
    from snnkd_jax.report.write import write_report

    print(write_report(runs, out))
