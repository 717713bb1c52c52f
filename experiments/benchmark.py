"""Benchmark the speed and memory of training and inference against other libraries, on CPU.

    python experiments/benchmark.py                          # all libraries that are installed
    python experiments/benchmark.py --quick                  # a smoke test; the numbers mean nothing
    python experiments/benchmark.py --models resnet18 --tasks train rate --num-steps 1 2 4 8 16 --record time-steps

Each (library, task) of a model and T is a process of its own that has built and compiled its step. They take turns in
rounds, so that all see the same state of the machine, and another process measures the float32 matrix product of the
machine in the same rounds. `peers/workload.py` defines the workload; libraries that are not installed are listed.
"""

import dataclasses
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import tyro
from peers import LIBRARIES
from peers.worker import MATRIX
from peers.workload import TASKS, step_flops

from snnkd_jax.cli.arguments import call
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.files import check_writable_file
from snnkd_jax.models import build
from snnkd_jax.runs import provenance
from snnkd_jax.versions import versions

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "speed"
BATCH_SIZES = {"resnet18": 16, "vgg11": 32}
HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
MATMUL = "matmul"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of the benchmark."""

    tasks: tuple[str, ...] = TASKS
    """Any of train, rate, kd, kd-rate and inference."""
    models: tuple[str, ...] = tuple(BATCH_SIZES)
    """Any of resnet18 and vgg11."""
    libraries: tuple[str, ...] | None = None
    """Of snnkd_jax, spikingjelly, spikingjelly-compile, snntorch, norse, spyx and naive-jax; None: all installed."""
    num_steps: tuple[int, ...] = (4,)
    """One or several T."""
    width: float = 1.0
    """Width multiplier of all channels."""
    batch_size: int | None = None
    """Images per step; None: 16 for resnet18, 32 for vgg11."""
    threads: int = 2
    """Processors and threads per library."""
    rounds: int = 7
    """Number of rounds, in each of which every library takes a turn."""
    round_seconds: float = 3.0
    """Approximate duration of a turn, at least one step."""
    entry_seconds: float = 90.0
    """Time limit per library, after which it takes no more than two turns."""
    huge_pages: bool = True
    """Let glibc's malloc use huge pages and keep freed memory, in every process."""
    quick: bool = False
    """Smoke test: one short round of vgg11 with width 0.125, batch size 4 and T = 2."""
    record: str | None = None
    """Write experiments/results/speed/<record>.json."""
    notes: str = ""
    """Remarks for the record."""

    def resolved(self) -> "Settings":
        """The checked settings with `quick` applied and all libraries named; raises `InputError` for wrong ones."""
        for task in self.tasks:
            check_choice("task", task, TASKS)
        for model in self.models:
            check_choice("model", model, BATCH_SIZES)
        for name in self.libraries or ():
            check_choice("library", name, LIBRARIES)
            if not LIBRARIES[name].installed:
                raise InputError(f"library {name!r} is not installed; run {LIBRARIES[name].install}")
        for name in ("threads", "rounds", "round_seconds", "entry_seconds", "width"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r} must be positive")
        if min((self.batch_size or 1, *self.num_steps)) < 1:
            raise InputError(f"batch_size={self.batch_size!r} and num_steps={self.num_steps!r} must be at least 1")
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if self.threads > available:
            raise InputError(f"threads={self.threads!r}: this process may use {available} processors only")
        changes: dict[str, Any] = {}
        if self.quick:
            changes = {"width": 0.125, "batch_size": 4, "num_steps": (2,)}
            changes |= {"models": ("vgg11",)} if self.models == tuple(BATCH_SIZES) else {}
            changes |= {"rounds": 1, "round_seconds": 0.2, "entry_seconds": 2.0}
        if self.libraries is None:
            changes["libraries"] = tuple(name for name, library in LIBRARIES.items() if library.installed)
        return dataclasses.replace(self, **changes)


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
        path = os.pathsep.join([str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
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


def table(entries: list[dict[str, Any]]) -> str:
    """The measurements as text, one row per entry."""
    heads = ("model", "T", "task", "library", "images/s", "(min-max)", "of peak", "memory MB", "first step s", "loss")
    rows: list[tuple[str, ...]] = [heads]
    for e in sorted(entries, key=lambda e: (e["model"], e["num_steps"], e["task"])):
        speed = e["images_per_second"]
        rows.append(
            (
                e["model"],
                str(e["num_steps"]),
                e["task"],
                e["library"],
                f"{speed['median']:.4g}",
                f"({speed['min']:.4g}-{speed['max']:.4g})",
                "-" if e["utilisation"] is None else f"{100 * e['utilisation']:.0f} %",
                f"{e['peak_bytes'] / 1e6:.0f}",
                f"{e['first_step_seconds']:.1f}",
                "{:.2f} to {:.2f}".format(*e["losses"]) if e["task"] != "inference" else "-",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def command(settings: Settings) -> str:
    """The command line of these settings: the options that differ from the defaults."""
    words = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in ("record", "notes") or value == field.default:
            continue
        flag = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{'' if value else 'no-'}{flag}")
        else:
            words += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(["python", "experiments/benchmark.py", *words])


def notices(absent: list[str], failed: list[dict[str, Any]]) -> Iterator[str]:
    """Libraries that are not installed and entries that failed, one line each."""
    for name in absent:
        yield f"not installed: {name} ({LIBRARIES[name].install})"
    for f in failed:
        yield f"failed: {f['library']} {f['task']} {f['model']} T={f['num_steps']}: {f['error']}"


def main(settings: tyro.conf.OmitArgPrefixes[Settings]) -> int:
    """Benchmark the speed and memory of training and inference against other libraries, on CPU.

    The exit status is 1 if a library failed.
    """
    given, settings = settings, settings.resolved()
    file = RESULTS / f"{settings.record}.json"
    check_writable_file("record", file if settings.record is not None else None)
    jax.config.update("jax_platforms", "cpu")  # as in the workers
    benchmark = Benchmark(settings)
    benchmark.run()
    libraries = settings.libraries or ()
    absent = [] if given.libraries else [name for name in LIBRARIES if name not in libraries]
    found = versions(dict.fromkeys(d for name in libraries for d in LIBRARIES[name].distributions))
    print(table(benchmark.entries))
    peaks = [m["flops_per_second"] / 1e9 for m in benchmark.matmul]
    if peaks:
        print(f"float32 matrix product: {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s")
    print(", ".join(f"{name} {version}" for name, version in found.items()))
    print(*notices(absent, benchmark.failed), sep="\n")
    if settings.record is not None:
        record = {
            "kind": "benchmark",
            "name": settings.record,
            "command": command(given),
            "settings": dataclasses.asdict(settings),
            "entries": benchmark.entries,
            "matmul": benchmark.matmul,
            "absent": absent,
            "failed": benchmark.failed,
            "versions": found,
            "hardware": provenance.hardware(),
            "commit": provenance.commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "notes": settings.notes,
        }
        file.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if benchmark.failed else 0


if __name__ == "__main__":
    sys.exit(call(main))
