"""Examples on disk: images that are read and decoded on access."""

import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image

from snnkd_jax.data.images import decode
from snnkd_jax.errors import InputError

REMEDY = "correct it where the set comes from and prepare the set again, or name another data_dir"


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one split in their stored order; several threads may read them."""

    source: Any
    where: str
    num_classes: int
    channels: int = 3

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[Image.Image, np.int32]:
        """Image i and its label; raises `InputError`, which names it, for a label or an image that cannot be taken."""
        where = f"example {i} of {self.where}"
        try:
            example = self.source[i]
            if "file_name" in example:
                where = f"example {i} ({example['file_name'].decode()}) of {self.where}"
            encoded, label = io.BytesIO(example["image"]), int(example["label"])
        except Exception as error:  # ArrayRecord raises nearly anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{where} cannot be read ({reason}): {REMEDY}") from error
        try:
            image, _ = decode(where, encoded, self.channels)
        except InputError as error:
            raise InputError(f"{error}: {REMEDY}") from error
        if not 0 <= label < self.num_classes:
            raise InputError(f"{where} has label {label} of {self.num_classes}: {REMEDY}")
        return image, np.int32(label)
