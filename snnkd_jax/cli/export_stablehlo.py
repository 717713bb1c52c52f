"""`snnkd export-stablehlo RUN --out DIR`; the format is that of `snnkd_jax.interop.stablehlo`."""

from pathlib import Path

from snnkd_jax.cli.arguments import Run
from snnkd_jax.files import check_writable
from snnkd_jax.runs.roles import Role


def export_stablehlo(run: Run, out: Path, role: Role = "student", num_steps: int | None = None) -> None:
    """Export a network to StableHLO, which JAX runs without this package.

    Writes <out>/<role>.stablehlo, and <out>/<role>.json, which describes it.

    Args:
        out: Folder for the files.
        role: Network of the run.
        num_steps: Time steps; None: as in training.
    """
    check_writable("out", out)
    from snnkd_jax.inference.trained import load
    from snnkd_jax.interop.stablehlo import write_artifact

    write_artifact(load(run, role), out, role, num_steps)
    print(f"{out / role}.stablehlo, described by {out / role}.json")
