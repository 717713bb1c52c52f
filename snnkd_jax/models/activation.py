"""The activation that is injected into a body: ReLU makes it an ordinary network, a neuron a spiking one.

Ordinary networks carry arrays `[B, H, W, C]`, spiking ones `[B, T, H, W, C]`; convolution, norm and pooling treat all
axes before `H` alike, so one body serves both. A time axis of length 1 stands for a signal that is constant in time:
a static image enters as `[B, 1, H, W, C]`, its first convolution and norm are computed once, and the first neuron
makes T steps of it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.dynamics.neurons import (
    ATAN,
    check_potentials,
    check_tau,
    integrate,
    integrate_with_slopes,
    plif_parameter,
    plif_tau,
)
from snnkd_jax.dynamics.surrogate import Surrogate
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.models.stages import records

Kind = Literal["lif", "plif", "if"]

Activation = Callable[..., nn.Module]
"""Makes the module of one activation layer: `activation(name="act1")(x)`."""


@dataclasses.dataclass(frozen=True)
class Neuron:
    """The constants of a spiking network's neurons; see `snnkd_jax.dynamics.neurons` for the equations.

    `tau` is not used by the kind "if" and is the initial value of the kind "plif". Raises `InputError` for constants
    that the equations do not allow.
    """

    kind: Kind = "lif"
    tau: float = 2.0
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    detach_reset: bool = False
    surrogate: Surrogate = ATAN

    def __post_init__(self):
        check_choice("neuron", self.kind, get_args(Kind))
        if self.kind == "plif":
            plif_parameter(self.tau)
        check_tau(self.tau)
        check_potentials(self.v_threshold, self.v_rest)

    @property
    def v_rest(self) -> float:
        """The resting potential."""
        return 0.0 if self.v_reset is None else self.v_reset

    def tau_of(self, module: nn.Module) -> float | Array:
        """The time constant in steps; the kind "plif" keeps its parameter `w` in `module`."""
        if self.kind == "plif":
            return plif_tau(module.param("w", nn.initializers.constant(plif_parameter(self.tau)), (), jnp.float32))
        return math.inf if self.kind == "if" else self.tau

    def constants(self) -> dict[str, Any]:
        """The arguments of `neurons.integrate` other than tau."""
        return {
            "decay_input": self.decay_input and self.kind != "if",
            "v_threshold": self.v_threshold,
            "v_reset": self.v_reset,
            "detach_reset": self.detach_reset,
            "surrogate": self.surrogate,
        }


class ReLU(nn.Module):
    """max(0, x), of any shape."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The rectified `x`."""
        return nn.relu(x)


class QCFS(nn.Module):
    """Quantised clip-floor-shift, of any shape: a ReLU that an integrate-and-fire neuron can follow in few steps.

        y = theta / L floor(L clip(x / theta, 0, 1) + 1/2)

    L is `levels`, theta a learnable threshold; floor has the derivative 1. The firing rate of an integrate-and-fire
    neuron of threshold theta that starts from theta / 2 is y / theta after L steps of the constant current x.

    Source: Bu et al., ICLR 2022, arXiv 2303.04347, theta = 8 at first.
    """

    levels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The quantised activation of `x`, of its dtype."""
        theta = self.param("threshold", nn.initializers.constant(8.0), (), jnp.float32).astype(x.dtype)
        return theta / self.levels * _floor(self.levels * jnp.clip(x / theta, 0, 1) + 0.5)


@jax.custom_jvp
def _floor(x: Array) -> Array:
    """The floor, with the derivative 1."""
    return jnp.floor(x)


_floor.defjvp(lambda primals, tangents: (_floor(*primals), *tangents))


class Spike(nn.Module):
    """A layer of neurons: currents `[B, T, ...]`, or `[B, 1, ...]` if constant, to spikes `[B, num_steps, ...]`.

    Records the firing rate of each example, `[B]`, spikes per neuron and step, in the collection "firing_rates". If
    they are mutable, "potentials" takes up the potential after the last step, `[B, ...]`, from which the next call
    starts, and "rates" what `snnkd_jax.models.rate` needs of the layer. The first call starts from `v_init`, by default
    from rest; "rest" takes up that potential.
    """

    neuron: Neuron
    num_steps: int
    v_init: float | None = None

    @nn.compact
    def __call__(self, current: Array) -> Array:
        """The spikes, of the dtype of `current`; raises `InputError` for a time axis that is neither 1 nor T."""
        if current.shape[1] not in (1, self.num_steps):
            raise InputError(f"num_steps={self.num_steps}, but the input has {current.shape[1]} steps")
        current = jnp.broadcast_to(current, (current.shape[0], self.num_steps, *current.shape[2:]))
        tau = self.neuron.tau_of(self)
        if records(self, "rates"):
            spikes, kappa, kappa_tau = integrate_with_slopes(current, tau=tau, **self.neuron.constants())
            self.put_variable("rates", "rate", spikes.mean(axis=1, keepdims=True))
            self.put_variable("rates", "kappa", kappa[:, None])
            if kappa_tau is not None:
                self.put_variable("rates", "kappa_tau", kappa_tau[:, None])
        else:
            v_init = self.neuron.v_rest if self.v_init is None else self.v_init
            v = jnp.full_like(current[:, 0], v_init, jnp.promote_types(current.dtype, jnp.float32))
            if records(self, "rest"):
                self.put_variable("rest", "v", v)
            v = self.get_variable("potentials", "v", v)
            spikes, v = integrate(current, v, tau=tau, **self.neuron.constants())
            if records(self, "potentials"):
                self.put_variable("potentials", "v", v)
        if records(self, "firing_rates"):
            rate = spikes.astype(jnp.float32).mean(axis=tuple(range(1, spikes.ndim)))
            self.put_variable("firing_rates", "rate", rate)
        return spikes
