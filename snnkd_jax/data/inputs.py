"""What a training sees of a data set, wherever it lies."""

import dataclasses
from typing import Any, Protocol

from snnkd_jax.data.batches import EvalBatches, Source


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Batches of the three parts of a data set; `validation` and `test` begin a pass over all of theirs."""

    training: Source
    validation: EvalBatches
    test: EvalBatches


class Data(Protocol):
    """A data set that can be trained on: `Dataset`, in memory, or `Streamed`, on disk."""

    @property
    def name(self) -> str:
        """In tables and messages."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`[H, W, C]` of every image or frame."""
        ...

    @property
    def frames(self) -> int | None:
        """T of sequences, one frame per time step; None for images."""
        ...

    normalisation: Any
    """`Normalisation` of the pixels."""
    identity: Any
    """Bytes, equal in processes, and in runs, whose copies of the data set are."""

    @property
    def described(self) -> dict[str, Any]:
        """What else tells it from others, as JSON values: its name, its classes, its split, its test set."""
        ...

    def inputs(self, batch_size: int, seed: int) -> Inputs:
        """The batches of a training."""
        ...
