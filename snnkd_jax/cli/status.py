"""Exit status and messages of every command: an error of the user's and a warning are one line each on stderr."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable

from snnkd_jax.errors import InputError


def exit_status(command: Callable[[], int | None]) -> int:
    """Calls `command` and returns its exit status: 2 after an `InputError`, printed in one line, and 130 after SIGINT.

    Raises `SystemExit` 141 if the reader of stdout is gone, as in `snnkd --help | head -1`: the status of a Unix
    command that SIGPIPE ends.
    """
    _open_closed_streams()
    before, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        return command() or 0
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.showwarning = before
        try:
            # After the error of another pipe this prints a line; after one of stdout it fails again.
            print(end="\n" if isinstance(sys.exception(), BrokenPipeError) else "", flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush at exit
            raise SystemExit(141) from None


def _show_warning(message, *_, **__) -> None:
    """Prints a warning as one line on stderr, above progress bars, in the first process only."""
    from tqdm import tqdm

    from snnkd_jax.parallel.hosts import is_host0

    if is_host0():
        with contextlib.suppress(OSError):  # as Python does: a warning that nobody can read must not cost a result
            tqdm.write(f"warning: {message}", file=sys.stderr)


def _open_closed_streams() -> None:
    """Opens streams that the process was started without (`>&-`), so that no file gets their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 as long as the process lives
