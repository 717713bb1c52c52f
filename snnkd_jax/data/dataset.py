"""What a data set is to the rest of the library: images and labels in memory, nothing lazy.

The largest set is 180 MB as bytes, so indexing an array replaces a loader. Normalisation, augmentation, batches and
the validation split belong to training, not here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set of labelled images.

    Images are uint8 `[N, H, W, C]` with values 0 to 255, labels int32 `[N]` with values 0 to `num_classes - 1`. Both
    keep the order in which they are stored, the same in every process.
    """

    name: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int32]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int32]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        _, height, width, channels = self.train_images.shape
        return height, width, channels
