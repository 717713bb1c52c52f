"""A process that holds one step ready: `python -m peers.worker`, told by JSON lines on stdin, answering on stdout.

    {"do": "build", "library": ..., "threads": ..., "task": ..., and the other fields of `Workload`}
    {"do": "run", "n": ...}
    {"do": "profile", "n": ...}
    {"do": "finish"}

The library "matmul" multiplies matrices instead; it measures the machine.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from .workload import Step, Workload

MATRIX = {"cpu": 2048, "gpu": 8192}
"""Device to the size n of the square matrices that measure it."""


def make_matmul(work: Workload) -> Any:
    """A product of two matrices `[n, n]` of the dtype, as the step of a library.

    On a GPU, float32 is as the convolutions of all libraries have it by default: through TF32, where there is that.
    """
    import jax
    import jax.numpy as jnp

    n, precision = MATRIX[work.device], "highest" if work.device == "cpu" else None
    a, b = (jax.random.normal(jax.random.key(i), (n, n), work.dtype) for i in range(2))
    multiply = jax.jit(lambda a, b: jnp.dot(a, b, precision=precision))

    def advance() -> float:
        jax.block_until_ready(multiply(a, b))
        return 0.0

    return Step(0, advance, 0)


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status, such as "VmRSS" or "VmHWM"; 0 where there is no such file."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0


def limit_threads(threads: int) -> None:
    """Keeps the process on `threads` processors, if it may use more; to be called before a library is imported."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])


class Worker:
    """Answers one request after the other."""

    step: Any = None
    baseline = 0

    def build(self, threads: int, library: str, **arguments: Any) -> dict[str, Any]:
        """Imports the library, makes the step and runs it once."""
        limit_threads(threads)
        work = Workload(**arguments)
        from . import LIBRARIES

        if library == "matmul":
            make_step = make_matmul
        else:
            entry = LIBRARIES[library]
            make_step = importlib.import_module(f".{entry.module}", __package__).make_step
            if "torch" in entry.packages:
                importlib.import_module("torch").set_num_threads(threads)
        self.baseline = memory("VmRSS")
        start = time.perf_counter()
        self.step = make_step(work)
        (first,) = self.step.run(1)
        stem = f"first convolution {'once' if self.step.stem_steps == 1 else 'in every time step'}"
        return {
            "parameters": self.step.parameters,
            "stem_steps": self.step.stem_steps,
            "build_seconds": time.perf_counter() - start - first,
            "first_step_seconds": first,
            "flags": [*self.step.flags, *([] if work.time_steps == 1 else [stem])],
        }

    def run(self, n: int) -> dict[str, Any]:
        """The seconds of n steps."""
        return {"seconds": self.step.run(n)}

    def profile(self, n: int) -> dict[str, Any]:
        """Where the time of n steps goes, by class of op; of libraries of JAX."""
        from .profile import profile

        return profile(self.step, n)

    def finish(self) -> dict[str, Any]:
        """What is known at the end; bytes, those of the accelerator if there is one."""
        on_device = self.step.device_bytes()
        return {
            "peak_bytes": memory("VmHWM") - self.baseline if on_device is None else on_device,
            "baseline_bytes": self.baseline,
            "temp_bytes": self.step.temp_bytes(),
            "losses": [self.step.losses[0], self.step.losses[-1]],
        }


def main() -> None:
    """Serves until stdin ends; only answers are written to the original stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
