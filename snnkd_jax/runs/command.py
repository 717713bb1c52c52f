"""The command line of a configuration."""

import dataclasses
import shlex

from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.recipe import run_of_teacher
from snnkd_jax.runs.run_dir import run_directory


def command(config: Config) -> str:
    """The command line of a configuration: what differs from the defaults of its data set.

    If its teacher is that of another run, which is still there, that run's command comes first, and the teacher is
    read from where that command leaves it.
    """
    if (teacher := run_of_teacher(config)) is not None:
        taught = dataclasses.replace(config, teacher_checkpoint=None)
        directory = run_directory(dataclasses.replace(teacher, run_dir=None))
        return f"{command(teacher)} && {command(taught)} --teacher-checkpoint {directory}"
    default = default_config(config.dataset)
    arguments = ["--dataset", config.dataset]
    config = config.published()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "dataset" or (value == getattr(default, field.name) and field.name != "seed"):
            continue
        flag = field.name.replace("_", "-")
        arguments += (
            [f"--{'' if value else 'no-'}{flag}"] if isinstance(field.default, bool) else [f"--{flag}", str(value)]
        )
    return shlex.join(["snnkd", "train", *arguments])
