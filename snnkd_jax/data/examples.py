"""Examples on disk: images that are read and decoded on access."""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from snnkd_jax.errors import InputError

REMEDY = "have TFDS prepare it again, or name another data_dir"


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one split in their stored order; several threads may read them."""

    source: Any
    where: str
    num_classes: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[Image.Image, np.int32]:
        """Image i in RGB, and its label; raises `InputError`, which names it, for a damaged or unlabelled image."""
        name = ""
        try:
            example = self.source[i]
            name = f" ({example['file_name'].decode()})" if "file_name" in example else ""
            image, label = Image.open(io.BytesIO(example["image"])).convert("RGB"), int(example["label"])
        except Exception as error:  # Pillow's plugins and ArrayRecord raise nearly anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"example {i}{name} of {self.where} cannot be read ({reason}): {REMEDY}") from error
        if not 0 <= label < self.num_classes:
            raise InputError(f"example {i}{name} of {self.where} has label {label} of {self.num_classes}: {REMEDY}")
        return image, np.int32(label)
