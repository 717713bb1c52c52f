"""Which runs belong together: the configurations of finished runs, read and compared."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json
from snnkd_jax.runs.config import Config, default_config

SEED = ("seed", "run_dir", "teacher_checkpoint", "store_teacher")
"""Runs of several seeds differ in these, and only in these."""

BOOKKEEPING = ("data_dir", "workers", "keep_checkpoints", "checkpoint_every", "profile", "distributed", "fsdp")
"""These change no result."""

OF_LOSS = ("preset", "baseline", "ce_weight", "kd_weight", "steps_weight", "feature_weight", "temperature")
"""Students that begin with the same weights and are taught otherwise differ in these."""

OF_DISTILLATION = (
    *OF_LOSS,
    *("teacher", "teacher_width", "teacher_epochs", "teacher_levels", "teacher_only"),
    *("teacher_pool", "teacher_normalisation", "initial_weights"),
)
"""A student with distillation and its baseline may differ in these as well."""


def config_of(saved: dict[str, Any], where: str) -> Config:
    """The configuration that was saved; options that are younger than it have their defaults.

    Raises `InputError`, which names `where`, if it is none of this program.
    """
    try:
        return dataclasses.replace(default_config(saved["dataset"]), **saved)
    except (KeyError, TypeError) as error:
        raise InputError(f"{where} is not a configuration of this version ({type(error).__name__}: {error})") from error


def read_config(run: Path) -> Config:
    """The configuration of a run directory; raises `InputError` if it has none."""
    if not (run / "config.json").is_file():
        raise InputError(f"{run} is not a run directory (no config.json); name what a training prints first")
    saved = read_json(run / "config.json").get("config")
    return config_of(saved if isinstance(saved, dict) else {}, str(run / "config.json"))


def run_of_teacher(config: Config) -> Config | None:
    """The configuration of the run whose teacher `teacher_checkpoint` is; None if that run is not there.

    Raises `InputError` if its config.json is none of this program.
    """
    if config.teacher_checkpoint is None:
        return None
    checkpoint = Path(config.teacher_checkpoint)
    found = (run for run in (checkpoint, checkpoint.parent) if (run / "config.json").is_file())
    return next(map(read_config, found), None)


def seeds_of_one_recipe(argument: str, runs: Sequence[Path]) -> list[tuple[Config, Path]]:
    """Runs with their configurations, ordered by seed.

    Raises `InputError`, which names `argument`, if there is none, if two have one seed, or if they differ in more.
    """
    if not runs:
        raise InputError(f"{argument} are missing; name the directory of at least one finished run")
    found = sorted(((read_config(run), run) for run in runs), key=lambda item: item[0].seed)
    seeds = [config.seed for config, _ in found]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{argument} {', '.join(map(str, runs))} repeat a seed: {seeds}")
    check_same(argument, [config for config, _ in found], (*SEED, *BOOKKEEPING))
    return found


def differences(a: Config, b: Config, may_differ: Sequence[str]) -> list[str]:
    """The names of the options that differ, other than those that may."""
    names = [field.name for field in dataclasses.fields(Config) if field.name not in may_differ]
    return [name for name in names if getattr(a, name) != getattr(b, name)]


def check_same(argument: str, configs: Sequence[Config], may_differ: Sequence[str]) -> None:
    """Raises `InputError` if the configurations differ in more than they may."""
    for config in configs[1:]:
        if names := differences(configs[0], config, may_differ):
            values = ", ".join(f"{n} ({getattr(configs[0], n)!r}, {getattr(config, n)!r})" for n in names)
            raise InputError(f"{argument} differ in {values}; a comparison holds the recipe fixed")
