"""How every command ends and what it says: one line on stderr for an error of the user's and for a warning."""

import sys
import warnings
from collections.abc import Callable

from snnkd_jax.errors import InputError


def exit_status(command: Callable[[], int | None]) -> int:
    """Calls `command` and returns its exit status: 2 after an `InputError`, told in one line, and 130 after SIGINT."""
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


def _show_warning(message, *_, **__) -> None:
    """One line on stderr, above progress bars, of the first process only."""
    from tqdm import tqdm

    from snnkd_jax.parallel.hosts import is_host0

    if is_host0():
        tqdm.write(f"warning: {message}", file=sys.stderr)
