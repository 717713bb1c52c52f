"""The data of a training, wherever they are stored."""

import dataclasses
from typing import Any, Protocol

from snnkd_jax.data.batches import EvalBatches, Source


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Batches of the three splits of a data set."""

    training: Source
    validation: EvalBatches
    test: EvalBatches


class Data(Protocol):
    """A data set that can be trained on: `Dataset`, in memory, or `DiskDataset`."""

    @property
    def name(self) -> str:
        """Name in tables and messages."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`[H, W, C]` of every image or frame."""
        ...

    @property
    def frames(self) -> int | None:
        """T of sequences, one frame per time step; None for images."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """Name, classes, split and test set, as JSON values."""
        ...

    normalisation: Any
    """`Normalisation` of the pixels."""
    identity: Any
    """Bytes that are equal for equal copies of the data set, to compare those of processes and of runs."""

    def inputs(self, batch_size: int, seed: int) -> Inputs:
        """The batches of a training."""
        ...
