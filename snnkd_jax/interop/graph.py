"""Spiking networks as graphs of layers, and networks built from such graphs.

Shapes are those of one image at one time step: `(H, W, C)` of a map or `(N,)` of a vector.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.dynamics.neurons import IF, LIF
from snnkd_jax.errors import InputError
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.layers import convolve
from snnkd_jax.models.network import Network, Variables
from snnkd_jax.models.stages import Features, stage_features

Shape = tuple[int, ...]
Pair = tuple[int, int]
"""Along H and along W."""

INPUT, OUTPUT = "input", "output"
"""The names of the image and of the logits, which no node may have."""


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution, float32 `kernel` `[kh, kw, C_in, C_out]` and `bias` `[C_out]`, with zero padding on each side."""

    kernel: NDArray
    bias: NDArray
    strides: Pair = (1, 1)
    padding: Pair = (0, 0)


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer, float32 `kernel` `[N_in, N_out]` and `bias` `[N_out]`."""

    kernel: NDArray
    bias: NDArray


@dataclasses.dataclass(frozen=True)
class Pool:
    """Average pooling; `padding` on each side counts as zeros."""

    window: Pair
    strides: Pair
    padding: Pair = (0, 0)

    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., H', W', C]`."""
        h, w = self.padding  # not by Flax, which pads maps with one leading axis only
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(h, h), (w, w), (0, 0)])
        return nn.avg_pool(x, self.window, self.strides)


@dataclasses.dataclass(frozen=True)
class Flatten:
    """A map as a vector in the order C, H, W, as in NIR and PyTorch."""

    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., C H W]`."""
        return jnp.moveaxis(x, -1, -3).reshape(*x.shape[:-3], -1)


Layer = Convolution | Dense | Pool | Flatten | LIF | IF
"""Neurons of a layer all have the same constants, and start from rest."""


def _output_shape(layer: Layer, shape: Shape) -> Shape:
    match layer:
        case Convolution() | Dense():
            kernel, bias = layer.kernel.shape, layer.bias.shape
            if len(shape) != len(kernel) - 1 or shape[-1] != kernel[-2] or bias != kernel[-1:]:
                raise InputError(f"kernel {kernel} and bias {bias} cannot take {shape}")
            return bias if isinstance(layer, Dense) else (*_windows(layer, kernel[:2], shape), *bias)
        case Pool() | Flatten():
            if len(shape) != 3:
                raise InputError(f"average pooling and flattening take maps (H, W, C), not {shape}")
            if isinstance(layer, Flatten):
                return (math.prod(shape),)
            return *_windows(layer, layer.window, shape), shape[2]
    return shape


def _windows(layer: Convolution | Pool, window: Shape, shape: Shape) -> Pair:
    """The number of windows along H and along W."""
    sizes = zip(shape[:2], window, layer.strides, layer.padding, strict=True)
    h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)
    if min(h, w) < 1:
        raise InputError(f"windows of {window} do not fit into {shape}")
    return h, w


@dataclasses.dataclass(frozen=True)
class Node:
    """A layer, the names of the nodes whose outputs are summed to its input, and the shape of its output."""

    layer: Layer
    inputs: tuple[str, ...]
    shape: Shape

    @classmethod
    def of(cls, layer: Layer, inputs: tuple[str, ...], shape: Shape) -> "Node":
        """The node of a layer with an input of this shape; raises `InputError` if it does not fit."""
        return cls(layer, inputs, _output_shape(layer, shape))


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes by name, each after its inputs; `outputs` are the nodes whose outputs are summed to the logits."""

    image_shape: tuple[int, int, int]
    nodes: dict[str, Node]
    outputs: tuple[str, ...]

    def shape(self, name: str) -> Shape:
        """The shape of the output of a node, or of the image."""
        return self.image_shape if name == INPUT else self.nodes[name].shape


def to_network(graph: Graph, num_steps: int) -> tuple[Network, Variables]:
    """The graph as a network of `num_steps` time steps, with its variables.

    Raises `InputError` if a node has the name of an attribute of a Flax module.
    """
    layers, params = [], {}
    for name, node in graph.nodes.items():
        if hasattr(GraphModule, name) or name in GraphModule.__dataclass_fields__:
            raise InputError(f"node {name!r} has the name of an attribute of a Flax module; give it another")
        layer = make = node.layer
        if isinstance(layer, Convolution):
            *window, _, features = layer.kernel.shape
            padding = [(p, p) for p in layer.padding]
            make = functools.partial(nn.Conv, features, window, layer.strides, padding, conv_general_dilated=convolve)
        elif isinstance(layer, Dense):
            make = functools.partial(nn.Dense, layer.kernel.shape[1])
        elif isinstance(layer, Pool | Flatten):
            make = functools.partial(Weightless, layer)
        if isinstance(layer, Convolution | Dense):
            params[name] = {"kernel": jnp.asarray(layer.kernel), "bias": jnp.asarray(layer.bias)}
        layers.append((name, make, node.inputs))
    module = GraphModule(tuple(layers), graph.outputs, functools.partial(Spike, num_steps=num_steps))
    return Network(module, num_steps), {"params": params, "batch_stats": {}}


class GraphModule(nn.Module):
    """The module of `to_network`; `layers` are each node's name, its neuron or its module's constructor, its inputs."""

    layers: tuple[tuple[str, Any, tuple[str, ...]], ...]
    outputs: tuple[str, ...]
    activation: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, T, H, W, C]`, T = 1 if they are constant, to logits `[B, T, K]`; a graph has no stages."""
        del train
        values = {INPUT: x}
        for name, make, inputs in self.layers:
            make = functools.partial(self.activation, make) if isinstance(make, LIF | IF) else make
            values[name] = make(name=name)(_sum(values, inputs))
        return _sum(values, self.outputs), stage_features(())


class Weightless(nn.Module):
    """A layer without parameters as a module."""

    layer: Pool | Flatten

    def __call__(self, x: Array) -> Array:
        """The layer's output, for any leading axes."""
        return self.layer(x)


def _sum(values: dict[str, Array], names: tuple[str, ...]) -> Array:
    return functools.reduce(operator.add, (values[name] for name in names))
