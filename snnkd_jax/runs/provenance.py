"""Where a number came from: versions, hardware and commit."""

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax

_PACKAGES = (
    *("snnkd-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy"),
    "scikit-learn",
)


def versions(others: Iterable[str] = ()) -> dict[str, str]:
    """Package name to installed version, of Python, of what this project needs, and of `others`."""
    names = (*_PACKAGES, *others)
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}


def commit() -> str | None:
    """The git commit of the source, with "+changes" if a Python file differs from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return head + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def hardware() -> str:
    """Devices and processor in words, as "1 cpu device(s) (2 x AMD EPYC ...)"."""
    device = jax.devices()[0]
    kind = f"{os.cpu_count()} x {_processor()}" if device.platform == "cpu" else device.device_kind
    return f"{jax.device_count()} {device.platform} device(s) ({kind})"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def origin(others: Iterable[str] = ()) -> dict[str, Any]:
    """What a result rests on: command, versions (of the packages `others` too), hardware and commit."""
    program = Path(sys.argv[0])
    installed = program.stem == "snnkd" or program.parts[-2:] == ("cli", "__main__.py")
    return {
        "command": shlex.join([*(["snnkd"] if installed else ["python", sys.argv[0]]), *sys.argv[1:]]),
        "versions": versions(others),
        "hardware": hardware(),
        "commit": commit(),
    }
