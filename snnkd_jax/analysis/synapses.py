"""Records what a network's synaptic layers read.

A synaptic layer is a convolution or a dense layer: the weights between neurons. The arrays are those of the trace, so
whatever is made of them is made inside the same transformation.
"""

import dataclasses
import functools
import operator
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.errors import InputError
from snnkd_jax.models.activation import QCFS, ReLU, Spike
from snnkd_jax.models.network import Network, Variables

Kind = Literal["conv", "dense"]


@dataclasses.dataclass(frozen=True)
class Synapses:
    """One call of a synaptic layer.

    `name` is its place in the parameter tree ("block1_1/conv1"), `inputs` is `[..., H, W, C]` or `[..., C]`, `kernel`
    the weights. `source` is the activation layer that was called last before it, None if there was none.
    """

    name: str
    kind: Kind
    inputs: Array
    kernel: Array
    source: str | None
    layer: nn.Module

    def fan_out(self, connected: Array, shape: tuple[int, ...]) -> Array:
        """How many connections leave each input of one image and step, int32 of that `shape`, `[H, W, C]` or `[C]`.

        The derivative of the sum of a linear layer's outputs with respect to an input is the sum of the weights that
        it meets; here the weights are `connected`, 1 for a connection and 0 for none, of the shape of the kernel. What
        would fall on the padding meets none. Exact up to 2^24 connections of one input.
        """

        def outputs(x: Array) -> Array:
            return jnp.sum(self.layer.apply({"params": {"kernel": connected}}, x))  # pyright: ignore[reportArgumentType]

        return jax.grad(outputs)(jnp.zeros(shape, jnp.float32)).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Recording:
    """The calls of the synaptic layers in their order, and the outputs of the activation layers by name."""

    synapses: list[Synapses] = dataclasses.field(default_factory=list)
    activations: dict[str, Array] = dataclasses.field(default_factory=dict)


def recorded_synapses(network: Network, variables: Variables, images: Array) -> Recording:
    """Applies a network in evaluation, and records it; arguments as in `Network.apply`."""
    recording = Recording()
    for call in network.capture_calls(variables, images, ReLU, QCFS, Spike, nn.Conv, nn.Dense)[1]:
        module = call.module
        if not isinstance(module, nn.Conv | nn.Dense):
            recording.activations[call.name] = call.output
            continue
        axes = (4 if isinstance(module, nn.Conv) else 2) + (network.num_steps is not None)
        if call.inputs.ndim < axes:
            raise InputError(
                f"{call.name} reads {call.inputs.shape}, one time step at a call; operations are counted of layers "
                "that read all steps, [B, T, ...], at once"
            )
        parameters: Any = functools.reduce(operator.getitem, module.path, variables["params"])
        recording.synapses.append(
            Synapses(
                call.name.removesuffix("/conv"),  # the name inside `layers.Conv`, the same for all
                "conv" if isinstance(module, nn.Conv) else "dense",
                call.inputs,
                parameters["kernel"],
                next(reversed(recording.activations), None),
                module.clone(parent=None, use_bias=False, dtype=jnp.float32),
            )
        )
    return recording
