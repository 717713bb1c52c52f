"""Collective operations of a compiled program, parsed from its text."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable

_OPERATIONS = "all-reduce|all-gather|(?:ragged-)?all-to-all|collective-permute|collective-broadcast|reduce-scatter"

# "%name = f32[3,3,64,64]{3,2,1,0} all-reduce(...", or a tuple of types; "-start" if it is asynchronous.
_CALL = re.compile(rf"^\s*(?:ROOT )?\S+ = (\S.*?) ({_OPERATIONS})(?:-start)?\(", re.MULTILINE)
_TYPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One array of a collective operation, in its shape on one device: "all-reduce", "f32", (64,)."""

    operation: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size on one device."""
        bits = 8 if self.dtype == "pred" else int(re.findall(r"\d+", self.dtype)[0])
        return math.prod(self.shape) * bits // 8


def collectives(text: str) -> tuple[Collective, ...]:
    """Parses the collectives in the text of a compiled program (`jax.stages.Compiled.as_text`), in order.

    Those inside a loop count once. Asynchronous gathers and permutations list both their operands and their results.
    """
    return tuple(
        Collective(operation, dtype, tuple(int(n) for n in shape.split(",") if n))
        for types, operation in _CALL.findall(text)
        for dtype, shape in _TYPE.findall(types)
    )


def total_bytes(found: Iterable[Collective]) -> dict[str, int]:
    """Bytes of all arrays by operation."""
    totals: Counter[str] = Counter()
    for collective in found:
        totals[collective.operation] += collective.bytes
    return dict(totals)
