"""What every layer of neurons does at every time step: its spikes and its membrane potentials."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from snnkd_jax.models.activation import Spike
from snnkd_jax.models.network import Network, Variables


def layer_names(network: Network, variables: Variables, images: Array) -> list[str]:
    """The layers of neurons in the order in which an image `[B, H, W, C]` passes them, named as in "firing_rates"."""
    names: list[str] = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, Spike) and context.method_name == "__call__":
            names.append("/".join(context.module.path))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(network.apply, variables, images)
    return names


def record(network: Network, variables: Variables, images: Array) -> tuple[Array, list[tuple[Array, Array]]]:
    """Runs a spiking network from rest, one step at a time, and records the first image in it.

    Args:
        network: makes its `num_steps` T.
        variables: as from `Network.init`.
        images: normalised and static, `[B, H, W, C]`.

    Returns:
        Logits `[B, T, K]`, and for each of `layer_names` the first image's spikes and the potentials after them,
        `[T, ...]` each.

    Raises:
        InputError: for an ordinary network.
    """
    body: Any = network.with_steps(1).body
    names = layer_names(network, variables, images)

    def step(potentials: Variables, _: None) -> tuple[Variables, Any]:
        (logits, _), updates = body.apply(
            variables | potentials,
            images[:, None],
            train=False,
            capture_intermediates=lambda module, _: isinstance(module, Spike),
            mutable=["potentials", "intermediates"],
        )
        spikes: dict[str, Any] = traverse_util.flatten_dict(updates["intermediates"], sep="/")
        v: dict[str, Any] = traverse_util.flatten_dict(updates["potentials"], sep="/")
        layers = [(spikes[f"{name}/__call__"][0][0, 0], v[f"{name}/v"][0]) for name in names]
        return {"potentials": updates["potentials"]}, (logits[:, 0].astype(jnp.float32), layers)

    potentials, first = step({}, None)  # from rest, which only the neurons know
    _, others = jax.lax.scan(step, potentials, length=(network.num_steps or 1) - 1)
    logits, layers = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, others)
    return logits.swapaxes(0, 1), layers
