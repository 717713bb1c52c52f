"""Train spiking neural networks by knowledge distillation from ordinary networks, in JAX."""

from snnkd_jax import distill, encoders, losses, models, neurons, surrogate
from snnkd_jax.errors import InputError
from snnkd_jax.trained import Trained, load

__all__ = ["InputError", "Trained", "distill", "encoders", "load", "losses", "models", "neurons", "surrogate"]
__version__ = "0.1.0"
