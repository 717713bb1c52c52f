"""`snnkd report`.

snnkd report RUN                             # writes RUN/report.html, of a run that is finished or not
snnkd report RUN RUN ... --out FILE.html     # seeds of a recipe, or recipes side by side
"""

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
