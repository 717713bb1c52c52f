"""Provenance of a result: command, versions, hardware, settings of JAX and XLA, and commit."""

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

_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision")
_SETTINGS += ("jax_default_prng_impl", "jax_threefry_partitionable", "jax_random_seed_offset")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
_SAME_NUMBERS = "dump|device_|log|profil|metrics|timeout|cache|memory|data_dir|threads|parallelism"


def numerics() -> dict[str, Any]:
    """Settings of JAX that change the numbers of a training, however it is compiled: type, random bits, precision."""
    return {name: getattr(jax.config, name) for name in _SETTINGS}


def compiler_flags() -> dict[str, str]:
    """Flags of XLA and of its backends that may change rounding, by name; not those of dumps, devices or memory."""
    words = {name: os.environ.get(name, "").split() for name in _FLAGS}
    return {
        name: given
        for name, flags in words.items()
        if (given := " ".join(sorted(flag for flag in flags if not re.search(_SAME_NUMBERS, flag.partition("=")[0]))))
    }


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
    """The provenance of a result: command, versions (also of the packages `others`), hardware, flags and commit."""
    program = Path(sys.argv[0])
    installed = program.stem == "snnkd" or program.parts[-2:] == ("cli", "__main__.py")
    return {
        "command": shlex.join([*(["snnkd"] if installed else ["python", sys.argv[0]]), *sys.argv[1:]]),
        "versions": versions(others),
        "hardware": hardware(),
        "compiler_flags": compiler_flags(),
        "commit": commit(),
    }
