"""Comparison of the configurations of runs: same recipe or not."""

from collections.abc import Sequence
from pathlib import Path

from snnkd_jax.errors import InputError
from snnkd_jax.files import as_path, read_sealed, similar
from snnkd_jax.runs.config import Config, config_of
from snnkd_jax.runs.objective import WEIGHTS

SEED = ("seed", "run_dir", "teacher_checkpoint", "store_teacher")
"""The options that differ between runs of one recipe with several seeds."""

BOOKKEEPING = ("data_dir", "workers", "keep_checkpoints", "checkpoint_every", "profile", "distributed", "fsdp")
"""Options that change no result."""

OBJECTIVE = ("preset", "baseline", *WEIGHTS, "temperature")
"""The options that differ between students with the same initial weights and other objectives."""

DISTILLATION = (*OBJECTIVE, "teacher", "teacher_width", "teacher_epochs", "teacher_levels", "teacher_only")
DISTILLATION += ("teacher_pool", "teacher_normalisation", "teacher_frames", "initial_weights")
"""The options that may differ between a student with distillation and its baseline."""


def read_config(run: Path) -> Config:
    """The configuration of a run directory; raises `InputError` if it has none."""
    if not (run / "config.json").is_file():
        advice = f"give the one that a training prints first{similar(run)}"
        raise InputError(f"{run} is not a run directory (no config.json); {advice}")
    started = read_sealed(run / "config.json")
    if "fit" in started:
        raise InputError(f"{run} was trained by snnkd_jax.fit, not from a configuration; use snnkd_jax.load in Python")
    saved = started.get("config")
    return config_of(saved if isinstance(saved, dict) else {}, str(run / "config.json"))


def run_of_teacher(config: Config) -> Config | None:
    """The configuration of the run that trained the `teacher_checkpoint`; None if there is no such run.

    Raises `InputError` if its config.json is not a configuration of this program.
    """
    if config.teacher.teacher_checkpoint is None:
        return None
    return config_of_network(as_path("teacher_checkpoint", config.teacher.teacher_checkpoint))


def config_of_network(path: Path) -> Config | None:
    """The configuration of a run directory, or of the run of a network's directory; None if it has none.

    Raises `InputError` if its config.json is not a configuration of this program.
    """
    found = [run for run in (path, path.parent) if (run / "config.json").is_file()]
    if not found or "fit" in read_sealed(found[0] / "config.json"):
        return None
    return read_config(found[0])


def seeds_of_one_recipe(argument: str, runs: Sequence[Path]) -> list[tuple[Config, Path]]:
    """Configurations and run directories, ordered by seed.

    Raises `InputError`, naming `argument`, if there are no runs, or if they repeat a seed or differ in more than it.
    """
    if not runs:
        raise InputError(f"{argument} are missing; give the directory of at least one finished run")
    found = sorted(((read_config(run), run) for run in runs), key=lambda item: item[0].run.seed)
    seeds = [config.run.seed for config, _ in found]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{argument} {', '.join(map(str, runs))} repeat a seed: {seeds}")
    check_same_recipe(argument, [config for config, _ in found], (*SEED, *BOOKKEEPING))
    return found


def differences(a: Config, b: Config, may_differ: Sequence[str]) -> list[str]:
    """The names of the options that differ, without those that may differ."""
    first, second = a.flat(), b.flat()
    return [name for name in first if name not in may_differ and first[name] != second[name]]


def check_same_recipe(argument: str, configs: Sequence[Config], may_differ: Sequence[str]) -> None:
    """Raises `InputError` if the configurations differ in more than the options that may differ."""
    for config in configs[1:]:
        if names := differences(configs[0], config, may_differ):
            first, second = configs[0].flat(), config.flat()
            values = ", ".join(f"{name} ({first[name]!r}, {second[name]!r})" for name in names)
            raise InputError(f"{argument} differ in {values}; give runs of the same recipe")
