"""Tiny runs on the digits, and how one is started in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

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
