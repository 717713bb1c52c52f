"""The data sets that come from elsewhere, and what their authors say they hold.

Everything else that is known about them (version, download addresses, checksums, features) is read from their stock
TFDS builders, so that it is written down once.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Official:
    """One published data set: its builder in `tfds.image_classification` and its number of examples."""

    builder: str
    train_size: int
    test_size: int

    def stock_builder(self) -> Any:
        """The builder class that TFDS ships; TFDS has no usable annotations."""
        import tensorflow_datasets as tfds  # half a second of import, and not needed for digits

        return getattr(tfds.image_classification, self.builder)


OFFICIAL = {
    "mnist": Official("MNIST", 60_000, 10_000),
    "fashion_mnist": Official("FashionMNIST", 60_000, 10_000),
    "cifar10": Official("Cifar10", 50_000, 10_000),
    "cifar100": Official("Cifar100", 50_000, 10_000),
}
