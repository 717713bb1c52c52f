"""Tiny runs on the digits: how a process of its own is started, and what a run leaves behind."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

SCRIPT = Path(__file__).parent.parent / "experiments" / "cifar_distill.py"
TINY = ["--dataset", "digits", "--width", "0.1", "--teacher-width", "0.1", "--num-steps", "2"]


def start(arguments: list[str], script: Path = SCRIPT, **environment: str) -> subprocess.Popen:
    """The program in a process of its own, on one device."""
    return subprocess.Popen(
        [sys.executable, str(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    )


def logged(run_dir: Path) -> list[dict[str, Any]]:
    """What the log says, without the times."""
    entries = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for entry in entries:
        del entry["images_per_second"], entry["seconds"]
    return entries


def arrays(run_dir: Path, phase: str) -> list[np.ndarray]:
    """All arrays of the last checkpoint, read by Orbax itself."""
    import orbax.checkpoint as ocp

    steps = [int(path.name) for path in (run_dir / phase).iterdir() if path.name.isdigit()]
    leaves = []
    for part in ("network", "training"):
        with ocp.StandardCheckpointer() as reader, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of reading without being told the sharding
            leaves += jax.tree.leaves(reader.restore((run_dir / phase / str(max(steps)) / part).absolute()))
    return [np.asarray(x) for x in leaves]
