"""Training time to a validation accuracy, from run directories.

    python experiments/time_to_accuracy.py --rate runs/a-0 runs/a-1 --integer runs/b-0 runs/b-1 \
        --spikingjelly runs/c-0 runs/c-1 --target 0.62 --dataset "CIFAR-10 (JPEG copy)" --record time

The runs must have the same recipe but for neurons and T: runs of `snnkd train` without a teacher for this library,
and of `spikingjelly_run.py` for SpikingJelly.
Times are those of whole epochs and include data, compilation and the evaluations before the one that reaches it: for n
epochs, the time of the first plus n - 1 times the median of the others, which is robust to other load on the machine.
"""

import json
import statistics
import sys
from pathlib import Path

from snnkd_jax.cli.arguments import call
from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json
from snnkd_jax.runs.command import command
from snnkd_jax.runs.models import number_of_steps
from snnkd_jax.runs.recipe import BOOKKEEPING, SEED, check_same_recipe, read_config
from snnkd_jax.runs.record import write_record

RESULTS = Path(__file__).parent / "results" / "speed"
NAMES = {
    "bptt": "snnkd_jax",
    "rate": "snnkd_jax, rate-based",
    "integer": "snnkd_jax, integer",
    "spikingjelly": "SpikingJelly, compiled",
}
"""Option to the name of its runs in the table."""

OPTIONS_OF = {
    "bptt": {"backprop": "bptt", "neuron": "lif"},
    "rate": {"backprop": "rate", "neuron": "lif"},
    "integer": {"backprop": "bptt", "neuron": "ilif"},
    "spikingjelly": {"backprop": "bptt", "neuron": "lif"},
}
MAY_DIFFER = (*SEED, *BOOKKEEPING, "backprop", "bptt_epochs", "neuron", "levels", "num_steps")


def reached(run: Path, target: float) -> dict[str, float | None]:
    """Seconds and epochs until the validation accuracy reaches `target`, and the median time of an epoch in seconds.

    The median is over the epochs after the first, which compiles. The first two are None if it is never reached.
    """
    lines = (run / "metrics.jsonl").read_text().splitlines()
    entries = [entry for line in lines if (entry := json.loads(line))["phase"] == "student"]
    if len(entries) < 2:
        raise InputError(f"run {run} has {len(entries)} epochs of a student; give it at least two")
    epoch = statistics.median(entry["seconds"] for entry in entries[1:])
    reaching = (entry["epoch"] for entry in entries if entry["validation"]["accuracy"] >= target)
    if (n := next(reaching, None)) is None:
        return {"seconds": None, "epochs": None, "epoch": epoch}
    return {"seconds": entries[0]["seconds"] + (n - 1) * epoch, "epochs": n, "epoch": epoch}


def main(
    target: float,
    dataset: str,
    bptt: tuple[Path, ...] = (),
    rate: tuple[Path, ...] = (),
    integer: tuple[Path, ...] = (),
    spikingjelly: tuple[Path, ...] = (),
    record: str | None = None,
    notes: str = "",
) -> int:
    """Compare the training times to a validation accuracy.

    Args:
        target: Validation accuracy, in (0, 1).
        dataset: Name of the data set in the record, such as "CIFAR-10 (JPEG copy)".
        bptt: Runs of this library with --backprop bptt.
        rate: Runs of this library with --backprop rate.
        integer: Runs of this library with --neuron ilif.
        spikingjelly: Runs of spikingjelly_run.py.
        record: Write experiments/results/speed/<record>.json.
        notes: Remarks for the record.
    """
    if not 0 < target < 1:
        raise InputError(f"target={target!r} must be above 0 and below 1")
    options = {"bptt": bptt, "rate": rate, "integer": integer, "spikingjelly": spikingjelly}
    runs = {NAMES[option]: group for option, group in options.items() if group}
    if not runs:
        raise InputError("no runs: give at least one of --bptt, --rate, --integer and --spikingjelly")
    configs = {name: [read_config(run) for run in group] for name, group in runs.items()}
    for option, name in NAMES.items():
        for config in configs.get(name, ()):
            for key, value in OPTIONS_OF[option].items():
                if config.flat()[key] != value:
                    raise InputError(f"{option}: a run has {key}={config.flat()[key]!r}; give runs with {value!r}")
        check_same_recipe(option, configs.get(name, []), (*SEED, *BOOKKEEPING))
    check_same_recipe("runs", [config for group in configs.values() for config in group], MAY_DIFFER)
    started = {run: read_json(run / "config.json") for group in runs.values() for run in group}
    first = next(iter(started.values()))
    for name in ("versions", "hardware", "commit"):
        if len({json.dumps(other[name]) for other in started.values()}) > 1:
            raise InputError(f"runs differ in {name}: their times cannot be compared")
    found: dict[str, dict[str, list[float | None]]] = {}
    for name, group in runs.items():
        each = [reached(run, target) for run in group]
        found[name] = {key: [e[key] for e in each] for key in each[0]}
    print(json.dumps(found, indent=2))
    if record is not None:
        firsts = {name: group[0] for name, group in configs.items()}
        trained_by = {name: command(config) for name, config in firsts.items()}
        if spikingjelly:
            name = NAMES["spikingjelly"]
            theirs = trained_by[name].replace("snnkd train", "python experiments/spikingjelly_run.py")
            trained_by[name] = f"{theirs} --run-dir RUN"
        script = " ".join(f"--{option} RUN ..." for option, group in options.items() if group)
        result = {
            "command": f"python experiments/time_to_accuracy.py {script} --target {target:g} --dataset {dataset!r}",
            "run_commands": trained_by,
            "dataset": dataset,
            "target": target,
            "seeds": {name: [started[run]["config"]["seed"] for run in group] for name, group in runs.items()},
            "found": found,
            "test_accuracy": {
                name: [read_json(run / "result.json")["test_accuracy"]["student"] for run in group]
                for name, group in runs.items()
            },
            "time_steps": {
                name: number_of_steps(config.student.num_steps, config.neuron.spikes_per_step)
                for name, config in firsts.items()
            },
            "config": {n: v for n, v in first["config"].items() if n not in MAY_DIFFER},
            **{name: first[name] for name in ("versions", "hardware", "commit")},
            "notes": notes,
        }
        write_record(RESULTS / f"{record}.json", "time", result)
    return 0


if __name__ == "__main__":
    sys.exit(call(main))
