"""How every command ends and what it says: one line on stderr for an error of the user's and for a warning."""

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator

from snnkd_jax.errors import InputError


def exit_status(command: Callable[[], int | None]) -> int:
    """Calls `command` and returns its exit status: 2 after an `InputError`, told in one line, and 130 after SIGINT."""
    try:
        with warnings_in_one_line():
            return command() or 0
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


@contextlib.contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Within, a warning is one line on stderr, above progress bars, of the first process only."""
    before, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        yield
    finally:
        warnings.showwarning = before


def _show_warning(message, *_, **__) -> None:
    from tqdm import tqdm

    from snnkd_jax.parallel.hosts import is_first

    if is_first():
        tqdm.write(f"warning: {message}", file=sys.stderr)
