"""Benchmark the speed and memory of training and inference against other libraries.

    python experiments/benchmark.py                          # all libraries that are installed, on CPU
    python experiments/benchmark.py --device gpu --dtype bfloat16
    python experiments/benchmark.py --quick                  # a smoke test; the numbers mean nothing
    python experiments/benchmark.py --models resnet18 --tasks train rate --num-steps 1 2 4 8 16 --record time-steps
    python experiments/benchmark.py --profile-ops            # where the time of this library's steps goes

Each (library, task) of a model and T is a process of its own that has built and compiled its step. They take turns in
rounds, so that all see the same state of the machine, and another process measures the matrix product of the machine
in the same rounds. `peers/workload.py` defines the workload; libraries that are not installed are listed.
With `--profile-ops`, workers of this library trace a few steps instead, one worker at a time (`peers/profile.py`).
"""

import dataclasses
import datetime
import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import tyro
from peers import LIBRARIES, profiles
from peers.rounds import ENVIRONMENTS, Benchmark
from peers.settings import Settings
from peers.workload import steps_and_levels

from snnkd_jax.cli.arguments import call
from snnkd_jax.errors import InputError
from snnkd_jax.files import check_writable_file
from snnkd_jax.runs import provenance
from snnkd_jax.runs.models import number_of_steps, time_steps
from snnkd_jax.versions import versions

RESULTS = Path(__file__).resolve().parent / "results" / "speed"


def table(entries: list[dict[str, Any]]) -> str:
    """The measurements as text, one row per entry."""
    heads = ("model", "T", "task", "library", "images/s", "(min-max)", "of peak", "memory MB", "first step s", "loss")
    rows: list[tuple[str, ...]] = [heads]
    for e in sorted(entries, key=lambda e: (e["model"], e["num_steps"], e["task"])):
        speed = e["images_per_second"]
        rows.append(
            (
                e["model"],
                number_of_steps(*steps_and_levels(e["task"], e["num_steps"])),
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


def notices(absent: list[str], benchmark: Benchmark) -> Iterator[str]:
    """Libraries that are not installed, and entries that failed or for which there was no time, one line each."""
    for name in absent:
        yield f"not installed: {name} ({LIBRARIES[name].install})"
    for f in benchmark.failed:
        yield f"failed: {_entry(f)}: {f['error']}"
    for e in benchmark.left_out:
        yield f"no time left: {_entry(e)}"


def _entry(e: dict[str, Any]) -> str:
    return f"{e['library']} {e['task']} {e['model']}, {time_steps(*steps_and_levels(e['task'], e['num_steps']))}"


def check_device(settings: Settings) -> None:
    """Puts JAX on the device, the first of several GPUs.

    Raises `InputError` if JAX, or the PyTorch of a library, does not see a wanted GPU.
    """
    if settings.device == "cpu":
        jax.config.update("jax_platforms", "cpu")  # as in the workers
        return
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    os.environ.update(ENVIRONMENTS["gpu"], CUDA_VISIBLE_DEVICES=gpu, CUDA_DEVICE_ORDER="PCI_BUS_ID")  # as nvidia-smi
    jax.config.update("jax_platforms", "cuda")
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX skips cuda as there is no such GPU
        reason = str(error).splitlines()[0] if str(error) else "no driver is loaded"
        advice = "install it with pip install 'snnkd-jax[cuda]' on a machine with one, or give device='cpu'"
        raise InputError(f"device='gpu': JAX sees no NVIDIA GPU ({reason}); {advice}") from error
    names = [name for name in settings.libraries or () if "torch" in LIBRARIES[name].packages]
    if names and not (torch := importlib.import_module("torch")).cuda.is_available():
        advice = "install one that is built for CUDA, or name other libraries"
        raise InputError(f"device='gpu': PyTorch {torch.__version__} sees no GPU for {', '.join(names)}; {advice}")


def main(settings: tyro.conf.OmitArgPrefixes[Settings]) -> int:
    """Benchmark the speed and memory of training and inference against other libraries.

    The exit status is 3 if a library failed.
    """
    given, settings = settings, settings.resolved()
    file = RESULTS / f"{settings.record}.json"
    check_writable_file("record", file if settings.record is not None else None)
    check_device(settings)
    benchmark = profiles.Profiles(settings) if settings.profile_ops else Benchmark(settings)
    benchmark.run()
    libraries = settings.libraries or ()
    absent = [] if given.libraries or settings.profile_ops else [name for name in LIBRARIES if name not in libraries]
    found = versions(dict.fromkeys(d for name in libraries for d in LIBRARIES[name].distributions))
    print(profiles.table(benchmark.entries) if settings.profile_ops else table(benchmark.entries))
    peaks = [m["flops_per_second"] / 1e9 for m in benchmark.matmul]
    if peaks:
        print(f"{settings.dtype} matrix product: {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s")
    print(", ".join(f"{name} {version}" for name, version in found.items()))
    print(*notices(absent, benchmark), sep="\n")
    if settings.record is not None:
        record = {
            "kind": "profile" if settings.profile_ops else "benchmark",
            "name": settings.record,
            "command": command(given),
            "settings": dataclasses.asdict(settings),
            "entries": benchmark.entries,
            "matmul": benchmark.matmul,
            "absent": absent,
            "failed": benchmark.failed,
            "left_out": benchmark.left_out,
            "flags": benchmark.flags,
            "versions": found,
            "hardware": provenance.hardware(),
            "commit": provenance.commit(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "notes": settings.notes,
        }
        file.write_text(json.dumps(record, indent=1) + "\n")
    return 3 if benchmark.failed else 0


if __name__ == "__main__":
    sys.exit(call(main))
