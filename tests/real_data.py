"""Real data sets, for tests that are skipped where they are not."""

import os
from pathlib import Path

import pytest

from snnkd_jax.data import Dataset, load

_DATA_DIR = os.environ.get("TFDS_DATA_DIR")  # before a test sets another


def load_real(name: str) -> Dataset:
    """A data set, from the directory that `TFDS_DATA_DIR` names when tests begin; skips the test without it."""
    if name == "digits":
        return load(name)
    if not _DATA_DIR or not (Path(_DATA_DIR) / name).exists():
        pytest.skip(f"TFDS_DATA_DIR ({_DATA_DIR or 'not set'}) has no {name}")
    return load(name, _DATA_DIR)
