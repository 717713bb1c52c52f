"""What every layer of neurons does at every time step: its spikes and its membrane potentials."""

import functools
import operator
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from snnkd_jax.dynamics.neurons import State
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.network import Network, Variables
from snnkd_jax.models.recorder import recorded


def record(network: Network, variables: Variables, images: Array) -> tuple[Array, OrderedDict[str, Any]]:
    """Runs a spiking network one step at a time, and records the first image in it.

    Args:
        network: makes its `num_steps` T.
        variables: as from `Network.init`.
        images: normalised, `[B, H, W, C]`, or one frame per step, `[B, T, H, W, C]`.

    Returns:
        Logits `[B, T, K]`, and for each layer of neurons, by its name and in the order in which an image passes them,
        the first image's spikes and the potentials after them, `[T, ...]` each.

    Raises:
        InputError: for an ordinary network.
    """
    one = network.with_steps(1)

    def step(state: Variables, t: ArrayLike) -> tuple[Variables, Any]:
        frame = images[:, None] if images.ndim == 4 else images[:, t][:, None]
        apply = functools.partial(one.body.apply, variables | state, frame, train=False)
        outputs, calls, updates = recorded(apply, lambda module: isinstance(module, Spike), ("state",))
        logits, _ = one.checked(outputs, frame)
        layers = OrderedDict()  # of a plain dict, JAX would sort the names
        for call in calls:
            after = functools.reduce(operator.getitem, call.module.path, updates["state"])["neurons"]
            layers[call.name] = call.output[0, 0], potential(after, call.output[:, 0])[0]
        return {"state": updates["state"]}, (logits[:, 0].astype(jnp.float32), layers)

    state, first = step({}, 0)  # from a state that only the neurons know
    _, others = jax.lax.scan(step, state, jnp.arange(1, network.num_steps or 1))
    logits, layers = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, others)
    return logits.swapaxes(0, 1), layers


def potential(state: State, spikes: Array) -> Array:
    """The membrane potential in a state of neurons that have these spikes, `[B, ...]`.

    It is the state itself if that is one array, else its entry or attribute `v`, else its first array; 0 for neurons
    without a state. Of axes behind those of the neurons, the first place.
    """
    v = state.get("v", state) if isinstance(state, dict) else getattr(state, "v", state)
    v = next(iter(jax.tree.leaves(v)), jnp.zeros_like(spikes, jnp.float32))
    return v.reshape(*spikes.shape, -1)[..., 0]
