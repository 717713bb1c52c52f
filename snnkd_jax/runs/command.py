"""The command line of a configuration."""

import shlex

from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.recipe import run_of_teacher
from snnkd_jax.runs.run_dir import run_directory


def command(config: Config) -> str:
    """The command line of a configuration: the options that differ from its data set's and recipe's, and the seed.

    If its teacher is that of another run whose directory still exists, the command of that run comes first, and
    `--teacher-checkpoint` names the directory that this command writes.
    """
    if (teacher := run_of_teacher(config)) is not None:
        student = config.replace(teacher_checkpoint=None)
        directory = run_directory(teacher.replace(run_dir=None))
        return f"{command(teacher)} && {command(student)} --teacher-checkpoint {directory}"
    published = config.published()
    default = default_config(published.data.dataset, config.run.recipe).flat() | {"seed": None}
    words = ["snnkd", "train", "--dataset", published.data.dataset]
    words += [] if config.run.recipe is None else ["--recipe", config.run.recipe]
    for name, value in published.flat().items():
        if value != default[name]:
            flag, is_switch = name.replace("_", "-"), isinstance(default[name], bool)
            values = map(str, value if isinstance(value, tuple) else (value,))
            words += [f"--{'' if value else 'no-'}{flag}"] if is_switch else [f"--{flag}", *values]
    return shlex.join(words)
