"""`snnkd export-nir RUN --out student.nir`."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from snnkd_jax.cli.arguments import Run
from snnkd_jax.files import check_writable_file


def export_nir(
    run: Run,
    out: Path,
    role: Literal["student", "student_baseline"] = "student",
    dt: float = 1e-4,
    old_readers: bool = False,
    num_steps: int | None = None,
) -> None:
    """Export a student to NIR, for neuromorphic tools.

    Needs the extra `nir`: pip install 'snnkd-jax[nir]'.

    Args:
        out: NIR file to write.
        role: Network of the run.
        dt: Duration of a time step in seconds.
        old_readers: Leave out v_reset, which tools with nir <= 1.0.4 (sinabs, Rockpool) cannot read; configure their
            neurons to reset to 0.
        num_steps: T that is written to the file; None: as in training.
    """
    check_writable_file("out", out)
    import jax.numpy as jnp

    from snnkd_jax.inference.trained import load
    from snnkd_jax.interop.nir import write_nir

    trained = load(run, role)
    network = trained.network if num_steps is None else trained.with_steps(num_steps)
    normalisation = trained.normalisation
    if network.module.dtype != jnp.float32:  # pyright: ignore[reportAttributeAccessIssue]
        print("this student computes in bfloat16, the file in float32: some spikes will differ")
        network = dataclasses.replace(network, module=network.module.clone(dtype=jnp.float32))
    options: dict[str, Any] = {"normalisation": normalisation, "dt": dt, "old_readers": old_readers}
    graph = write_nir(out, network, trained.variables, trained.image_shape, **options)
    for name, node in graph.nodes.items():
        shape = tuple(map(int, node.output_type["output"]))
        sources = " + ".join(a for a, b in graph.edges if b == name)
        print(f"{name:24} {type(node).__name__:10} {shape!s:18} {sources}".rstrip())
    names = trained.class_names
    mean, std = ([round(x, 4) for x in values] for values in (normalisation.mean, normalisation.std))
    print(f"""
{out}
input   (pixel / 255 - mean) / std, mean {mean}, std {std}, the same at every step
steps   {network.num_steps} of dt = {dt:g} s
output  one value per class and step; the prediction is the class of the largest mean over steps: {", ".join(names)}""")
