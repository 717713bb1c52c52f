"""The devices that JAX uses, what is missing where it cannot, and GPUs that are there and idle."""

import importlib.util
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from snnkd_jax.errors import InputError, did_you_mean

_PLATFORMS = ("cpu", "cuda", "gpu", "tpu", "rocm", "METAL")
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def all_devices() -> list[Any]:
    """The devices of all processes; raises `InputError` if the backend that JAX is told to use is not there."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX skips cuda as there is no such GPU
        raise InputError(_unusable(_asked(), str(error))) from error


def _asked() -> str | None:
    """The platforms that JAX is told to use, by JAX_PLATFORMS or in the program; None: any."""
    config: Any = jax.config
    return config.jax_platforms or None


def _unusable(asked: str | None, error: str) -> str:
    """Why the platforms that JAX is asked for, None for any, cannot be used, and what to do."""
    if not asked:
        return f"JAX finds no device it can use ({error}); JAX_PLATFORMS=cpu uses the CPU"
    named = re.search("backend '([^']*)'", error)
    platform = "gpu" if "gpu" in asked.split(",") else named[1] if named else asked.split(",")[0]
    if platform in ("cuda", "gpu") and not _is_installed("jax_cuda12_plugin", "jax_cuda13_plugin"):
        reason = "JAX for NVIDIA GPUs is not installed: pip install -U 'snnkd-jax[cuda]'"
    elif platform in ("cuda", "gpu"):
        reason = f"no NVIDIA GPU can be used ({error or 'no driver is loaded'}); nvidia-smi and {_VISIBLE[0]} say which"
    elif platform == "tpu" and not _is_installed("libtpu"):
        reason = "JAX for TPUs is not installed: pip install -U 'snnkd-jax[tpu]'"
    elif platform in _PLATFORMS and "known backends" in error:
        reason = f"JAX's plugin for {platform} is not installed, see docs.jax.dev/en/latest/installation.html"
    elif platform in _PLATFORMS:
        reason = error
    else:
        hint = did_you_mean(platform.strip(), _PLATFORMS)
        reason = f"{platform!r} is no platform{hint}; name some of {', '.join(_PLATFORMS)}, without spaces"
    return f"JAX_PLATFORMS={asked!r} cannot be used: {reason}; or unset it, and JAX takes what it finds"


def _is_installed(*modules: str) -> bool:
    return any(importlib.util.find_spec(module) is not None for module in modules)


def idle_gpus(environment: Mapping[str, str] = os.environ) -> str | None:
    """A warning if GPUs that this process may use are not used, else None.

    Under SLURM and Open MPI, JAX gives each process one GPU, by its number on the host.
    """
    if (visible := _visible_gpus(environment)) is None:
        return None
    where, names = visible
    devices = jax.local_devices()
    platforms = set((_asked() or "gpu").split(","))
    if not names or devices[0].platform == "tpu" or not platforms & {"cuda", "gpu", "rocm"}:
        return None
    used = [device.local_hardware_id for device in devices if device.platform == "gpu"]
    processes = _processes_on_host(environment)
    if len(used) * processes >= len(names) and len(used) >= _gpus_per_task(environment):
        return None
    found = f"{where}, of which this process uses {len(used)}"
    if not used:
        platform = "cuda" if where.startswith((_VISIBLE[0], "/dev/nvidia")) else "rocm"
        advice = f"JAX_PLATFORMS={platform} says what is missing, JAX_PLATFORMS=cpu that this is as it should be"
        return f"GPUs are idle: {found}, as JAX runs on {devices[0].platform}; {advice}"
    if processes == 1:
        found += f" (not {', '.join(name for i, name in enumerate(names) if i not in used)})"
    advice = "start one process per GPU (srun --ntasks-per-node), or train in one process with --distributed False"
    return f"GPUs are idle: {found}; {advice}"


def _visible_gpus(environment: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """Where the GPUs of this process are listed, and their names; None if there are none."""
    for variable in _VISIBLE:
        if (listed := environment.get(variable)) is not None:
            names = [name.strip() for name in listed.split(",")]
            return f"{variable}={listed}", [name for name in names if name not in ("", "-1", "NoDevFiles")]
    files = sorted(Path("/dev").glob("nvidia[0-9]*"))
    return (", ".join(map(str, files)), [path.name for path in files]) if files else None


def _processes_on_host(environment: Mapping[str, str]) -> int:
    """How many processes share the GPUs of this host."""
    listed = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") or "1"
    return int(re.sub(r"\D.*", "", listed) or 1) if jax.process_count() > 1 else 1


def _gpus_per_task(environment: Mapping[str, str]) -> int:
    """How many GPUs SLURM gives each process alone, as with `--gpus-per-task`; 0 if it does not say."""
    *_, number = re.findall(r"\d+", environment.get("SLURM_GPUS_PER_TASK", "")) or ["0"]  # 2, or gpu:a100:2
    return int(number)
