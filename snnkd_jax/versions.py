"""Versions of Python, of this package and of what it depends on."""

import importlib.metadata
import platform
from collections.abc import Iterable

_PACKAGES = ["snnkd-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy"]
_PACKAGES += ["scikit-learn"]


def versions(others: Iterable[str] = ()) -> dict[str, str]:
    """Installed versions by name: Python, the dependencies of this project, and the packages `others`."""
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in (*_PACKAGES, *others)}
