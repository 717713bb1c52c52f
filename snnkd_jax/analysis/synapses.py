"""Inputs of a network's synaptic layers, its convolutions and dense layers.

The arrays belong to the trace of the network, so use them inside the same transformation.
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
class SynapticCall:
    """One call of a synaptic layer on `inputs`, `[..., H, W, C]` or `[..., C]`.

    `name` is its path in the parameter tree ("block1_1/conv1"), `source` the last activation layer called before it, if
    any.
    """

    name: str
    kind: Kind
    inputs: Array
    kernel: Array
    source: str | None
    layer: nn.Module

    def fan_out(self, connected: Array, shape: tuple[int, ...]) -> Array:
        """Number of connections from each input of one image and step, int32 of that `shape`, `[H, W, C]` or `[C]`.

        It is the derivative of the sum of the layer's outputs with respect to the input, with `connected`, 1 or 0 in
        the shape of the kernel, as weights. Exact up to 2^24 connections per input.
        """

        def outputs(x: Array) -> Array:
            return jnp.sum(self.layer.apply({"params": {"kernel": connected}}, x))  # pyright: ignore[reportArgumentType]

        return jax.grad(outputs)(jnp.zeros(shape, jnp.float32)).astype(jnp.int32)


def synaptic_calls(
    network: Network, variables: Variables, images: Array
) -> tuple[list[SynapticCall], dict[str, Array]]:
    """The calls of a network's synaptic layers in order, and the outputs of its activation layers by name.

    Arguments are those of `Network.apply`.
    """
    synaptic: list[SynapticCall] = []
    activations: dict[str, Array] = {}
    for call in network.recorded(variables, images, ReLU, QCFS, Spike, nn.Conv, nn.Dense)[1]:
        module = call.module
        if not isinstance(module, nn.Conv | nn.Dense):
            activations[call.name] = call.output
            continue
        axes = (4 if isinstance(module, nn.Conv) else 2) + (network.num_steps is not None)
        if call.inputs.ndim < axes:
            raise InputError(
                f"{call.name} reads {call.inputs.shape}, one time step per call; operations can be counted only for "
                "layers that read all steps at once, [B, T, ...]"
            )
        parameters: Any = functools.reduce(operator.getitem, module.path, variables["params"])
        synaptic.append(
            SynapticCall(
                call.name.removesuffix("/conv"),  # the name inside `layers.Conv`, the same for all
                "conv" if isinstance(module, nn.Conv) else "dense",
                call.inputs,
                parameters["kernel"],
                next(reversed(activations), None),
                module.clone(parent=None, use_bias=False, dtype=jnp.float32),
            )
        )
    return synaptic, activations
