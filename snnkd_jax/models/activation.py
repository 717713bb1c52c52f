"""The activation that an architecture takes as an argument: ReLU makes it an ANN, a neuron a spiking network.

ANNs carry arrays `[B, H, W, C]`, spiking networks `[B, T, H, W, C]`; convolution, norm and pooling treat all axes
before `H` alike, so that one architecture serves both. A time axis of length 1 is a signal constant in time: a static
image enters as `[B, 1, H, W, C]`, its first convolution and norm are computed once, and the first neurons broadcast
the result to T steps.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from snnkd_jax.dynamics.integration import (
    Neuron,
    Parameters,
    check_neuron,
    initial_state,
    integrate,
    integrate_with_slopes,
)
from snnkd_jax.dynamics.neurons import ILIF, most_spikes
from snnkd_jax.errors import InputError
from snnkd_jax.models.stages import is_collected

Activation = Callable[..., nn.Module]
"""The constructor of an activation layer: `activation(name="act1")(x)`."""


class ReLU(nn.Module):
    """max(0, x), of any shape."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The rectified `x`."""
        return nn.relu(x)


class QCFS(nn.Module):
    """Quantised clip-floor-shift, of any shape: a ReLU that an integrate-and-fire neuron approximates in few steps.

        y = theta / L floor(L clip(x / theta, 0, 1) + 1/2)

    L is `levels`, theta a learnable threshold; floor has the derivative 1. The firing rate of an integrate-and-fire
    neuron of threshold theta that starts from theta / 2 is y / theta after L steps of the constant current x.

    Theta starts at 8, as in the authors' code, where weight decay shrinks it over hundreds of epochs. Here it has none,
    and in a schedule of tens of epochs it stays near 7, so that with L = 8 a level is 0.9 wide.

    Source: Bu et al., ICLR 2022, arXiv 2303.04347, and its code (putshua/ANN_SNN_QCFS).
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

    `num_steps=None` takes as many steps as the input has. The neuron's learnable parameters are parameters of the
    layer, under their own names.

    Written to the collections that are mutable: "firing_rates", spikes per neuron and step `[B]`, where a step of an
    `ILIF` counts as its D sub-steps; "state", the state after the last step, from which the next call starts;
    "initial_state", that before the first step; and "rates", for `snnkd_jax.models.rate`.
    """

    neuron: Neuron
    num_steps: int | None = None

    @nn.compact
    def __call__(self, current: Array) -> Array:
        """The spikes, of the dtype of `current`; raises `InputError` for a time axis that is neither 1 nor T."""
        current = at_every_step(current, current.shape[1] if self.num_steps is None else self.num_steps)
        parameters = neuron_parameters(self)
        if is_collected(self, "rates"):
            spikes, kappa, slopes = integrate_with_slopes(self.neuron, current, parameters)
            self.put_variable("rates", "rate", spikes.mean(axis=1, keepdims=True))
            self.put_variable("rates", "kappa", kappa[:, None])
            self.put_variable("rates", "slopes", {name: slope[:, None] for name, slope in slopes.items()})
        else:
            spikes = integrate_from_state(self, self.neuron, current, parameters)
        if is_collected(self, "firing_rates"):
            rate = spikes.astype(jnp.float32).mean(axis=tuple(range(1, spikes.ndim)))
            self.put_variable("firing_rates", "rate", rate / most_spikes(self.neuron))
        return spikes


class IntegerSpike(nn.Module):
    """A layer of integer neurons whose spikes have the height of its threshold, as levels of `QCFS` have.

        y = theta / D s,    s the spikes of the neurons, 0 to D, for the current v_threshold x / (theta / D)

    From rest, y is QCFS of x with L = D. theta is `D v_threshold`, or that of the `QCFS` layer whose network this one
    is initialised from (`network.with_weights_of`); it is kept in training, as the norm before the neurons learns the
    scale.
    """

    neuron: ILIF
    num_steps: int | None = None

    @nn.compact
    def __call__(self, current: Array) -> Array:
        """`[B, T, ...]`, or `[B, 1, ...]` if constant, to `[B, num_steps, ...]`."""
        levels, v_threshold = self.neuron.levels, self.neuron.v_threshold
        theta = self.param("qcfs_threshold", nn.initializers.constant(levels * v_threshold), (), jnp.float32)
        height = lax.stop_gradient(theta) / levels
        return height.astype(current.dtype) * self.spikes(current * (v_threshold / height).astype(current.dtype))

    @nn.nowrap
    def spikes(self, current: Array) -> Array:
        """The numbers of spikes."""
        return Spike(self.neuron, self.num_steps, name="spike")(current)


def at_every_step(current: Array, num_steps: int) -> Array:
    """`[B, num_steps, ...]` of that or of `[B, 1, ...]`; raises `InputError` for another number of steps."""
    if current.shape[1] not in (1, num_steps):
        raise InputError(f"num_steps={num_steps}, but the input has {current.shape[1]} steps")
    return jnp.broadcast_to(current, (current.shape[0], num_steps, *current.shape[2:]))


def integrate_from_state(module: nn.Module, neuron: Neuron, current: Array, parameters: Parameters) -> Array:
    """The outputs of `integrate` from the module's "state", if it has one; writes "state" and "initial_state"."""
    state = initial_state(neuron, current)
    if is_collected(module, "initial_state"):
        module.put_variable("initial_state", "neurons", state)
    leaves = jax.tree.leaves(module.get_variable("state", "neurons", state))  # Flax may have frozen dictionaries
    outputs, state = integrate(neuron, current, jax.tree.structure(state).unflatten(leaves), parameters)
    if is_collected(module, "state"):
        module.put_variable("state", "neurons", state)
    return outputs


def neuron_parameters(module: nn.Module) -> dict[str, Array]:
    """The parameters of `module.neuron`, float32, created in `module`; raises `InputError` if it is not a neuron."""
    neuron: Neuron = module.neuron  # pyright: ignore[reportAttributeAccessIssue]
    check_neuron(neuron)
    return {
        name: module.param(name, lambda _, value=value: jnp.asarray(value, jnp.float32))
        for name, value in neuron.parameters.items()
    }
