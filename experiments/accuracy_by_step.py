"""One student, every T: accuracy by the first 1, 2, ... time steps, beyond those it was trained with, and early exit.

    python experiments/accuracy_by_step.py RUN [RUN ...] --dataset "CIFAR-10 (JPEG copy)" --record NAME

The runs are one configuration with several seeds. Every spiking network that they hold is evaluated on the test set.
The thresholds of early exit are chosen on the validation split, for several losses of accuracy there.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import tyro

from snnkd_jax import data
from snnkd_jax.data.batches import Batch, split_validation
from snnkd_jax.errors import InputError, told_in_one_line
from snnkd_jax.files import read_json
from snnkd_jax.inference.predict import accuracy_by_step, accuracy_with_exit, choose_threshold
from snnkd_jax.inference.trained import Role, Trained, load_trained
from snnkd_jax.report.statistics import mean_and_std, percent
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.inputs import dataset_of
from snnkd_jax.runs.recipe import SEED, seeds_of_one_recipe
from snnkd_jax.runs.record import write_record
from snnkd_jax.runs.roles import title_of

STEPS = Path(__file__).parent / "results" / "steps"
SHOWN = (1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256)
TOLERANCES = (0.0, 0.002, 0.005, 0.01, 0.02)
ROLES: tuple[Role, ...] = ("student_baseline", "student")


def main(
    runs: tyro.conf.Positional[list[Path]],
    dataset: str,
    num_steps: int = 8,
    record: str | None = None,
    notes: str = "",
) -> None:
    """Evaluate students at every T.

    Args:
        runs: Directories of finished runs that differ in their seed.
        dataset: What the data are, in words.
        num_steps: The largest T.
        record: Write experiments/results/steps/<record>.json.
        notes: What a reader should know.
    """
    if num_steps < 1:
        raise InputError(f"num_steps={num_steps!r} must be at least 1")
    found = seeds_of_one_recipe("runs", runs)
    config = found[0][0]
    roles: list[Role] = [role for role in ROLES if any((run / role).is_dir() for run in runs)]
    if "student" not in roles:
        raise InputError(f"runs {', '.join(map(str, runs))} have no student")
    images = dataset_of(config)
    entries = []
    for role in roles:
        entry = {
            "method": f"{title_of(config, role)}, trained at T = {config.num_steps}",
            "network": f"{config.student}, width {config.width:g}",
            "accuracy": [],
            "exits": [],
        }
        for of_seed, run in found:
            print(f"{run}: {entry['method']}", file=sys.stderr)
            _, validation = split_validation(images, of_seed.validation_fraction, of_seed.seed)
            by_step, exits = evaluated(load_trained(run, role), images, validation, config.num_steps, num_steps)
            entry["accuracy"].append(by_step)
            entry["exits"].append(exits)
        entries.append(entry)
    print_accuracies(entries)
    if record is not None:
        options = f"--num-steps {num_steps} --dataset {dataset!r}"
        content = content_of(
            found, f"python experiments/accuracy_by_step.py RUN ... {options}", dataset, entries, notes
        )
        write_record(STEPS, "steps", record, content)


def evaluated(
    student: Trained, images: data.Dataset, validation: Batch, trained_steps: int, num_steps: int
) -> tuple[list[float], list[dict[str, float | None]]]:
    """Test accuracy by the first 1, 2, ..., `num_steps` steps, and with early exit for each of `TOLERANCES`.

    Early exit takes at most the steps of training; its thresholds are chosen on `validation`.
    """
    logits = student.logits_by_step(images.test_images, num_steps)
    held_out = student.logits_by_step(validation["images"], trained_steps)
    exits = []
    for tolerance in TOLERANCES:
        threshold, _ = choose_threshold(held_out, validation["labels"], tolerance)
        accuracy, steps = accuracy_with_exit(logits[:, :trained_steps], images.test_labels, threshold)
        exits.append({"tolerance": tolerance, "threshold": threshold, "accuracy": accuracy, "mean_steps": steps})
    return accuracy_by_step(logits, images.test_labels).tolist(), exits


def content_of(
    found: list[tuple[Config, Path]], script: str, dataset: str, entries: list[dict[str, Any]], notes: str
) -> dict[str, Any]:
    """The content of a record of runs, whose machine, versions and commit it keeps beside those of the evaluation."""
    config, run = found[0]
    started = read_json(run / "config.json")
    return {
        "command": script,
        "run_command": command(config),
        "dataset": dataset,
        "seeds": [config.seed for config, _ in found],
        "entries": entries,
        "config": {n: v for n, v in dataclasses.asdict(config.published()).items() if n not in SEED},
        "trained": {name: started[name] for name in ("versions", "hardware", "commit")},
        "notes": notes,
    }


def print_accuracies(entries: list[dict[str, Any]]) -> None:
    """A line for each method and T, in %, and one for each tolerance of early exit."""
    for entry in entries:
        print(f"{entry['method']}, {entry['network']}")
        for t in SHOWN:
            if t <= len(entry["accuracy"][0]):
                print(f"  T = {t:<3} {percent([by_step[t - 1] for by_step in entry['accuracy']])} %")
        for exits in zip(*entry.get("exits", []), strict=True):
            steps, accuracy = (
                mean_and_std([e[k] * f for e in exits], 2) for k, f in (("mean_steps", 1), ("accuracy", 100))
            )
            print(f"  early exit, {100 * exits[0]['tolerance']:g} points: {steps} steps, {accuracy} %")


if __name__ == "__main__":
    with told_in_one_line():
        tyro.cli(main)
