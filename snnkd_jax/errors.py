"""The error of a user's input, as distinct from a defect of the program."""

import contextlib
import difflib
import numbers
import sys
from collections.abc import Iterable, Iterator
from typing import Any


class InputError(ValueError):
    """An argument, file or environment that the user can put right.

    The message is one line that names the argument, its value and what to do; command lines print it without a
    traceback and exit with status 2.
    """


def check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    """Raises `InputError`, with the nearest choice and all of them, unless `value` is one of `choices`."""
    known = list(choices)
    if value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"{argument} {value!r} is unknown{hint}; choose from {', '.join(known)}")


def check_count(argument: str, value: Any, least: int = 1) -> None:
    """Raises `InputError` unless `value` is a whole number, of Python or NumPy, of at least `least`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{argument}={value!r} must be a whole number of at least {least}")


@contextlib.contextmanager
def told_in_one_line() -> Iterator[None]:
    """Around the main function of a script: an `InputError` is printed, and ends the program with status 2."""
    try:
        yield
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
