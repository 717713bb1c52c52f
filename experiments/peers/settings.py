"""The options of `experiments/benchmark.py`."""

import dataclasses
import os
from typing import Any, get_args

from snnkd_jax.errors import InputError, check_choice

from . import LIBRARIES
from .workload import TASKS, Device, Dtype

BATCH_SIZES = {
    "cpu": {"resnet18": 16, "vgg11": 32, "airbench94": 100},
    "gpu": {"resnet18": 256, "vgg11": 512, "airbench94": 1024},
}
"""Device to the batch size of each model; those of the GPU are a guess of what fills one, not measured."""

DEFAULT_MODELS = ("resnet18", "vgg11")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of the benchmark."""

    tasks: tuple[str, ...] = TASKS
    """Any of train, rate, integer, kd, kd-rate, kd-integer and inference."""
    models: tuple[str, ...] = DEFAULT_MODELS
    """Any of resnet18, vgg11 and airbench94."""
    libraries: tuple[str, ...] | None = None
    """Of snnkd_jax, spikingjelly, spikingjelly-compile, snntorch, norse, spyx and naive-jax; None: all installed."""
    num_steps: tuple[int, ...] = (4,)
    """One or several T; of integer neurons, the numbers of levels D, at T = 1."""
    device: Device = "cpu"
    """Where all libraries run: the CPU, or one NVIDIA GPU."""
    dtype: Dtype = "float32"
    """Type of convolutions and the head: of this library by its option, of PyTorch by autocast."""
    width: float = 1.0
    """Width multiplier of all channels."""
    batch_size: int | None = None
    """Images per step; None: on CPU 16 for resnet18, 32 for vgg11, 100 for airbench94, and more on a GPU."""
    threads: int = 2
    """Processors and threads per library."""
    rounds: int = 7
    """Number of rounds, in each of which every library takes a turn."""
    round_seconds: float = 3.0
    """Approximate duration of a turn, at least one step."""
    entry_seconds: float = 90.0
    """Time limit per library, after which it takes no more than two turns."""
    minutes: float | None = None
    """Time limit in equal shares for each model and T, after which no further library is built; None: no limit."""
    huge_pages: bool = True
    """On CPU, let glibc's malloc use huge pages and keep freed memory, in every process."""
    profile_ops: bool = False
    """Instead of speeds, measure which class of op takes how many milliseconds of a step of snnkd_jax, on CPU."""
    quick: bool = False
    """Smoke test: one short round of vgg11 with width 0.125, batch size 4 and T = 2."""
    record: str | None = None
    """Write experiments/results/speed/<record>.json."""
    notes: str = ""
    """Remarks for the record."""

    def resolved(self) -> "Settings":
        """The checked settings with `quick` applied and all libraries named; raises `InputError` for wrong ones."""
        check_choice("device", self.device, get_args(Device))
        check_choice("dtype", self.dtype, get_args(Dtype))
        for task in self.tasks:
            check_choice("task", task, TASKS)
        for model in self.models:
            check_choice("model", model, BATCH_SIZES[self.device])
        for name in self.libraries or ():
            check_choice("library", name, LIBRARIES)
            if not LIBRARIES[name].installed:
                raise InputError(f"library {name!r} is not installed; run {LIBRARIES[name].install}")
        if self.profile_ops and self.libraries not in (None, ("snnkd_jax",)):
            raise InputError(f"libraries={self.libraries!r}: profile_ops is for snnkd_jax alone; leave libraries out")
        if self.profile_ops and self.device != "cpu":
            raise InputError(f"device={self.device!r}: profile_ops reads the ops of a CPU; leave device out")
        for name in ("threads", "rounds", "round_seconds", "entry_seconds", "width", "minutes"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r} must be positive")
        if min((self.batch_size or 1, *self.num_steps)) < 1:
            raise InputError(f"batch_size={self.batch_size!r} and num_steps={self.num_steps!r} must be at least 1")
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.threads > available:
            raise InputError(f"threads={self.threads!r}: this process may use {available} processors only")
        changes: dict[str, Any] = {}
        if self.quick:
            changes = {"width": 0.125, "batch_size": 4, "num_steps": (2,)}
            changes |= {"models": ("vgg11",)} if self.models == DEFAULT_MODELS else {}
            changes |= {"rounds": 1, "round_seconds": 0.2, "entry_seconds": 2.0}
        if self.profile_ops:
            changes["libraries"] = ("snnkd_jax",)
        elif self.libraries is None:
            changes["libraries"] = tuple(name for name, library in LIBRARIES.items() if library.installed)
        return dataclasses.replace(self, **changes)
