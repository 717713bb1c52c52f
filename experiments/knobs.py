"""The effect of each option of a spiking student: students of handwritten digits that differ in one option each.

    python experiments/knobs.py --record digits

Each student is trained by the recipe of `snnkd train --dataset digits` with one option changed, for each seed, but
with 30 epochs instead of 60, and a validation split of 30 % of the training images instead of 10 %, on which the
accuracy is measured. The teacher of a seed has the same validation split. Run the same command to resume; a student
takes about ten seconds on one core.
"""

import json
import sys
from pathlib import Path
from typing import Any

from snnkd_jax.cli.arguments import call
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.dynamics.surrogate import SURROGATES
from snnkd_jax.experiment import run
from snnkd_jax.files import check_writable_file
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.recipe import SEED, check_same_recipe, read_config
from snnkd_jax.runs.record import write_record

RESULTS = Path(__file__).parent / "results" / "knobs"

KNOBS: dict[str, dict[str, tuple[Any, ...]]] = {
    "neuron": {
        "neuron": ("plif", "if"),
        "tau": (1.25, 4.0),
        "v_threshold": (0.5, 2.0),
        "v_reset": (None,),
        "decay_input": (False,),
        "detach_reset": (True,),
    },
    "surrogate": {
        "surrogate": ("sigmoid", "triangle", "fast_sigmoid"),
        "surrogate_alpha": (0.5, 8.0),
    },
    "network": {
        "num_steps": (1, 4),
        "width": (0.125, 0.5),
        "pool": ("max",),
        "backprop": ("rate",),
    },
    "objective": {
        "kd_weight": (1.0,),
        "temperature": (1.0, 10.0),
    },
    # "enof" and "ckdsnn" need the feature map before a linear classifier; this network has a hidden layer in between.
    "loss": {"preset": tuple(name for name in PRESETS if name not in ("temporal", "enof", "ckdsnn"))},
}
"""The values of each option that are compared with the recipe's, by group as in the tutorial."""


def main(runs: Path = Path("runs/knobs"), seeds: tuple[int, ...] = (0, 1, 2), record: str | None = None) -> None:
    """Train students that differ in one option each, or those that are missing, and record their accuracies.

    Args:
        runs: Folder of the run directories.
        seeds: Seeds of each student.
        record: Write experiments/results/knobs/<record>.json.
    """
    file = None if record is None else RESULTS / f"{record}.json"
    check_writable_file("record", file)
    recipe = default_config("digits").replace(
        epochs=30,
        teacher_epochs=60,
        validation_fraction=0.3,
        baseline=False,
        checkpoint_every=10_000,  # only the last: a student takes seconds
    )
    for seed in seeds:
        run(recipe.replace(teacher_only=True, seed=seed, run_dir=str(runs / f"teacher-{seed}")))
    entries = [over_seeds([validated(recipe, {}, runs, seed) for seed in seeds])]
    for group, option, value in tried():
        change = {"group": group, "option": option, "recipe": in_recipe(recipe, option), "value": value}
        entries.append(change | over_seeds([validated(recipe, {option: value}, runs, seed) for seed in seeds]))
    if file is not None:
        content = {
            "command": "python experiments/knobs.py",
            "run_command": command(recipe),
            "dataset": "scikit-learn digits",
            "seeds": list(seeds),
            "entries": entries,
            "config": {name: value for name, value in recipe.flat().items() if name not in SEED},
        }
        write_record(file, "knobs", content)


def tried() -> list[tuple[str, str, Any]]:
    """Group, option and value of every student except that of the recipe."""
    return [(g, option, value) for g, options in KNOBS.items() for option, vs in options.items() for value in vs]


def in_recipe(recipe: Config, option: str) -> Any:
    """The recipe's value of an option, also where it is the default of the preset or the surrogate."""
    if option == "surrogate_alpha":
        return SURROGATES[recipe.neuron.surrogate]().alpha
    objective = recipe.objective.build()
    constants = {f"{term}_weight": weight for term, weight in objective.weights.items()} | objective.constants
    return (recipe.flat() | constants)[option]


def over_seeds(found: list[dict[str, float]]) -> dict[str, list[float]]:
    """The dictionaries of the seeds as one dictionary of lists."""
    return {name: [values[name] for values in found] for name in found[0]}


def validated(recipe: Config, change: dict[str, Any], runs: Path, seed: int) -> dict[str, float]:
    """Accuracy and firing rate of one student on the validation split, after its last epoch."""
    name = "-".join(f"{option}-{value}" for option, value in change.items()) or "recipe"
    directory = runs / f"{name}-{seed}"
    config = recipe.replace(**change, seed=seed, run_dir=str(directory))
    if config.objective.build().needs_teacher:
        config = config.replace(teacher_checkpoint=str(runs / f"teacher-{seed}"))
    if not (directory / "result.json").is_file():
        run(config)
    check_same_recipe("runs", [read_config(directory), config], ("run_dir", "teacher_checkpoint"))
    last = json.loads((directory / "metrics.jsonl").read_text().splitlines()[-1])
    return {name: last["validation"][name] for name in ("accuracy", "firing_rate")}


if __name__ == "__main__":
    sys.exit(call(main))
