"""Train spiking neural networks by knowledge distillation from ordinary networks, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snnkd_jax import models
    from snnkd_jax.distill import losses
    from snnkd_jax.distill import objective as distill
    from snnkd_jax.dynamics import encoders, neurons, surrogate
    from snnkd_jax.errors import InputError
    from snnkd_jax.inference.trained import Trained, load

__all__ = ["InputError", "Trained", "distill", "encoders", "load", "losses", "models", "neurons", "surrogate"]
__version__ = "0.1.0"

_MODULES = {"distill": "distill.objective", "losses": "distill.losses"} | {
    name: f"dynamics.{name}" for name in ("encoders", "neurons", "surrogate")
}
_MEMBERS = {"InputError": "errors", "Trained": "inference.trained", "load": "inference.trained"}


def __getattr__(name: str) -> Any:
    """Imports what is public when it is first used."""
    if name in _MEMBERS:
        return getattr(importlib.import_module(f"snnkd_jax.{_MEMBERS[name]}"), name)
    if name in _MODULES or name == "models":
        return importlib.import_module(f"snnkd_jax.{_MODULES.get(name, name)}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
