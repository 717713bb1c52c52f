"""Parsing of command lines into a function and its arguments, by tyro."""

import contextlib
import functools
import inspect
import io
import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from snnkd_jax.cli.status import exit_status
from snnkd_jax.errors import InputError
from snnkd_jax.files import as_path

Command = Callable[..., int | None]


def one_or_more(name: str, help: str | None = None) -> Any:
    """How the help shows a positional list; the command itself raises `InputError` for an empty one."""
    return tyro.conf.arg(metavar=f"{name} [{name} ...]", help=help, help_behavior_hint="(required)")


_SEEDS = one_or_more("RUN", "Directories of finished runs that differ only in their seed.")
_DATASET = 'Name of the data set in the record, such as "CIFAR-10 (JPEG copy)"; None: that of the run.'
Run = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(help="Directory of a finished run.")]]
Runs = tyro.conf.Positional[Annotated[list[Path], _SEEDS]]
Dataset = Annotated[str | None, tyro.conf.arg(help=_DATASET)]
Notes = Annotated[str, tyro.conf.arg(help="Remarks for the record.")]
Record = Annotated[Path | None, tyro.conf.arg(help="JSON file to write the result record to.")]
Out = Annotated[Path | None, tyro.conf.arg(help="Folder for the result; None: that of the run, whose report shows it.")]
"""Arguments that several subcommands have, with their help."""


def call(command: Command, arguments: Sequence[str] | None = None, dataset: str | None = None) -> int:
    """Calls `command` and returns the exit status; `arguments` None are the process's, `dataset` is that of `parse`."""
    return exit_status(lambda: parse(command, sys.argv[1:] if arguments is None else arguments, dataset=dataset)())


def parse(
    command: Command, arguments: Sequence[str], prog: str | None = None, dataset: str | None = None
) -> functools.partial:
    """`command` with its arguments bound, not yet called; raises `InputError` for wrong arguments.

    `command` takes options by name, which its docstring explains. A parameter `config` is a run's `Config`, with the
    defaults of the data set in the arguments, else of `dataset`, else of CIFAR-10, and of the recipe in the arguments.
    `prog` is the name in the help.
    """
    if "config" in inspect.signature(command).parameters:
        command = _with_defaults(command, arguments, dataset)

    @functools.wraps(command)
    def bind(**options):
        return functools.partial(command, **{name: _with_paths(name, value) for name, value in options.items()})

    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box), _wide_enough():
            return tyro.cli(bind, args=arguments, prog=prog, config=(tyro.conf.PositionalMetavarFromFieldName,))
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        # tyro has no other public way to its message.
        lines = [line.strip("│ ") for line in box.getvalue().splitlines() if line.startswith("│")]
        message = " ".join(itertools.takewhile(lambda line: not line.startswith("─"), lines))
        raise InputError(f"{message or box.getvalue()}; --help explains every argument") from None


def _with_paths(name: str, value: Any) -> Any:
    """The value of an option, its paths as `as_path` reads them."""
    if isinstance(value, list | tuple):
        return type(value)(_with_paths(name, x) for x in value)
    return as_path(name, value) if isinstance(value, Path) else value


@contextlib.contextmanager
def _wide_enough() -> Iterator[None]:
    """A context with at least 40 columns for tyro's help, which it never finishes in less than about ten."""
    given = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(max(shutil.get_terminal_size().columns, 40))
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        os.environ.update({} if given is None else {"COLUMNS": given})


def _with_defaults(command: Command, arguments: Sequence[str], dataset: str | None) -> Command:
    """`command` with the defaults of the data set and the recipe in `arguments`, found before they are parsed."""
    from snnkd_jax.runs.config import default_config
    from snnkd_jax.runs.data import DataConfig

    def named(flag: str, default: str | None) -> Any:
        words = [part for word in arguments for part in (word.split("=", 1) if word.startswith(f"{flag}=") else [word])]
        return [default, *(value for found, value in itertools.pairwise(words) if found == flag)][-1]

    recipe = named("--recipe", None)
    defaults = default_config(named("--dataset", dataset or DataConfig.dataset), None if recipe == "None" else recipe)
    found = functools.partial(command, config=defaults)
    found.__doc__ = command.__doc__
    return found


def command_line(*words: str, **options: Any) -> str:
    """The command in a record: its words, and the options that are not None."""
    given = [(f"--{name.replace('_', '-')}", str(value)) for name, value in options.items() if value is not None]
    return shlex.join(["snnkd", *words, *itertools.chain(*given)])
