"""Spiking networks as graphs of layers, and networks built from such graphs.

Shapes are those of one image at one time step: `(H, W, C)` of a map or `(N,)` of a vector.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from numpy.typing import NDArray

from snnkd_jax.dynamics.neurons import IF, LIF
from snnkd_jax.errors import InputError
from snnkd_jax.interop.euler import Constant, EulerNeuron, Integrator
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
    """A convolution, float32 `kernel` `[kh, kw, C_in / groups, C_out]` and `bias` `[C_out]`.

    `padding` is the number of zeros before and after the map, along H and along W.
    """

    kernel: NDArray
    bias: NDArray
    strides: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclasses.dataclass(frozen=True)
class Dense:
    """A dense layer, float32 `kernel` `[N_in, N_out]` and `bias` `[N_out]`."""

    kernel: NDArray
    bias: NDArray


@dataclasses.dataclass(frozen=True)
class Pool:
    """Average pooling, or `total`, the sum of each window; `padding` on each side counts as zeros."""

    window: Pair
    strides: Pair
    padding: Pair = (0, 0)
    total: bool = False

    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., H', W', C]`."""
        h, w = self.padding  # not by Flax, which pads maps with one leading axis only
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(h, h), (w, w), (0, 0)])
        if self.total:
            return nn.pooling.pool(x, 0.0, lax.add, self.window, self.strides, "VALID")
        return nn.avg_pool(x, self.window, self.strides)


@dataclasses.dataclass(frozen=True)
class Scale:
    """The product with a constant, elementwise."""

    factor: Constant

    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` or `[..., N]`, of the same shape."""
        return x * self.factor.beside(x)


@dataclasses.dataclass(frozen=True)
class Flatten:
    """A map as a vector in the order C, H, W, as in NIR and PyTorch."""

    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., C H W]`."""
        return jnp.moveaxis(x, -1, -3).reshape(*x.shape[:-3], -1)


Neurons = LIF | IF | EulerNeuron
"""The neurons of a layer start from rest; those of `LIF` and `IF` all have the same constants."""
Layer = Convolution | Dense | Pool | Flatten | Scale | Neurons


def _output_shape(layer: Layer, shape: Shape) -> Shape:
    match layer:
        case Convolution() | Dense():
            groups = layer.groups if isinstance(layer, Convolution) else 1
            kernel, bias = layer.kernel.shape, layer.bias.shape
            fits = len(shape) == len(kernel) - 1 and shape[-1] == groups * kernel[-2] and kernel[-1] % groups == 0
            if not fits or bias != kernel[-1:]:
                raise InputError(f"kernel {kernel} and bias {bias} cannot take {shape}")
            if isinstance(layer, Dense):
                return bias
            window = [d * (k - 1) + 1 for k, d in zip(kernel, layer.dilation, strict=False)]
            return *_windows(window, layer.strides, layer.padding, shape), *bias
        case Pool() | Flatten():
            if len(shape) != 3:
                raise InputError(f"pooling and flattening take maps (H, W, C), not {shape}")
            if isinstance(layer, Flatten):
                return (math.prod(shape),)
            padding = [(p, p) for p in layer.padding]
            return *_windows(layer.window, layer.strides, padding, shape), shape[2]
    return shape


def _windows(window: Sequence[int], strides: Pair, padding: Sequence[Pair], shape: Shape) -> Pair:
    """The number of windows along H and along W."""
    sizes = zip(shape[:2], window, strides, padding, strict=True)
    h, w = ((n + before + after - k) // s + 1 for n, k, s, (before, after) in sizes)
    if min(h, w) < 1:
        raise InputError(f"windows of {tuple(window)} do not fit into {shape}")
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
            options = {"kernel_dilation": layer.dilation, "feature_group_count": layer.groups}
            options["conv_general_dilated"] = convolve
            make = functools.partial(nn.Conv, features, window, layer.strides, layer.padding, **options)
        elif isinstance(layer, Dense):
            make = functools.partial(nn.Dense, layer.kernel.shape[1])
        elif isinstance(layer, Pool | Flatten | Scale):
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
    activation: functools.partial

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, T, H, W, C]`, T = 1 if they are constant, to logits `[B, T, K]`; a graph has no stages."""
        del train
        values = {INPUT: x}
        for name, make, inputs in self.layers:
            if isinstance(make, EulerNeuron) and make.v_threshold is None:
                make = functools.partial(Integrator, make, **self.activation.keywords)
            elif isinstance(make, Neurons):
                make = functools.partial(self.activation, make)
            values[name] = make(name=name)(_sum(values, inputs))
        return _sum(values, self.outputs), stage_features(())


class Weightless(nn.Module):
    """A layer without parameters as a module."""

    layer: Pool | Flatten | Scale

    def __call__(self, x: Array) -> Array:
        """The layer's output, for any leading axes."""
        return self.layer(x)


def _sum(values: dict[str, Array], names: tuple[str, ...]) -> Array:
    return functools.reduce(operator.add, (values[name] for name in names))
