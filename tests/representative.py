"""Products of parameters: every run of the tests tries representatives of them, the group `slow` the others."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow(*values: Any, **options: Any) -> Any:
    """One set of parameters of the group `slow`."""
    return pytest.param(*values, marks=pytest.mark.slow, **options)


def representatives(values: Iterable[Any], is_one: Callable[[Any], bool]) -> list[Any]:
    """The values (each the one parameter of a test, or a tuple of parameters); those that are none are slow."""
    return [value if is_one(value) else slow(*(value if isinstance(value, tuple) else (value,))) for value in values]
