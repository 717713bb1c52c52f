"""Measure training and inference speed and memory against other libraries, on CPU.

    python experiments/benchmark.py                          # everything that is installed
    python experiments/benchmark.py --quick                  # does it run? the numbers mean nothing
    python experiments/benchmark.py --models resnet18 --tasks train rate --num-steps 1 2 4 8 16 --record time-steps

Each (library, task) of a model and T is a process of its own that has built and compiled its step. They take turns in
rounds, so that all see the same state of the machine, and another one measures the machine's float32 matrix product in
the same rounds. `peers/workload.py` says what is computed; an absent library is left out, and named.
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
from snnkd_jax.models import build
from snnkd_jax.runs import provenance

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "speed"
BATCH_SIZES = {"resnet18": 16, "vgg11": 32}
HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"
MATMUL = "matmul"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Measure speed and memory of training and inference against other libraries, on CPU."""

    tasks: tuple[str, ...] = TASKS
    """train, rate, kd, kd-rate, inference."""
    models: tuple[str, ...] = tuple(BATCH_SIZES)
    """resnet18, vgg11."""
    libraries: tuple[str, ...] | None = None
    """snnkd_jax, spikingjelly, spikingjelly-compile, snntorch, norse, spyx, naive-jax; None: all that are installed."""
    num_steps: tuple[int, ...] = (4,)
    """T; several give time and memory against T."""
    width: float = 1.0
    """Multiplier of all channels."""
    batch_size: int | None = None
    """Images a step; None: 16 for resnet18, 32 for vgg11."""
    threads: int = 2
    """Processors and threads of each library."""
    rounds: int = 7
    """How often the libraries take their turn."""
    round_seconds: float = 3.0
    """About how long a turn is; at least one step."""
    entry_seconds: float = 90.0
    """A library that has used this much gets no more turns after the second."""
    huge_pages: bool = True
    """Let glibc's malloc use huge pages and keep freed memory, in every library's process."""
    quick: bool = False
    """Width 0.125, batch 4, T = 2, one short round of vgg11; for tests."""
    record: str | None = None
    """Write experiments/results/speed/<record>.json."""
    notes: str = ""
    """What a reader of the record should know."""

    def resolved(self) -> "Settings":
        """Checked, with `quick` applied and the libraries named; raises `InputError`."""
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
    """A worker ended; the message is the last line that it wrote."""


class Entry:
    """One library's worker process for one task, and what it has measured."""

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
        """One request to the worker and its answer; raises `Failure` if it ended instead."""
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
        """One round's steps, unless the entry has had its time.

        One more before them is not counted: an idle process may have lost its place in caches, and to some machines'
        memory management even its pages.
        """
        used = sum(map(sum, self.rounds))
        if len(self.rounds) >= 2 and used > settings.entry_seconds:
            return
        step = statistics.median(self.rounds[-1]) if self.rounds else self.warm_seconds
        n = max(1, min(1000, round(settings.round_seconds / step)))
        self.rounds.append(self.ask("run", n=n + 1)["seconds"][1:])

    def start(self, settings: Settings, model: str, num_steps: int, batch_size: int) -> None:
        """Builds, compiles, and runs once more without compilation."""
        arguments: dict[str, Any] = {}
        if self.library != MATMUL:
            arguments = {"task": self.task, "model": model, "num_steps": num_steps}
            arguments |= {"width": settings.width, "batch_size": batch_size}
        self.built = self.ask("build", threads=settings.threads, library=self.library, **arguments)
        (self.warm_seconds,) = self.ask("run", n=1)["seconds"]

    def close(self) -> None:
        """Ends the process."""
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
    """Bytes that new processes can take; None where that is not known."""
    meminfo = Path("/proc/meminfo")
    for line in meminfo.read_text().splitlines() if meminfo.exists() else ():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


class Benchmark:
    """The orchestration: groups of workers that are alive together, and what they found."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.entries: list[dict[str, Any]] = []
        self.matmul: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []

    def run(self) -> None:
        """All groups, in the order of model and T."""
        for model in self.settings.models:
            for num_steps in self.settings.num_steps:
                self._group(model, num_steps)

    def _group(self, model: str, num_steps: int) -> None:
        """Measures all libraries and tasks against each other; as many at once as memory allows."""
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
                        break  # the others get a turn of their own, without these
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
        """Every entry in turn, beginning with another one each round."""
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
        """Those of this project's network, from shapes alone."""
        network = build(model, 10, width=self.settings.width)
        shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))
        return sum(x.size for x in jax.tree.leaves(shapes["params"]))


def table(entries: list[dict[str, Any]]) -> str:
    """The measurements as text, a row each."""
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
    """The command line of these settings: what differs from the defaults."""
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
    """What is not in the table, a line each."""
    for name in absent:
        yield f"not installed: {name} ({LIBRARIES[name].install})"
    for f in failed:
        yield f"failed: {f['library']} {f['task']} {f['model']} T={f['num_steps']}: {f['error']}"


def main(asked: tyro.conf.OmitArgPrefixes[Settings]) -> int:
    """Measures, prints, and writes the record; returns the exit status, 1 if a library failed."""
    settings = asked.resolved()
    jax.config.update("jax_platforms", "cpu")  # as in the workers
    benchmark = Benchmark(settings)
    benchmark.run()
    libraries = settings.libraries or ()
    absent = [] if asked.libraries else [name for name in LIBRARIES if name not in libraries]
    found = provenance.versions(dict.fromkeys(d for name in libraries for d in LIBRARIES[name].distributions))
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
            "command": command(asked),
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
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{settings.record}.json").write_text(json.dumps(record, indent=1) + "\n")
    return 1 if benchmark.failed else 0


if __name__ == "__main__":
    sys.exit(call(main))
