"""Accuracy under 14 kinds of noise: the teacher, the student without it and the student with it, at the same draws.

    python experiments/robustness.py RUN [RUN ...] [--baseline RUN ...] --record NAME

Several runs are the seeds of one configuration. Kinds, levels and what is drawn when:
`snnkd_jax/analysis/robustness.py`. The figures of a record: `experiments/make_figures.py`. RUN/noise.json keeps what
was found of a run, for its report.
"""

import dataclasses
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from snnkd_jax.analysis.robustness import LEVELS, evaluate_noise
from snnkd_jax.errors import InputError, told_in_one_line
from snnkd_jax.inference.trained import load_trained
from snnkd_jax.parallel.compiler import compilation_cache
from snnkd_jax.report.noise import in_words, noise_table, summarise
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.inputs import dataset_of
from snnkd_jax.runs.recipe import BOOKKEEPING, OF_DISTILLATION, SEED, check_same, seeds_of_one_recipe
from snnkd_jax.runs.record import write_record
from snnkd_jax.runs.roles import NETWORKS

RESULTS = Path(__file__).parent / "results" / "noise"


def main(
    runs: tyro.conf.Positional[list[Path]],
    baseline: tuple[Path, ...] = (),
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    dataset: str | None = None,
    notes: str = "",
    record: str | None = None,
) -> None:
    """Measure accuracy under noise.

    Args:
        runs: Directories of finished runs that differ in their seed only.
        baseline: Runs of the same seeds without distillation: their student counts as the student without KD.
        images: Use so many test images, spread evenly; None: all.
        seed: Of the noise.
        batch_size: Images that are classified together; a multiple of the number of devices.
        dataset: What the data are, in words, such as "CIFAR-10 (JPEG copy)"; None: the data set's name.
        notes: What else a reader of the record should know.
        record: Write experiments/results/noise/<record>.json.
    """
    configs, networks = find_networks(runs, list(baseline))
    test = dataset_of(configs[0])
    n = len(test.test_labels)
    if images is not None and not 1 <= images <= n:
        raise InputError(f"images={images!r} must be 1 to {n}, the number of test images")
    index = np.arange(n) if images is None else np.arange(images) * n // images
    reports: dict[str, list[Any]] = {}
    done: dict[Path, Any] = {}  # a teacher that several runs share is measured once
    # The networks of a role are the same program, and each is loaded as a module of its own.
    with tempfile.TemporaryDirectory() as cache, compilation_cache(Path(cache)):
        for role, directories in networks.items():
            for directory in directories:
                if directory not in done:
                    print(f"{NETWORKS[role]}: {directory}", file=sys.stderr)
                    done[directory] = evaluate_noise(
                        load_trained(directory.parent, directory.name),  # pyright: ignore[reportArgumentType] a role
                        test.test_images[index],
                        test.test_labels[index],
                        seed,
                        batch_size=batch_size,
                        index=index,
                    )
                reports.setdefault(role, []).append(done[directory])
    of_one = {role for role, directories in networks.items() if len(set(directories)) == 1}
    result = summarise({role: found[:1] if role in of_one else found for role, found in reports.items()})
    print(noise_table(result), in_words(result), sep="\n")
    of_noise = {
        "command": _command(bool(baseline), images, seed, batch_size, dataset),
        "noise_seed": seed,
        "images": len(index),
    }
    for i, (_, run) in enumerate(seeds_of_one_recipe("runs", runs)):
        of_run = summarise({role: [found[i]] for role, found in reports.items()})
        write_record(run, "noise", "noise", of_run | of_noise, versions=["pillow"])
    if record is not None:
        unset = dict.fromkeys(SEED)
        result |= of_noise | {
            "run_command": command(configs[0]),
            "baseline_command": command(seeds_of_one_recipe("baseline", baseline)[0][0]) if baseline else None,
            "dataset": configs[0].dataset if dataset is None else dataset,
            "seeds": [config.seed for config in configs],
            "levels": {kind: list(strengths) for kind, strengths in LEVELS.items()},
            "config": {k: v for k, v in dataclasses.asdict(configs[0].published()).items() if k not in unset},
            "notes": notes,
        }
        write_record(RESULTS, "noise", record, result, versions=["pillow"])


def _command(has_baseline: bool, images: int | None, seed: int, batch_size: int, dataset: str | None) -> str:
    """The command line without its paths."""
    chosen = ["--baseline", "RUN", "..."] if has_baseline else []
    chosen += [] if images is None else ["--images", str(images)]
    chosen += ["--seed", str(seed), "--batch-size", str(batch_size)]
    chosen += [] if dataset is None else ["--dataset", dataset]
    return shlex.join(["python", "experiments/robustness.py", "RUN", "...", *chosen])


def find_networks(runs: list[Path], baseline: list[Path]) -> tuple[list[Config], dict[str, list[Path]]]:
    """The configurations of the runs in the order of their seeds, and the directories of each role in that order.

    Raises:
        InputError: if the runs are not the seeds of one configuration, the baselines are not the same recipe without
            distillation, or only some of the runs have a network.
    """
    found = seeds_of_one_recipe("runs", runs)
    configs, directories = [config for config, _ in found], [run for _, run in found]
    candidates = {
        "teacher": [_teacher(config, run) for config, run in found],
        "student_baseline": [run / "student_baseline" for run in directories],
        "student": [run / "student" for run in directories],
    }
    if configs[0].is_plain:
        if baseline:
            raise InputError(f"runs {runs[0]}, ... are without distillation themselves; leave baseline out")
        candidates = {"student_baseline": candidates["student"]}
    if baseline:
        if any((directory / "network.json").is_file() for directory in candidates["student_baseline"]):
            raise InputError(f"baseline {baseline[0]}: the runs have a student_baseline of their own; leave it out")
        others = seeds_of_one_recipe("baseline", baseline)
        if [config.seed for config, _ in others] != [config.seed for config in configs]:
            raise InputError(f"baseline runs must have the seeds of the runs, {[config.seed for config in configs]}")
        check_same(
            "runs and baseline", [*configs, *(config for config, _ in others)], (*SEED, *BOOKKEEPING, *OF_DISTILLATION)
        )
        if distilled := [str(run) for config, run in others if not config.is_plain]:
            raise InputError(
                f"baseline {', '.join(distilled)} has more than the labels to learn from; give preset none"
            )
        candidates["student_baseline"] = [run / "student" for _, run in others]
    networks = {}
    for role, places in candidates.items():
        present = [(place / "network.json").is_file() for place in places]
        if any(present) and not all(present):
            raise InputError(f"runs {', '.join(map(str, directories))}: only some of them have a {role}")
        if all(present):
            networks[role] = [place.resolve() for place in places]
    if not networks:
        raise InputError(f"runs {', '.join(map(str, directories))} have no network that was trained to its end")
    return configs, networks


def _teacher(config: Config, run: Path) -> Path:
    """The run's own teacher, or the one that it was given, by its run or directly."""
    if config.teacher_checkpoint is None or (run / "teacher" / "network.json").is_file():
        return run / "teacher"
    given = Path(config.teacher_checkpoint)
    return given / "teacher" if (given / "teacher").is_dir() else given


if __name__ == "__main__":
    with told_in_one_line():
        tyro.cli(main)
