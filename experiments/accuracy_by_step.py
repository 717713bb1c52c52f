"""One student, every T: accuracy by the first 1, 2, ... time steps, beyond those it was trained with, and early exit.

    python experiments/accuracy_by_step.py RUN [RUN ...] --dataset "CIFAR-10 (JPEG copy)" --record NAME

The runs are one configuration with several seeds. Every spiking network that they hold is evaluated on the test set.
The thresholds of early exit are chosen on the validation split, for several losses of accuracy there.
"""

import sys
from pathlib import Path
from typing import Any

import tyro

from snnkd_jax import data
from snnkd_jax.batches import split_validation
from snnkd_jax.config import Config
from snnkd_jax.errors import InputError
from snnkd_jax.inference import accuracy_by_step, accuracy_with_exit, choose_threshold, logits_by_step
from snnkd_jax.records import mean_and_std, write_record
from snnkd_jax.run_dir import read_json
from snnkd_jax.trained import load_trained

STEPS = Path(__file__).parent / "results" / "steps"
SHOWN = (1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256)
TOLERANCES = (0.0, 0.002, 0.005, 0.01, 0.02)
ROLES = {"student_baseline": "without KD", "student": "with KD"}


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
    entries: dict[str, dict[str, Any]] = {}
    for run in runs:
        config = Config(**read_json(run / "config.json")["config"])
        images = data.load(config.dataset)
        _, validation = split_validation(images, config.validation_fraction, config.seed)
        for role, how in ROLES.items():
            if not (run / role).exists():
                continue
            student = load_trained(run, role)  # pyright: ignore[reportArgumentType]
            preset = f" ({config.preset})" if role == "student" and config.preset != "none" else ""
            how = "without KD" if config.preset == "none" else how
            entry = entries.setdefault(
                role,
                {
                    "method": f"student {how}{preset}, trained at T = {config.num_steps}",
                    "network": f"{config.student}, width {config.width:g}",
                    "accuracy": [],
                    "exits": [],
                },
            )
            one = student.with_steps(1)

            def steps_of(pixels, num_steps, one=one, student=student):
                return logits_by_step(one, student.variables, student.normalisation, pixels, num_steps)

            logits = steps_of(images.test_images, num_steps)
            held_out = steps_of(validation["images"], config.num_steps)
            entry["accuracy"].append(accuracy_by_step(logits, images.test_labels).tolist())
            entry["exits"].append([])
            for tolerance in TOLERANCES:
                threshold, _ = choose_threshold(held_out, validation["labels"], tolerance)
                taken = accuracy_with_exit(logits[:, : config.num_steps], images.test_labels, threshold)
                entry["exits"][-1].append(
                    {"tolerance": tolerance, "threshold": threshold, "accuracy": taken[0], "mean_steps": taken[1]}
                )
            print(f"{run}: {entry['method']}", file=sys.stderr)
    print_accuracies(list(entries.values()))
    if record is not None:
        write_record(STEPS, "steps", record, labelled(runs, dataset, list(entries.values()), notes))


def labelled(runs: list[Path], dataset: str, entries: list[dict[str, Any]], notes: str) -> dict[str, Any]:
    """The content of a record; raises `InputError` if the runs differ in more than their seed."""
    started = [read_json(run / "config.json") for run in runs]
    may_differ = ("seed", "run_dir", "teacher_checkpoint")
    configs = [{k: v for k, v in s["config"].items() if k not in may_differ} for s in started]
    if any(config != configs[0] for config in configs):
        raise InputError(f"runs {', '.join(map(str, runs))} are not of one configuration")
    return {
        "dataset": dataset,
        "seeds": [s["config"]["seed"] for s in started],
        "entries": entries,
        "config": configs[0],
        "trained": {name: started[0][name] for name in ("versions", "hardware", "commit")},
        "notes": notes,
    }


def print_accuracies(entries: list[dict[str, Any]]) -> None:
    """A line for each method and T, in %, and one for each tolerance of early exit."""
    for entry in entries:
        print(f"{entry['method']}, {entry['network']}")
        for t in SHOWN:
            if t <= len(entry["accuracy"][0]):
                print(f"  T = {t:<3} {mean_and_std([100 * by_step[t - 1] for by_step in entry['accuracy']], 2)} %")
        for exits in zip(*entry.get("exits", []), strict=True):
            steps, accuracy = (
                mean_and_std([e[k] * f for e in exits], 2) for k, f in (("mean_steps", 1), ("accuracy", 100))
            )
            print(f"  early exit, {100 * exits[0]['tolerance']:g} points: {steps} steps, {accuracy} %")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
