"""Class labels: inside the library they are int32 `[N]`, counted from 0 to K - 1 for K classes.

A label out of range must be refused before it reaches a device: its one-hot row is zero, and so are its loss and its
gradient; as an index it would be clipped or wrapped. No error would ever tell.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from snnkd_jax.errors import InputError


def check_labels(name: str, labels: Any, examples: int, num_classes: int | None = None) -> NDArray[np.int32]:
    """The labels of `examples` images as int32 `[N]`; without `num_classes`, any from 0 on.

    Raises `InputError`, which calls them `name`, for another shape or dtype, and for the first row out of range.
    """
    try:
        found = np.asarray(labels)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} are not an array ({error}); give one integer per image") from error
    if found.shape != (examples,):
        hint = " (of one-hot rows, labels.argmax(axis=1))" if found.ndim == 2 and found.shape[1] > 1 else ""
        raise InputError(f"{name} have shape {found.shape}; {examples} images need ({examples},){hint}")
    if not np.issubdtype(found.dtype, np.integer):
        raise InputError(f"{name} have dtype {found.dtype}; give integers, which count the classes from 0 on")
    most = np.iinfo(np.int32).max if num_classes is None else num_classes - 1
    wrong = (found < 0) | (found > most)
    if wrong.any():
        row = int(np.argmax(wrong))
        known = "from 0 on" if num_classes is None else f"from 0 to {most}, those of {num_classes} classes"
        advice = ""
        if found[row] < 0:
            advice = "; leave out images without a class"
        elif found.min() == 1 and found.max() == num_classes:
            advice = "; subtract 1, they seem to count from 1"
        raise InputError(f"{name}: {found[row]} in row {row}, but labels are {known}{advice}")
    return found.astype(np.int32)
