"""The error for wrong input, as distinct from a defect of the program, and common checks of input."""

import difflib
import numbers
import re
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """A wrong argument, file or environment, which the user can correct.

    The message is one line that names the argument, its value and what to do; command lines print it without a
    traceback and exit with status 2.
    """


def check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    """Raises `InputError`, which suggests the closest choice, unless `value` is one of `choices`."""
    known = list(choices)
    if value not in known:
        raise InputError(f"{argument} {value!r} is unknown{did_you_mean(value, known)}; choose from {', '.join(known)}")


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """A hint at the choice that is closest to `value`, in whatever case; empty if none is close."""
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(value.lower(), lower, n=1)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def match_choice(argument: str, value: str, choices: Iterable[str]) -> str:
    """The choice that equals `value` but for case, "-" and "_"; raises `InputError` as `check_choice` does."""
    known = {re.sub("[-_]", "", choice.lower()): choice for choice in choices}
    key = re.sub("[-_]", "", value.lower())
    if key not in known:
        check_choice(argument, value, known.values())
    return known[key]


def check_counts(section: Any, *names: str) -> None:
    """Raises `InputError` unless these fields are whole numbers >= 1, or None where that is the default."""
    for name in names:
        if not (getattr(section, name) is None and getattr(type(section), name) is None):
            check_count(name, getattr(section, name))


def check_count(argument: str, value: Any, least: int = 1) -> None:
    """Raises `InputError` unless `value` is a whole number >= `least`, of Python or NumPy."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        raise InputError(f"{argument}={value!r} must be a whole number of at least {least}")


def parse_size(argument: str, text: str) -> tuple[int, int]:
    """(H, W) of "HEIGHTxWIDTH"; raises `InputError` for anything else."""
    if (found := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)) is None:
        raise InputError(f"{argument}={text!r}: give HEIGHTxWIDTH in pixels, such as 34x34")
    return int(found[1]), int(found[2])
