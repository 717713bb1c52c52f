"""Examples on disk: images that are read and decoded when they are asked for."""

import dataclasses
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snnkd_jax.data.crops import centre, random_part
from snnkd_jax.errors import InputError

REMEDY = "have TFDS prepare it again, or name another data_dir"


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """One split, by the index of the example, in the order in which it is stored; several threads may read it."""

    source: Any
    where: str
    num_classes: int

    def __len__(self) -> int:
        return len(self.source)

    def random_part(self, i: int, size: int, rng: np.random.Generator, flip: bool) -> tuple[NDArray, np.int32]:
        """A random part of image i for training, uint8 `[size, size, 3]`, and its label."""
        image, label = self._read(i)
        return random_part(image, size, rng, flip), label

    def centre(self, i: int, size: int) -> tuple[NDArray, np.int32]:
        """The centre of image i, uint8 `[size, size, 3]`, and its label."""
        image, label = self._read(i)
        return centre(image, size), label

    def _read(self, i: int) -> tuple[Image.Image, np.int32]:
        """Image i in red, green and blue, and its label.

        Raises `InputError`, which names the record, if it cannot be read or decoded, or has no label.
        """
        name = ""
        try:
            example = self.source[i]
            name = f" ({example['file_name'].decode()})" if "file_name" in example else ""
            image, label = Image.open(io.BytesIO(example["image"])).convert("RGB"), int(example["label"])
        except Exception as error:  # Pillow's plugins and ArrayRecord raise nearly anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"record {i}{name} of {self.where} cannot be read ({reason}): {REMEDY}") from error
        if not 0 <= label < self.num_classes:
            raise InputError(f"record {i}{name} of {self.where} has label {label} of {self.num_classes}: {REMEDY}")
        return image, np.int32(label)
