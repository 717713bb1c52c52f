"""The published data sets, and the numbers of examples that their authors state.

Version, download addresses, checksums and features are read from their stock TFDS builders.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Official:
    """A published data set: its builder in `tfds.image_classification` and its numbers of examples."""

    builder: str
    train_size: int
    test_size: int

    def stock_builder(self) -> Any:
        """The builder class that TFDS ships; TFDS has no usable annotations."""
        import tensorflow_datasets as tfds  # takes half a second, and digits do not need it

        return getattr(tfds.image_classification, self.builder)


OFFICIAL = {
    "mnist": Official("MNIST", 60_000, 10_000),
    "fashion_mnist": Official("FashionMNIST", 60_000, 10_000),
    "cifar10": Official("Cifar10", 50_000, 10_000),
    "cifar100": Official("Cifar100", 50_000, 10_000),
}
