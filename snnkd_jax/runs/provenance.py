"""Provenance of a result: command, versions, hardware and commit."""

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

from snnkd_jax.versions import versions


def commit() -> str | None:
    """The git commit of the source, with "+changes" if a Python file differs from it; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def hardware() -> str:
    """Devices and processor in words, such as "1 cpu device(s) (2 x AMD EPYC ...)"."""
    device, cpuinfo = jax.devices()[0], Path("/proc/cpuinfo")
    kind = device.device_kind
    if device.platform == "cpu":
        named = re.search(r"^model name\s*:\s*(.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
        kind = f"{os.cpu_count()} x {named[1].strip() if named else platform.processor() or platform.machine()}"
    return f"{jax.device_count()} {device.platform} device(s) ({kind})"


def origin(others: Iterable[str] = ()) -> dict[str, Any]:
    """The provenance of a result: command, versions (also of the packages `others`), hardware and commit."""
    program = Path(sys.argv[0])
    installed = program.stem == "snnkd" or program.parts[-2:] == ("cli", "__main__.py")
    return {
        "command": shlex.join([*(["snnkd"] if installed else ["python", sys.argv[0]]), *sys.argv[1:]]),
        "versions": versions(others),
        "hardware": hardware(),
        "commit": commit(),
    }
