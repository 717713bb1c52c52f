"""Values of options: the one type that each has, from whatever has a clear meaning in it.

Scripts take values from arrays, environment variables, JSON and paths: a NumPy or JAX scalar, `"1e-3"`, `2.0` for a
count, a `Path`. What is kept is Python's own type, which JSON can hold and which compares equal when a run is resumed.
"""

import dataclasses
import functools
import math
import operator
import os
import typing
from types import NoneType
from typing import Any

from snnkd_jax.errors import InputError

_EXPECTED = {
    str: "a string or a path",
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    tuple: "a list of words",
}


def option(name: str, kind: Any, value: Any) -> Any:
    """The value of an option as its type `kind`: str, bool, int or float, one of these `| None`, or `tuple[str, ...]`.

    Raises `InputError`, which names it, if its meaning is not clear: a fraction or a bool for a whole number, NaN.
    """
    kinds = (tuple,) if typing.get_origin(kind) is tuple else typing.get_args(kind) or (kind,)
    plain: Any = kinds[0]
    is_word = isinstance(value, str) and value == "None"  # as on command lines
    if NoneType in kinds and (value is None or is_word):
        return None
    try:
        scalar: Any = value
        return _CONVERSIONS[plain](scalar.item() if getattr(value, "shape", None) == () else value)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        expected = f"{_EXPECTED[plain]}{' or None' if NoneType in kinds else ''}"
        raise InputError(f"{name}={' '.join(repr(value).split())[:200]} must be {expected}") from error


def _bool(value: Any) -> bool:
    known = {"true": True, "false": False, True: True, False: False}
    return known[value.lower() if isinstance(value, str) else operator.index(value)]


def _int(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError(value)
    return int(number)


def _float(value: Any) -> float:
    number = float(_number(value))
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _number(value: Any) -> int | float:
    if isinstance(value, bool | bytes):
        raise TypeError(value)
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        return float(value)


def _str(value: Any) -> str:
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError(path)
    return str(path)


def _words(value: Any) -> tuple[str, ...]:
    words = value.split() if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        raise TypeError(value)
    return tuple(map(_str, words))


_CONVERSIONS: dict[type, typing.Callable[[Any], Any]] = {str: _str, bool: _bool, int: _int, float: _float}
_CONVERSIONS |= {tuple: _words}


class Section:
    """A section of a configuration, a frozen dataclass: all fields are options."""

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():
            object.__setattr__(self, name, option(name, kind, getattr(self, name)))


@functools.cache
def _kinds(section: Any) -> dict[str, Any]:
    kinds = typing.get_type_hints(section)
    return {field.name: kinds[field.name] for field in dataclasses.fields(section)}
