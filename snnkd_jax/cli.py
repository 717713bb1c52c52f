"""From a command line to a run: parsing, one-line errors, exit statuses."""

import sys
import warnings
from collections.abc import Sequence

import tyro

from snnkd_jax.config import Config, default_config
from snnkd_jax.errors import InputError
from snnkd_jax.experiment import run, table
from snnkd_jax.interrupt import Interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `experiments/cifar_distill.py` with these arguments (None: the process's) and returns its exit status.

    0 after a complete run or SIGTERM, 130 after SIGINT, 2 for wrong input, told in one line on stderr.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    warnings.showwarning = _show_warning
    config = tyro.cli(Config, args=arguments, default=default_config(_dataset(arguments)))
    try:
        result = run(config)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return stop.exit_status
    print(f"\n{table(result)}")
    return 0


def _dataset(arguments: Sequence[str]) -> str:
    """The value of --dataset, which decides the other defaults; the parser proper comes later."""
    name = Config().dataset
    for i, argument in enumerate(arguments):
        if argument == "--dataset" and i + 1 < len(arguments):
            name = arguments[i + 1]
        elif argument.startswith("--dataset="):
            name = argument.removeprefix("--dataset=")
    return name


def _show_warning(message, *_, **__) -> None:
    print(f"warning: {message}", file=sys.stderr)
