"""Workers of all libraries that take turns in rounds, so that all see the same state of the machine."""

import dataclasses
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from snnkd_jax.models import build

from . import LIBRARIES
from .settings import BATCH_SIZES, Settings
from .worker import MATRIX
from .workload import Device, Workload, step_flops

EXPERIMENTS = Path(__file__).resolve().parents[1]
HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
MATMUL = "matmul"

# Without preallocation a JAX worker leaves the GPU's memory to those that take turns with it.
ENVIRONMENTS = {
    "cpu": {"JAX_PLATFORMS": "cpu"},
    "gpu": {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
}
"""Device to the environment of its workers."""


class Failure(Exception):
    """The unexpected end of a worker; the message is its last line of output."""


def worker_environment(settings: Settings) -> dict[str, str]:
    """The environment variables of a worker: this process's, without flags that libraries do not have in common."""
    path = os.pathsep.join([str(EXPERIMENTS), str(EXPERIMENTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "GLIBC_TUNABLES")}
    huge_pages = settings.huge_pages and settings.device == "cpu"
    return {
        **kept,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": str(settings.threads),
        **ENVIRONMENTS[settings.device],
        **({"GLIBC_TUNABLES": HUGE_PAGES} if huge_pages else {}),
    }


class Entry:
    """The worker process of one library and task, and its measurements."""

    def __init__(self, library: str, task: str, settings: Settings):
        self.library = library
        self.task = task
        self.rounds: list[list[float]] = []
        self.built: dict[str, Any] = {}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=worker_environment(settings),
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request to the worker and returns its answer; raises `Failure` if the worker ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            status = self._process.wait()
            self._log.seek(0)
            lines = self._log.read().strip().splitlines() or [f"exit status {status}"]
            raise Failure(lines[-1])
        return json.loads(answer)

    def take_turn(self, settings: Settings) -> None:
        """Measures the steps of one round, unless the time limit is reached.

        One step before them is not counted: an idle process may have lost its cache lines, and even its pages.
        """
        used = sum(map(sum, self.rounds))
        if len(self.rounds) >= 2 and used > settings.entry_seconds:
            return
        step = statistics.median(self.rounds[-1]) if self.rounds else self.warm_seconds
        n = max(1, min(1000, round(settings.round_seconds / step)))
        self.rounds.append(self.ask("run", n=n + 1)["seconds"][1:])

    def start(self, settings: Settings, work: Workload) -> None:
        """Builds and compiles the step, and runs it once more."""
        self.built = self.ask("build", threads=settings.threads, library=self.library, **dataclasses.asdict(work))
        (self.warm_seconds,) = self.ask("run", n=1)["seconds"]

    def close(self) -> None:
        """Ends the worker process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=20)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()


def available_memory(device: Device) -> int | None:
    """Memory available to new processes in bytes, or that of the GPU in CUDA_VISIBLE_DEVICES; None if unknown."""
    if device == "gpu":
        gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        query = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
        try:
            return 2**20 * int(subprocess.run(query, check=True, capture_output=True, text=True).stdout)
        except (OSError, subprocess.CalledProcessError, ValueError):
            return None
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum and maximum."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


class Benchmark:
    """Runs groups of workers that are alive at the same time, and collects their measurements."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.entries: list[dict[str, Any]] = []
        self.matmul: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        self.left_out: list[dict[str, Any]] = []
        self.flags: dict[str, list[str]] = {}

    def run(self) -> None:
        """Runs all groups, in the order of model and T; each has an equal share of the time."""
        settings, start = self.settings, time.monotonic()
        groups = list(itertools.product(settings.models, settings.num_steps))
        for i, (model, num_steps) in enumerate(groups, start=1):
            batch_size = settings.batch_size or BATCH_SIZES[settings.device][model]
            work = Workload(MATMUL, model, num_steps, settings.width, batch_size, settings.device, settings.dtype)
            share = math.inf if settings.minutes is None else 60 * settings.minutes * i / len(groups)
            self._group(work, deadline=start + share)

    def _group(self, work: Workload, deadline: float) -> None:
        """Measures all libraries and tasks, with as many workers at the same time as memory allows.

        None is built after `deadline`, in seconds of `time.monotonic`.
        """
        libraries = self.settings.libraries or ()
        pending = [(n, task) for task in self.settings.tasks for n in libraries if task in LIBRARIES[n].tasks]
        while pending:
            alive = []
            try:
                largest = 0
                for name, task in [(MATMUL, MATMUL), *pending]:
                    if time.monotonic() > deadline:
                        self.left_out += [{"library": n, **place(work, task)} for n, task in pending]
                        pending = []
                        break
                    free = available_memory(work.device)
                    if len(alive) > 1 and free is not None and free < 1.5 * largest + 2**30:
                        break  # the others form another group
                    if name != MATMUL:
                        pending.remove((name, task))
                    entry = Entry(name, task, self.settings)
                    alive.append(entry)
                    print(f"{title(work)}: building {name} {task}", file=sys.stderr)
                    if self._attempt(entry, work):
                        after = available_memory(work.device)
                        largest = max(largest, free - after) if free is not None and after is not None else largest
                    else:
                        alive.remove(entry)
                self._rounds(alive, work)
                self._collect(alive, work)
            finally:
                for entry in alive:
                    entry.close()

    def _attempt(self, entry: Entry, work: Workload) -> bool:
        try:
            entry.start(self.settings, dataclasses.replace(work, task=entry.task))
        except Failure as error:
            self._fail(entry, work, error)
            entry.close()
            return False
        return True

    def _rounds(self, alive: list[Entry], work: Workload) -> None:
        """Gives turns to all entries, starting with another one in each round."""
        for i in range(self.settings.rounds):
            print(f"{title(work)}: round {i + 1} of {self.settings.rounds}", file=sys.stderr)
            k = i % max(len(alive), 1)
            for entry in alive[k:] + alive[:k]:
                try:
                    entry.take_turn(self.settings)
                except Failure as error:
                    self._fail(entry, work, error)
                    alive.remove(entry)
                    entry.close()

    def _fail(self, entry: Entry, work: Workload, error: Failure) -> None:
        self.failed.append({"library": entry.library, **place(work, entry.task), "error": str(error)})
        print(f"{entry.library} {entry.task} {title(work)} failed: {error}", file=sys.stderr)

    def _collect(self, alive: list[Entry], work: Workload) -> None:
        peak = None
        parameters: dict[str, int] = {}
        for entry in alive:
            result = entry.ask("finish")
            seconds = [statistics.median(r) for r in entry.rounds]
            samples = {"seconds": spread(seconds), "rounds": entry.rounds}
            if entry.library == MATMUL:
                best = min(map(min, entry.rounds))
                peak = 2 * MATRIX[work.device] ** 3 / best
                self.matmul.append({**place(work, MATMUL), "flops_per_second": peak, **samples})
                continue
            parameters[entry.library] = entry.built["parameters"]
            flags = self.flags.setdefault(entry.library, [])
            flags += [flag for flag in entry.built["flags"] if flag not in flags]
            flops = step_flops(dataclasses.replace(work, task=entry.task), stem_steps=entry.built["stem_steps"])
            self.entries.append(
                {
                    "library": entry.library,
                    **place(work, entry.task),
                    "batch_size": work.batch_size,
                    "images_per_second": spread([work.batch_size / s for s in seconds]),
                    **samples,
                    "build_seconds": entry.built["build_seconds"],
                    "first_step_seconds": entry.built["first_step_seconds"],
                    **result,
                    "parameters": entry.built["parameters"],
                    "flops": flops,
                    "utilisation": None if peak is None else flops / statistics.median(seconds) / peak,
                }
            )
        known = self._parameters(work.model)
        assert set(parameters.values()) <= {known}, f"{title(work)} has {known} parameters, the libraries {parameters}"

    def _parameters(self, model: str) -> int:
        """The number of parameters of this library's network, from shapes alone."""
        network = build(model, 10, width=self.settings.width)
        shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))
        return sum(x.size for x in jax.tree.leaves(shapes["params"]))


def title(work: Workload) -> str:
    """Model and T, in messages."""
    return f"{work.model} T={work.num_steps}"


def place(work: Workload, task: str) -> dict[str, Any]:
    """Where in a record an entry belongs."""
    return {"task": task, "model": work.model, "num_steps": work.num_steps}
