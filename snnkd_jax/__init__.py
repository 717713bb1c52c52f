"""Train spiking neural networks by knowledge distillation from ordinary networks, in JAX."""

from snnkd_jax import models
from snnkd_jax.distill import losses
from snnkd_jax.distill import objective as distill
from snnkd_jax.dynamics import encoders, neurons, surrogate
from snnkd_jax.errors import InputError
from snnkd_jax.inference.trained import Trained, load

__all__ = ["InputError", "Trained", "distill", "encoders", "load", "losses", "models", "neurons", "surrogate"]
__version__ = "0.1.0"
