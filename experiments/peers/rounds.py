"""Workers of all libraries that take turns in rounds, so that all see the same state of the machine."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from snnkd_jax.models import build

from . import LIBRARIES
from .settings import BATCH_SIZES, Settings
from .worker import MATRIX
from .workload import step_flops

EXPERIMENTS = Path(__file__).resolve().parents[1]
HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
MATMUL = "matmul"


class Failure(Exception):
    """The unexpected end of a worker; the message is its last line of output."""


class Entry:
    """The worker process of one library and task, and its measurements."""

    def __init__(self, library: str, task: str, settings: Settings):
        self.library = library
        self.task = task
        self.rounds: list[list[float]] = []
        self.built: dict[str, Any] = {}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        environment = dict(os.environ)
        path = os.pathsep.join(
            [str(EXPERIMENTS), str(EXPERIMENTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        environment |= {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(settings.threads)}
        environment.pop("XLA_FLAGS", None)
        environment.pop("GLIBC_TUNABLES", None)
        if settings.huge_pages:
            environment["GLIBC_TUNABLES"] = HUGE_PAGES
        self._process = subprocess.Popen(
            [sys.executable, "-m", "peers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
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

    def start(self, settings: Settings, model: str, num_steps: int, batch_size: int) -> None:
        """Builds and compiles the step, and runs it once more."""
        arguments: dict[str, Any] = {}
        if self.library != MATMUL:
            arguments = {"task": self.task, "model": model, "num_steps": num_steps}
            arguments |= {"width": settings.width, "batch_size": batch_size}
        self.built = self.ask("build", threads=settings.threads, library=self.library, **arguments)
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


def available_memory() -> int | None:
    """Memory available to new processes in bytes; None if unknown."""
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

    def run(self) -> None:
        """Runs all groups, in the order of model and T."""
        for model in self.settings.models:
            for num_steps in self.settings.num_steps:
                self._group(model, num_steps)

    def _group(self, model: str, num_steps: int) -> None:
        """Measures all libraries and tasks, with as many workers at the same time as memory allows."""
        batch_size = self.settings.batch_size or BATCH_SIZES[model]
        libraries = self.settings.libraries or ()
        pending = [(n, task) for task in self.settings.tasks for n in libraries if task in LIBRARIES[n].tasks]
        while pending:
            alive = []
            try:
                largest = 0
                for name, task in [(MATMUL, MATMUL), *pending]:
                    free = available_memory()
                    if len(alive) > 1 and free is not None and free < 1.5 * largest + 2**30:
                        break  # the others form another group
                    if name != MATMUL:
                        pending.remove((name, task))
                    entry = Entry(name, task, self.settings)
                    alive.append(entry)
                    print(f"{model} T={num_steps}: building {name} {task}", file=sys.stderr)
                    if self._attempt(entry, model, num_steps, batch_size):
                        after = available_memory()
                        largest = max(largest, free - after) if free is not None and after is not None else largest
                    else:
                        alive.remove(entry)
                self._rounds(alive, model, num_steps)
                self._collect(alive, model, num_steps, batch_size)
            finally:
                for entry in alive:
                    entry.close()

    def _attempt(self, entry: Entry, model: str, num_steps: int, batch_size: int) -> bool:
        try:
            entry.start(self.settings, model, num_steps, batch_size)
        except Failure as error:
            self._fail(entry, model, num_steps, error)
            entry.close()
            return False
        return True

    def _rounds(self, alive: list[Entry], model: str, num_steps: int) -> None:
        """Gives turns to all entries, starting with another one in each round."""
        for i in range(self.settings.rounds):
            print(f"{model} T={num_steps}: round {i + 1} of {self.settings.rounds}", file=sys.stderr)
            k = i % max(len(alive), 1)
            for entry in alive[k:] + alive[:k]:
                try:
                    entry.take_turn(self.settings)
                except Failure as error:
                    self._fail(entry, model, num_steps, error)
                    alive.remove(entry)
                    entry.close()

    def _fail(self, entry: Entry, model: str, num_steps: int, error: Failure) -> None:
        where = {"library": entry.library, "task": entry.task, "model": model, "num_steps": num_steps}
        self.failed.append({**where, "error": str(error)})
        print(f"{entry.library} {entry.task} {model} T={num_steps} failed: {error}", file=sys.stderr)

    def _collect(self, alive: list[Entry], model: str, num_steps: int, batch_size: int) -> None:
        peak = None
        parameters: dict[str, int] = {}
        for entry in alive:
            result = entry.ask("finish")
            where = {"task": entry.task, "model": model, "num_steps": num_steps}
            seconds = [statistics.median(r) for r in entry.rounds]
            samples = {"seconds": spread(seconds), "rounds": entry.rounds}
            if entry.library == MATMUL:
                best = min(map(min, entry.rounds))
                peak = 2 * MATRIX**3 / best
                self.matmul.append({**where, "flops_per_second": peak, **samples})
                continue
            parameters[entry.library] = entry.built["parameters"]
            flops = step_flops(
                entry.task, model, num_steps, self.settings.width, batch_size, stem_steps=entry.built["stem_steps"]
            )
            self.entries.append(
                {
                    "library": entry.library,
                    **where,
                    "batch_size": batch_size,
                    "images_per_second": spread([batch_size / s for s in seconds]),
                    **samples,
                    "build_seconds": entry.built["build_seconds"],
                    "first_step_seconds": entry.built["first_step_seconds"],
                    **result,
                    "parameters": entry.built["parameters"],
                    "flops": flops,
                    "utilisation": None if peak is None else flops / statistics.median(seconds) / peak,
                }
            )
        known = self._parameters(model)
        assert set(parameters.values()) <= {known}, f"{model} has {known} parameters, but the libraries {parameters}"

    def _parameters(self, model: str) -> int:
        """The number of parameters of this library's network, from shapes alone."""
        network = build(model, 10, width=self.settings.width)
        shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))
        return sum(x.size for x in jax.tree.leaves(shapes["params"]))
