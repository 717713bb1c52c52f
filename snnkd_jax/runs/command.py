"""The command line of a configuration."""

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
        taught = config.replace(teacher_checkpoint=None)
        directory = run_directory(teacher.replace(run_dir=None))
        return f"{command(teacher)} && {command(taught)} --teacher-checkpoint {directory}"
    default = default_config(config.data.dataset).flat()
    arguments = ["--dataset", config.data.dataset]
    for name, value in config.published().flat().items():
        if name == "dataset" or (value == default[name] and name != "seed"):
            continue
        flag = name.replace("_", "-")
        is_switch = isinstance(default[name], bool)
        arguments += [f"--{'' if value else 'no-'}{flag}"] if is_switch else [f"--{flag}", str(value)]
    return shlex.join(["snnkd", "train", *arguments])
