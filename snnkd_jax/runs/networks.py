"""The networks of finished runs to compare: one per role and seed."""

from pathlib import Path

from snnkd_jax.errors import InputError
from snnkd_jax.files import as_path
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.recipe import BOOKKEEPING, DISTILLATION, SEED, check_same_recipe, seeds_of_one_recipe
from snnkd_jax.training.manifest import is_trained


def find_networks(runs: list[Path], baseline: list[Path]) -> tuple[list[Config], dict[str, list[Path]]]:
    """The configurations of the runs, and the network directories by role, both in the order of the seeds.

    Raises `InputError` if the runs differ in more than their seed, if the baselines are not the same recipe without
    distillation, or if only some of the runs have a network.
    """
    found = seeds_of_one_recipe("runs", runs)
    configs, where = [config for config, _ in found], ", ".join(str(run) for _, run in found)
    candidates = {
        "teacher": [_teacher(config, run) for config, run in found],
        "student_baseline": [run / "student_baseline" for _, run in found],
        "student": [run / "student" for _, run in found],
    }
    if configs[0].is_plain:
        if baseline:
            raise InputError(f"runs {runs[0]}, ... are trained without distillation; leave baseline out")
        candidates = {"student_baseline": candidates["student"]}
    if baseline:
        if any(is_trained(directory) for directory in candidates["student_baseline"]):
            raise InputError(f"baseline {baseline[0]}: the runs have a student_baseline of their own; leave it out")
        others = seeds_of_one_recipe("baseline", baseline)
        seeds = [config.run.seed for config in configs]
        if [config.run.seed for config, _ in others] != seeds:
            raise InputError(f"baseline runs must have the seeds of the runs, {seeds}")
        both = [*configs, *(config for config, _ in others)]
        check_same_recipe("runs and baseline", both, (*SEED, *BOOKKEEPING, *DISTILLATION))
        if distilled := [str(run) for config, run in others if not config.is_plain]:
            raise InputError(f"baseline {', '.join(distilled)} is not trained by the cross-entropy alone; give others")
        candidates["student_baseline"] = [run / "student" for _, run in others]
    networks = {}
    for role, places in candidates.items():
        present = [is_trained(place) for place in places]
        if any(present) and not all(present):
            raise InputError(f"runs {where}: only some of them have a {role}")
        if all(present):
            networks[role] = [place.resolve() for place in places]
    if not networks:
        raise InputError(f"runs {where} have no network that finished training")
    return configs, networks


def _teacher(config: Config, run: Path) -> Path:
    """The directory of the teacher: the run's own, or that of `teacher_checkpoint`, a run or a network directory."""
    if config.teacher.teacher_checkpoint is None or is_trained(run / "teacher"):
        return run / "teacher"
    given = as_path("teacher_checkpoint", config.teacher.teacher_checkpoint)
    return given / "teacher" if (given / "teacher").is_dir() else given
