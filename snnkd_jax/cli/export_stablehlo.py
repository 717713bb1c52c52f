"""`snnkd export-stablehlo RUN --out DIR`; the format is that of `snnkd_jax.interop.stablehlo`."""

from pathlib import Path

import tyro

from snnkd_jax.runs.roles import Role


def export_stablehlo(
    run: tyro.conf.Positional[Path], out: Path, role: Role = "student", num_steps: int | None = None
) -> None:
    """Write a network as <out>/<role>.stablehlo, which JAX runs without this package, and <out>/<role>.json.

    Args:
        run: Directory of a finished run.
        out: Folder for the files.
        role: Which network of the run.
        num_steps: Time steps; None: as many as in training.
    """
    from snnkd_jax.inference.trained import load
    from snnkd_jax.interop.stablehlo import write_artifact

    write_artifact(load(run, role), out, role, num_steps)
    print(f"{out / role}.stablehlo, described by {out / role}.json")
