"""From the words of a command line to a function and its arguments, by tyro."""

import contextlib
import functools
import inspect
import io
import itertools
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from snnkd_jax.cli.status import exit_status
from snnkd_jax.errors import InputError

Command = Callable[..., int | None]


def call(command: Command, arguments: Sequence[str] | None = None) -> int:
    """Calls a script's main function with `arguments`, None for the process's, and returns the exit status."""
    return exit_status(lambda: bound(command, sys.argv[1:] if arguments is None else arguments)())


def bound(
    command: Command, arguments: Sequence[str], prog: str | None = None, dataset: str | None = None
) -> functools.partial:
    """`command` with its arguments, not yet called.

    Args:
        command: takes options by their names; its docstring explains them. A parameter `config` is a run's `Config`.
        arguments: the words of the command line.
        prog: what the help calls the program; None: the process's name.
        dataset: whose defaults `config` has if the arguments do not name one; None: CIFAR-10's.

    Raises:
        InputError: for wrong arguments, in the place of tyro's box; tyro has no other public way to what is in it.
    """
    if "config" in inspect.signature(command).parameters:
        command = _with_defaults(command, arguments, dataset)

    @functools.wraps(command)
    def later(**options):
        return functools.partial(command, **options)

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(later, args=arguments, prog=prog, config=(tyro.conf.PositionalMetavarFromFieldName,))
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        lines = [line.strip("│ ") for line in box.getvalue().splitlines() if line.startswith("│")]
        message = " ".join(itertools.takewhile(lambda line: not line.startswith("─"), lines))
        raise InputError(f"{message or box.getvalue()}; --help explains every argument") from None


def _with_defaults(command: Command, arguments: Sequence[str], dataset: str | None) -> Command:
    """`command` with the defaults of the data set that `arguments` name; the parser proper comes later."""
    from snnkd_jax.runs.config import default_config
    from snnkd_jax.runs.data import DataConfig

    name = dataset or DataConfig.dataset
    for i, argument in enumerate(arguments):
        if argument == "--dataset" and i + 1 < len(arguments):
            name = arguments[i + 1]
        elif argument.startswith("--dataset="):
            name = argument.removeprefix("--dataset=")
    found = functools.partial(command, config=default_config(name))
    found.__doc__ = command.__doc__
    return found


def command_line(*words: str, **options: Any) -> str:
    """What a record says of a command: its words, and those options that are not None."""
    given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None]
    return shlex.join(["snnkd", *words, *itertools.chain(*given)])
