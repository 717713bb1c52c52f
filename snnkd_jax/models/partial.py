"""Functions with some of their arguments given, as fields of modules that are compared."""

import functools
from typing import Any


class HashablePartial(functools.partial):
    """`functools.partial` that is equal to another of the same function and arguments.

    Modules that have one as a field are equal if the others of their fields are, and are compiled once.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashablePartial) and self._contents() == other._contents()

    def __hash__(self) -> int:
        return hash(self._contents())

    def _contents(self) -> Any:
        return self.func, self.args, tuple(sorted(self.keywords.items()))
