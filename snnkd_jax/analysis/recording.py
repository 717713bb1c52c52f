"""What every layer of neurons does at every time step: its spikes and its membrane potentials."""

import functools
import operator
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.dynamics.integration import State, initial_state, integrate
from snnkd_jax.errors import InputError
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.network import Network, Variables
from snnkd_jax.models.recorder import Call


def record(network: Network, variables: Variables, images: Array) -> tuple[Array, OrderedDict[str, Any]]:
    """Runs a spiking network, and records the first image in it; arguments as in `Network.apply`.

    Returns logits `[B, T, K]`, and for each layer of neurons, by its name and in the order in which an image passes
    them, the first image's spikes and the potentials after them, `[T, ...]` each. Raises `InputError` for an ANN.
    """
    if network.num_steps is None:
        raise InputError("an ANN has no time steps")
    logits, calls = network.recorded(variables, images, Spike)
    # Of a plain dict, JAX would sort the names.
    return logits, OrderedDict((call.name, (call.output[0], _potentials(call, variables))) for call in calls)


def _potentials(call: Call, variables: Variables) -> Array:
    """The first image's potentials after each step, `[T, ...]`: those of the same neurons with the same current."""
    neuron = call.module.neuron  # pyright: ignore[reportAttributeAccessIssue]
    own = functools.reduce(operator.getitem, call.module.path, variables["params"]) if neuron.parameters else {}
    current = jnp.broadcast_to(call.inputs[:1], call.output[:1].shape)

    def step(state: State, x: Array) -> tuple[State, Array]:
        spikes, state = integrate(neuron, x[:, None], state, own)
        return state, potential(state, spikes[:, 0])[0]

    return jax.lax.scan(step, initial_state(neuron, current), current.swapaxes(0, 1))[1]


def potential(state: State, spikes: Array) -> Array:
    """The membrane potential in a state of neurons that have these spikes, `[B, ...]`.

    It is the state itself if that is one array, else its entry or attribute `v`, else its first array; 0 for neurons
    without a state. Of axes behind those of the neurons, the first place.
    """
    v = state.get("v", state) if isinstance(state, dict) else getattr(state, "v", state)
    v = next(iter(jax.tree.leaves(v)), jnp.zeros_like(spikes, jnp.float32))
    return v.reshape(*spikes.shape, -1)[..., 0]
