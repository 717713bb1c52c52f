"""Train spiking neural networks by knowledge distillation from ANNs, in JAX.

Names are imported on first use: `import snnkd_jax as kd` takes no time and has no side effects.
"""

import importlib
from typing import TYPE_CHECKING, Any

from snnkd_jax.errors import InputError

if TYPE_CHECKING:
    from snnkd_jax import analysis, data, interop, models
    from snnkd_jax.data import Augmentation, EventAugmentation, Normalisation
    from snnkd_jax.distill import losses
    from snnkd_jax.distill.callback import callback_teacher
    from snnkd_jax.distill.connector import Connector
    from snnkd_jax.distill.objective import Objective, Term
    from snnkd_jax.distill.presets import PRESETS
    from snnkd_jax.distill.teacher import Teacher, flax_teacher
    from snnkd_jax.dynamics import encoders, neurons, surrogate
    from snnkd_jax.dynamics.neurons import IF, ILIF, LIF, PLIF
    from snnkd_jax.experiment import run
    from snnkd_jax.fitting import fit
    from snnkd_jax.inference.convert import convert
    from snnkd_jax.inference.trained import Trained, load
    from snnkd_jax.models import Frames, Network, Spike, build
    from snnkd_jax.runs.config import Config, default_config

__version__ = "0.1.0"

_MODULES = {name: f"dynamics.{name}" for name in ("encoders", "neurons", "surrogate")} | {"losses": "distill.losses"}
_MODULES |= {name: name for name in ("analysis", "data", "interop", "models")}
_HOMES = {
    "data": ("Augmentation", "EventAugmentation", "Normalisation"),
    "distill.callback": ("callback_teacher",),
    "distill.connector": ("Connector",),
    "distill.objective": ("Objective", "Term"),
    "distill.presets": ("PRESETS",),
    "distill.teacher": ("Teacher", "flax_teacher"),
    "dynamics.neurons": ("IF", "ILIF", "LIF", "PLIF"),
    "experiment": ("run",),
    "fitting": ("fit",),
    "inference.convert": ("convert",),
    "inference.trained": ("Trained", "load"),
    "models": ("Frames", "Network", "Spike", "build"),
    "runs.config": ("Config", "default_config"),
}
_HOME = _MODULES | {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["InputError", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
