"""Tiny runs on the digits: how one is started in a process of its own, and how one is refused."""

import os
import subprocess
import sys
from pathlib import Path

from snnkd_jax.cli.train import main

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


def refused(capsys, arguments: list[str]) -> str:
    """The one line on stderr with which the program ends."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]
