"""Counts of non-zero inputs and connections of a network's synaptic layers, its convolutions and dense layers."""

import functools
import operator
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.dynamics.neurons import most_spikes
from snnkd_jax.errors import InputError
from snnkd_jax.models.activation import QCFS, ReLU, Spike
from snnkd_jax.models.network import Network, Variables


def synaptic_counts(
    network: Network, variables: Variables, images: Array, events: bool = False
) -> tuple[dict[str, Callable[[], dict[str, Any]]], dict[str, Callable[[], dict[str, Any]]]]:
    """Applies a network, with the arguments of `Network.apply`, and counts what its layers read and return.

    Returns, in the order of computation, a function for each synaptic layer and each activation layer that returns its
    counts. Counts are per input or output of one image and step, int32; sub-steps of an expanded network are steps.
    With `events`, what the first layer of a spiking network reads counts as often as it says, and as ones.
    """
    spiking = network.num_steps is not None
    axes = (0, 1) if spiking else (0,)
    pooled = {synapse.path: synapse.pooled for synapse in network.synapses}
    layers, activations = OrderedDict(), OrderedDict()  # JAX would sort the keys of a plain dict
    for call in network.capture_calls(variables, images, ReLU, QCFS, Spike, nn.Conv, nn.Dense)[1]:
        module, x, name = call.module, call.inputs, call.name.removesuffix("/conv")  # of `layers.Conv`
        if not isinstance(module, nn.Conv | nn.Dense):
            activations[name] = _outputs(module, call.output, axes, len(call.output) // len(images), bool(pooled))
            continue
        positions = x.shape[-3] * x.shape[-2] if pooled.get(module.path) else 1
        kind = "conv" if isinstance(module, nn.Conv) else "dense"
        if x.ndim < (4 if kind == "conv" else 2) + spiking:
            raise InputError(
                f"{call.name} reads {x.shape}, one time step per call; operations can be counted only for layers that "
                "read all steps at once, [B, T, ...]"
            )
        parameters: Any = functools.reduce(operator.getitem, module.path, variables["params"])
        connected = (parameters["kernel"] != 0).astype(jnp.float32)
        if events and spiking and not layers:
            times, magnitude = jnp.round(x).astype(jnp.int32), (x > 0.5).astype(jnp.float32)
        else:
            times, magnitude = x != 0, jnp.abs(x).astype(jnp.float32)
        fan_out = functools.partial(_fan_out, module, shape=x.shape[len(axes) :])
        static = {"name": name, "kind": kind, "source": next(reversed(activations), None), "weights": connected.size}
        layers[name] = jax.tree_util.Partial(
            functools.partial(
                dict, steps=x.shape[1] if spiking else len(x) // len(images), positions=positions, **static
            ),
            nonzero_weights=jnp.count_nonzero(connected),
            nonzero=jnp.sum(times, axes, dtype=jnp.int32),
            fan_out=fan_out(connected),
            dense_fan_out=fan_out(jnp.ones_like(connected)),
            least=jnp.min(magnitude, where=magnitude != 0, initial=jnp.inf),
            greatest=jnp.max(magnitude),
        )
    return layers, activations


def _outputs(
    module: nn.Module, output: Array, axes: tuple[int, ...], frames: int, expanded: bool
) -> Callable[[], dict[str, Any]]:
    """Sub-steps, non-zero outputs and spikes of an activation layer; without an expansion, a count is one output.

    An ANN that reads `frames` alone has as many sub-steps.
    """
    levels = most_spikes(module.neuron) if isinstance(module, Spike) else 1
    nonzero = jnp.sum(output != 0, axes, dtype=jnp.int32)
    spikes = nonzero if levels == 1 else jnp.sum(output, axes, dtype=jnp.int32)
    substeps = frames * (levels if expanded else 1)
    return jax.tree_util.Partial(
        functools.partial(dict, substeps=substeps), nonzero=spikes if expanded else nonzero, spikes=spikes
    )


def _fan_out(layer: nn.Module, connected: Array, shape: tuple[int, ...]) -> Array:
    """Number of connections from each input, `[H, W, C]` or `[C]`: exact up to 2^24.

    It is the derivative of the sum of the layer's outputs with respect to the input, with `connected`, 1 or 0 in the
    shape of the kernel, as weights.
    """
    layer = layer.clone(parent=None, use_bias=False, dtype=jnp.float32)  # pyright: ignore[reportCallIssue]
    gradient = jax.grad(lambda x: jnp.sum(layer.apply({"params": {"kernel": connected}}, x)))  # pyright: ignore[reportArgumentType]
    return gradient(jnp.zeros(shape, jnp.float32)).astype(jnp.int32)
