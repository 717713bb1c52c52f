"""Examples on disk: images that are read and decoded on access."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from snnkd_jax.data.features import Columns
from snnkd_jax.data.images import decode
from snnkd_jax.errors import InputError

REMEDY = "correct it where the set comes from and prepare the set again, or name another data_dir"


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one split in their stored order; several threads may read them."""

    source: Any
    directory: Path
    split: str
    columns: Columns

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> tuple[Image.Image, np.int32]:
        """Image i and its label; raises `InputError`, which names it, for a label or an image that cannot be taken."""
        where = f"example {i} of {self.directory}, split {self.split}"
        try:
            example = self.source[i]
            if isinstance(name := example.get("file_name"), bytes):
                where = f"example {i} ({name.decode(errors='replace')}) of {self.directory}, split {self.split}"
            stored, label = example[self.columns.image], self.columns.label_of(example)
        except InputError as error:
            raise InputError(f"{where} {error}: {REMEDY}") from error
        except Exception as error:  # ArrayRecord raises nearly anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{where} cannot be read ({reason}): {REMEDY}") from error
        if isinstance(stored, np.ndarray):
            return Image.fromarray(stored.squeeze(-1) if stored.shape[2:] == (1,) else stored), np.int32(label)
        try:
            image, _ = decode(where, io.BytesIO(stored), self.columns.channels)
        except InputError as error:
            raise InputError(f"{error}: {REMEDY}") from error
        return image, np.int32(label)
