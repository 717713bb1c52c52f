"""From a command line to a run: parsing, one-line errors, exit statuses."""

import contextlib
import functools
import io
import itertools
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from tqdm import tqdm

from snnkd_jax.errors import InputError
from snnkd_jax.experiment import run
from snnkd_jax.parallel.hosts import is_first, join, leave, say, several, wait_if_lost
from snnkd_jax.report.run import result_rows
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.training.interrupt import Interrupted


def main(arguments: Sequence[str] | None = None, dataset: str = Config.dataset) -> int:
    """Runs `experiments/cifar_distill.py` and `imagenet_distill.py`, and returns the exit status.

    Args:
        arguments: of the command line; None takes the process's.
        dataset: the data set if the arguments do not name one.

    Returns:
        0 after a complete run or SIGTERM, 130 after SIGINT, 2 for wrong input, told in one line on stderr, and 1 if
        another process of the run is gone.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    warnings.showwarning = _show_warning
    return leave(_run(arguments, dataset))


def _run(arguments: Sequence[str], dataset: str) -> int:
    try:
        config = parse(arguments, dataset)
        join(config.distributed)
        result = run(config)
    except KeyboardInterrupt:
        print("interrupted before anything was trained", file=sys.stderr)
        return 130
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Interrupted as stop:
        if is_first():
            print(stop, file=sys.stderr)
        return stop.exit_status
    except Exception:
        if not several():
            raise
        wait_if_lost()
        traceback.print_exc()
        return 1
    say(f"\n{table(result)}")
    return 0


def table(result: dict[str, Any]) -> str:
    """The comparison as text: a row for each network that was trained."""
    rows = result_rows(result)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _dataset(arguments: Sequence[str], name: str) -> str:
    """The value of --dataset, or `name`, which decides the other defaults; the parser proper comes later."""
    for i, argument in enumerate(arguments):
        if argument == "--dataset" and i + 1 < len(arguments):
            name = arguments[i + 1]
        elif argument.startswith("--dataset="):
            name = argument.removeprefix("--dataset=")
    return name


def with_defaults(main: Callable[..., Any]) -> Callable[..., Any]:
    """For `tyro.cli`: `main(config=...)` of a script, with the defaults of the data set that its arguments name."""
    return functools.partial(main, config=default_config(_dataset(sys.argv[1:], Config.dataset)))


def parse(arguments: Sequence[str], dataset: str = Config.dataset) -> Config:
    """The configuration that a command line means, of `dataset` if it names none.

    Raises `InputError` where tyro would print a box.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(Config, args=arguments, default=default_config(_dataset(arguments, dataset)))
    except SystemExit as stop:
        if not stop.code:
            raise  # --help
        lines = [line.strip("│ ") for line in box.getvalue().splitlines() if line.startswith("│")]
        message = " ".join(itertools.takewhile(lambda line: not line.startswith("─"), lines))
        raise InputError(f"{message or box.getvalue()}; --help explains every argument") from None


def _show_warning(message, *_, **__) -> None:
    if is_first():
        tqdm.write(f"warning: {message}", file=sys.stderr)
