"""The gain of each preset over direct training: students that differ in their objective alone, on CIFAR-10.

    python experiments/presets.py --record cifar10

A VGG-11 of a quarter of the width (0.58 M parameters) with integer neurons, T x D = 2 x 2, is trained for four epochs
from random weights, once for each preset, with the ANN of the same architecture as the teacher of all; ten minutes each
on one core. Accuracy is measured after the last epoch, on the validation split and on the test set; what is chosen by
it, such as presets worth more seeds, is chosen on the validation split. Run the same command to resume. Several
processes share the work if each is given some of the presets or seeds, after the teacher is trained.
"""

import sys
from pathlib import Path

from knobs import over_seeds
from records.trainings import ORIGIN, check_same

from snnkd_jax.cli.arguments import call
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.errors import check_choice
from snnkd_jax.experiment import run
from snnkd_jax.files import check_writable_file, read_sealed
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.recipe import SEED, check_same_recipe, read_config
from snnkd_jax.runs.record import write_record
from snnkd_jax.training.metrics import read_log

RESULTS = Path(__file__).parent / "results" / "presets"
RECIPE = default_config("cifar10").replace(
    **dict.fromkeys(("teacher", "student"), "vgg11"),
    **{"width": 0.25, "neuron": "ilif", "levels": 2, "num_steps": 2},
    **{"epochs": 4, "teacher_epochs": 15, "batch_size": 100, "warmup_epochs": 0, "checkpoint_every": 10_000},
)


def main(
    runs: Path = Path("runs/presets"),
    presets: tuple[str, ...] = tuple(PRESETS),
    seeds: tuple[int, ...] = (0,),
    dataset: str = "CIFAR-10",
    record: str | None = None,
    notes: str = "",
) -> None:
    """Train one student for each preset and seed, or those that are missing, and record all that are finished.

    Args:
        runs: Folder of the run directories.
        presets: Presets to train with.
        seeds: Seeds of each; the teacher's is 0.
        dataset: What the data are, in words, such as "CIFAR-10 (JPEG copy)".
        record: Write experiments/results/presets/<record>.json; the students must be of one commit and machine.
        notes: What else a reader of the record should know.
    """
    file = None if record is None else RESULTS / f"{record}.json"
    check_writable_file("record", file)
    students = [student(runs, preset, seed) for seed in seeds for preset in presets]
    run(RECIPE.replace(teacher_only=True, run_dir=str(runs / "teacher")))
    for config in students:
        if not (Path(config.run.run_dir or "") / "result.json").is_file():
            run(config)
    if file is not None:
        found = {preset: finished(runs, preset) for preset in PRESETS}
        directories = [directory for by_seed in found.values() for directory in by_seed.values()]
        results = [read_sealed(directory / "result.json") for directory in directories]
        check_same(directories, results, ORIGIN)
        content = {
            "command": "python experiments/presets.py",
            "run_command": command(RECIPE),
            "dataset": dataset,
            "teacher_accuracy": read_sealed(runs / "teacher" / "result.json")["test_accuracy"]["teacher"],
            "entries": [
                {"preset": preset, "seeds": list(by_seed)} | over_seeds([measured(x) for x in by_seed.values()])
                for preset, by_seed in found.items()
                if by_seed
            ],
            "config": {name: value for name, value in RECIPE.flat().items() if name not in SEED},
            "notes": notes,
        }
        write_record(file, "presets", content | {name: results[0][name] for name in ORIGIN})


def student(runs: Path, preset: str, seed: int) -> Config:
    """The configuration of one student; raises `InputError` for an unknown preset."""
    check_choice("presets", preset, PRESETS)
    config = RECIPE.replace(preset=preset, seed=seed, run_dir=str(runs / f"{preset}-{seed}"))
    if config.objective.build().needs_teacher:
        config = config.replace(teacher_checkpoint=str(runs / "teacher"))
    return config


def finished(runs: Path, preset: str) -> dict[int, Path]:
    """The directories of the finished students of a preset by seed; raises `InputError` for one of another recipe."""
    found = {}
    for path in runs.glob(f"{preset}-*/result.json"):
        seed = path.parent.name.removeprefix(f"{preset}-")
        if seed.isdecimal():  # not "response-0", of another preset, for "kdsnn"
            found[int(seed)] = path.parent
            both = [read_config(path.parent), student(runs, preset, int(seed))]
            check_same_recipe("runs", both, ("run_dir", "teacher_checkpoint"))
    return dict(sorted(found.items()))


def measured(directory: Path) -> dict[str, float]:
    """Accuracies, firing rate and duration of a finished student."""
    result = read_sealed(directory / "result.json")
    return {
        "test_accuracy": result["test_accuracy"]["student"],
        "validation_accuracy": read_log(directory)[-1]["validation"]["accuracy"],
        "firing_rate": result["firing_rate"]["student"],
        "seconds": result["seconds"],
    }


if __name__ == "__main__":
    sys.exit(call(main))
