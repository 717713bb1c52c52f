"""Trained networks as StableHLO, to be run without this package: two files, which need only JAX and JSON.

`<name>.stablehlo` is serialised by `jax.export`: the folded network with its weights, for cpu, cuda and tpu. It takes
bytes `[b, H, W, C]` for any b >= 1, or of events frames `[b, T, H, W, 2]`, normalises them, and returns the logits of
each time step, float32 `[b, T, K]`; the predicted class has the largest mean over T. An ANN has T = 1.

`<name>.json` describes it: `input` and `output` with shapes and dtypes, the names of the `classes`, `model`, `dataset`,
`num_steps`, `platforms`, `versions`, and the `sha256` of the other file.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, export

from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_json
from snnkd_jax.inference.trained import Trained
from snnkd_jax.versions import versions


def write_artifact(trained: Trained, directory: Path, name: str = "student", num_steps: int | None = None) -> None:
    """Writes the two files to a directory, which is created if needed; `num_steps=None` takes as many as in training.

    Raises `InputError` for `num_steps` below 1 or given for an ANN, or if the files cannot be written.
    """
    trained = trained.folded()
    network = trained.network if num_steps is None else trained.with_steps(num_steps)
    variables = jax.device_get(trained.variables)
    frames = (trained.num_frames,) if trained.reads_events and trained.num_frames is not None else ()
    if frames and num_steps not in (None, *frames):
        raise InputError(f"num_steps={num_steps!r}: this network reads {frames[0]} frames of events; leave it out")

    def logits_of(images: Array) -> Array:
        logits, _ = network.apply(variables, trained.normalisation(images))
        return logits if logits.ndim == 3 else logits[:, None]

    shape, axes = (*frames, *trained.image_shape), f"batch, {'time step, ' if frames else ''}height, width, channel"
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), *shape), jnp.uint8)
    exported = export.export(jax.jit(logits_of), platforms=("cpu", "cuda", "tpu"))(images)
    artifact = bytes(exported.serialize())
    description: dict[str, Any] = {
        "input": {"shape": ["b", *shape], "dtype": "uint8", "axes": axes},
        "output": {
            "shape": ["b", network.num_steps or 1, len(trained.class_names)],
            "dtype": "float32",
            "axes": "batch, time step, class",
            "meaning": "logits; the likeliest class has the largest mean over the time steps",
        },
        "classes": trained.class_names,
        "model": trained.title,
        "dataset": trained.dataset,
        "num_steps": network.num_steps,
        "platforms": exported.platforms,
        "versions": versions(),
        "sha256": sha256(artifact),
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.stablehlo").write_bytes(artifact)
        write_json(directory / f"{name}.json", description)
    except OSError as error:
        raise InputError(f"{directory} cannot be written ({error.strerror}); name another folder") from error
