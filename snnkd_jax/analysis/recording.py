"""Spikes and membrane potentials of every layer of neurons at every time step."""

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
    """Applies a spiking network, with the arguments of `Network.apply`, and records its layers for the first image.

    Returns logits `[B, T, K]`, and by name, in the order of computation, each layer's spikes and the potentials after
    them, `[T, ...]` each. Raises `InputError` for an ANN.
    """
    if network.num_steps is None:
        raise InputError("an ANN has no time steps")
    logits, calls = network.capture_calls(variables, images, Spike)
    # JAX would sort the keys of a plain dict.
    return logits, OrderedDict((call.name, (call.output[0], _potentials(call, variables))) for call in calls)


def _potentials(call: Call, variables: Variables) -> Array:
    """The first image's potentials after each step, `[T, ...]`, by integrating the layer's input current again."""
    neuron = call.module.neuron  # pyright: ignore[reportAttributeAccessIssue]
    own = functools.reduce(operator.getitem, call.module.path, variables["params"]) if neuron.parameters else {}
    current = jnp.broadcast_to(call.inputs[:1], call.output[:1].shape)

    def step(state: State, x: Array) -> tuple[State, Array]:
        spikes, state = integrate(neuron, x[:, None], state, own)
        return state, potential(state, spikes[:, 0])[0]

    return jax.lax.scan(step, initial_state(neuron, current), current.swapaxes(0, 1))[1]


def potential(state: State, spikes: Array) -> Array:
    """The membrane potential in the state of neurons with these spikes, `[B, ...]`.

    It is the state itself if that is one array, else its entry or attribute `v`, else its first array (the first
    element of each neuron's), or 0 for neurons without a state.
    """
    v = state.get("v", state) if isinstance(state, dict) else getattr(state, "v", state)
    v = next(iter(jax.tree.leaves(v)), jnp.zeros_like(spikes, jnp.float32))
    return v.reshape(*spikes.shape, -1)[..., 0]
