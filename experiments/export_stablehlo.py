"""Write a trained network as StableHLO, which JAX runs without this package (see snnkd_jax/interop/stablehlo.py).

python experiments/export_stablehlo.py RUN --out DIR
"""

from pathlib import Path

import tyro

from snnkd_jax.errors import told_in_one_line
from snnkd_jax.inference.trained import Role, load
from snnkd_jax.interop.stablehlo import write_artifact


def main(run: tyro.conf.Positional[Path], out: Path, role: Role = "student", num_steps: int | None = None) -> None:
    """Write <out>/<role>.stablehlo and <out>/<role>.json.

    Args:
        run: Directory of a finished run.
        out: Folder for the files.
        role: Which network of the run.
        num_steps: Time steps; None: as many as in training.
    """
    write_artifact(load(run, role), out, role, num_steps)
    print(f"{out / role}.stablehlo, described by {out / role}.json")


if __name__ == "__main__":
    with told_in_one_line():
        tyro.cli(main)
