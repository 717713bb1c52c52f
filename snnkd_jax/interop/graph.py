"""A spiking network as a graph of layers, and such a graph as a network.

Shapes are `(H, W, C)` of a map or `(N,)` of a vector, those of one image at one time step. Every layer has the method
`out`, the shape of its output for that of its input; it raises `InputError` for an input that does not fit. Layers with
weights have `module`, which makes a Flax module of the parameters `kernel` and `bias`, those without are functions.
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
    """Float32 `kernel` `[kh, kw, C_in, C_out]` and `bias` `[C_out]`; `padding` is that of each side, with zeros."""

    kernel: NDArray
    bias: NDArray
    strides: Pair = (1, 1)
    padding: Pair = (0, 0)

    def out(self, shape: Shape) -> Shape:
        """`(H, W, C_in)` to `(H', W', C_out)`."""
        *window, c_in, c_out = self.kernel.shape
        if len(shape) != 3 or shape[2] != c_in or self.bias.shape != (c_out,):
            raise InputError(f"kernel {self.kernel.shape} and bias {self.bias.shape} cannot take {shape}")
        return (*_windows(shape, window, self.strides, self.padding), c_out)

    def module(self) -> Callable[..., nn.Module]:
        """The Flax layer, still without its name."""
        *window, _, c_out = self.kernel.shape
        padding = [(p, p) for p in self.padding]
        return functools.partial(nn.Conv, c_out, window, self.strides, padding, conv_general_dilated=convolve)


@dataclasses.dataclass(frozen=True)
class Dense:
    """Float32 `kernel` `[N_in, N_out]` and `bias` `[N_out]`."""

    kernel: NDArray
    bias: NDArray

    def out(self, shape: Shape) -> Shape:
        """`(N_in,)` to `(N_out,)`."""
        if shape != self.kernel.shape[:1] or self.bias.shape != self.kernel.shape[1:]:
            raise InputError(f"kernel {self.kernel.shape} and bias {self.bias.shape} cannot take {shape}")
        return self.kernel.shape[1:]

    def module(self) -> Callable[..., nn.Module]:
        """The Flax layer, still without its name."""
        return functools.partial(nn.Dense, self.kernel.shape[1])


@dataclasses.dataclass(frozen=True)
class Pool:
    """Means over windows; what `padding` adds on each side counts as zeros."""

    window: Pair
    strides: Pair
    padding: Pair = (0, 0)

    def out(self, shape: Shape) -> Shape:
        """`(H, W, C)` to `(H', W', C)`."""
        if len(shape) != 3:
            raise InputError(f"means over windows cannot take {shape}")
        return (*_windows(shape, self.window, self.strides, self.padding), shape[2])

    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., H', W', C]`."""
        h, w = self.padding  # not left to Flax, which pads one axis before the map and no more
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(h, h), (w, w), (0, 0)])
        return nn.avg_pool(x, self.window, self.strides)


@dataclasses.dataclass(frozen=True)
class Flatten:
    """A map as a vector, channel after channel: in the order C, H, W, as NIR and PyTorch have it."""

    def out(self, shape: Shape) -> Shape:
        """`(H, W, C)` to `(C H W,)`."""
        if len(shape) != 3:
            raise InputError(f"{shape} is no map that could be flattened")
        return (math.prod(shape),)

    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., C H W]`."""
        return jnp.moveaxis(x, -1, -3).reshape(*x.shape[:-3], -1)


@dataclasses.dataclass(frozen=True)
class Spiking:
    """Neurons, all with the same constants, that start from rest."""

    neuron: LIF | IF

    def out(self, shape: Shape) -> Shape:
        """Any shape to itself."""
        return shape


Layer = Convolution | Dense | Pool | Flatten | Spiking


@dataclasses.dataclass(frozen=True)
class Node:
    """A layer, the names of the nodes whose outputs are summed up to its input, and the shape of its output."""

    layer: Layer
    inputs: tuple[str, ...]
    shape: Shape


@dataclasses.dataclass(frozen=True)
class Graph:
    """Nodes by name, each behind its inputs; `outputs` are the nodes whose outputs are summed up to the logits."""

    image_shape: tuple[int, int, int]
    nodes: dict[str, Node]
    outputs: tuple[str, ...]

    def shape(self, name: str) -> Shape:
        """Of the output of a node, or of the image."""
        return self.image_shape if name == INPUT else self.nodes[name].shape


def network_of(graph: Graph, num_steps: int) -> tuple[Network, Variables]:
    """The graph as a network of `num_steps` time steps, with its variables.

    Raises `InputError` for no time step, or a node with a name that Flax needs.
    """
    if num_steps < 1:
        raise InputError(f"num_steps={num_steps!r} must be at least 1")
    steps, params = [], {}
    for name, node in graph.nodes.items():
        if hasattr(GraphBody, name) or name in GraphBody.__dataclass_fields__:
            raise InputError(f"node {name!r} has the name of an attribute of a Flax module; give it another")
        layer = node.layer
        if isinstance(layer, Convolution | Dense):
            make = layer.module()
            params[name] = {"kernel": jnp.asarray(layer.kernel), "bias": jnp.asarray(layer.bias)}
        else:
            make = layer.neuron if isinstance(layer, Spiking) else functools.partial(Weightless, layer)
        steps.append((name, make, node.inputs))
    body = GraphBody(tuple(steps), graph.outputs, functools.partial(Spike, num_steps=num_steps))
    return Network(body, num_steps), {"params": params, "batch_stats": {}}


class GraphBody(nn.Module):
    """The body of `network_of`: `steps` are each node's name, its neuron or what makes its module, and its inputs."""

    steps: tuple[tuple[str, Any, tuple[str, ...]], ...]
    outputs: tuple[str, ...]
    activation: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, T, H, W, C]`, T = 1 if they are constant, to logits `[B, T, K]`; a graph has no stages."""
        del train
        values = {INPUT: x}
        for name, make, inputs in self.steps:
            make = functools.partial(self.activation, make) if isinstance(make, LIF | IF) else make
            values[name] = make(name=name)(_sum(values, inputs))
        return _sum(values, self.outputs), stage_features(())


class Weightless(nn.Module):
    """A layer without parameters as a module."""

    layer: Pool | Flatten

    def __call__(self, x: Array) -> Array:
        """Of any leading axes."""
        return self.layer(x)


def _sum(values: dict[str, Array], names: tuple[str, ...]) -> Array:
    return functools.reduce(operator.add, (values[name] for name in names))


def _windows(shape: Shape, window: Any, strides: Pair, padding: Pair) -> Pair:
    """How many windows fit along H and along W."""
    h, w = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip(shape[:2], window, strides, padding, strict=True))
    if min(h, w) < 1:
        raise InputError(f"windows of {tuple(window)} do not fit into {shape}")
    return h, w
