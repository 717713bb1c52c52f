"""Functions with some of their arguments given, as fields of modules that are compared."""

import functools
from typing import Any


class HashablePartial(functools.partial):
    """`functools.partial` that is equal to another of the same function and arguments.

    Modules that have it as a field are equal when they compute the same, and JAX traces and compiles them once.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashablePartial) and self._contents() == other._contents()

    def __hash__(self) -> int:
        return hash(self._contents())

    def _contents(self) -> Any:
        return self.func, self.args, tuple(sorted(self.keywords.items()))
