"""The graph of layers of a trained spiking network, traced by applying its module.

The module is applied to a `Signal` in place of the image, which records the layers that it passes. A `Signal` can be
added to another, averaged over its map and flattened; any other operation raises, so that none is lost, and every
parameter must end up in exactly one layer.

Norms are folded (`snnkd_jax.models.folding`). A bias goes into the layer before it, also through average pooling; the
norm of a sum becomes a 1x1 convolution with a diagonal kernel, which is exact.
"""

import dataclasses
from collections import Counter
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from numpy.typing import NDArray

from snnkd_jax.dynamics.neurons import IF, ILIF, LIF, PLIF, plif_tau
from snnkd_jax.errors import InputError
from snnkd_jax.interop import graph
from snnkd_jax.interop.euler import EulerNeuron, Integrator
from snnkd_jax.interop.graph import Convolution, Dense, Flatten, Graph, Layer, Node, Pool, Shape
from snnkd_jax.models.activation import QCFS, IntegerSpike, ReLU, Spike
from snnkd_jax.models.converted import ConvertedSpike, Path
from snnkd_jax.models.folding import FoldedNorm, fold_norms
from snnkd_jax.models.layers import AvgPool, MaxPool
from snnkd_jax.models.network import Network, Variables

_COUNTS = "integer neurons fire several spikes per step, for which a graph has no node; train with LIF, PLIF or IF"
_REFUSED: dict[type[nn.Module], str] = {
    **dict.fromkeys((ReLU, QCFS), "an ANN does not spike; take a spiking student"),
    IntegerSpike: _COUNTS,
    MaxPool: "max pooling is not among the layers of a graph; train with pool='avg'",
    ConvertedSpike: "converted neurons subtract the threshold (soft reset); train a student with v_reset=0",
}


def trace_graph(network: Network, variables: Variables, image_shape: tuple[int, int, int]) -> Graph:
    """The graph of a trained spiking network in evaluation, its norms folded, for images `[H, W, C]`.

    Raises `InputError` for what a graph cannot express, with what to use instead.
    """
    dtype = jnp.dtype(getattr(network.module, "dtype", jnp.float32))
    if dtype != jnp.float32:
        raise InputError(f"dtype={dtype.name} rounds between the layers; give the network a module of dtype float32")
    network, variables = fold_norms(network, variables, image_shape)
    tracer = _Tracer()
    with nn.intercept_methods(tracer.intercept):
        outputs: Any = network.module.apply(variables, Signal(tracer, (graph.INPUT,), image_shape), train=False)
    lost = {path[:-1] for path in traverse_util.flatten_dict(variables["params"])} ^ tracer.parameters
    assert not lost, f"layers that the module does not call: {lost}"
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    return Graph(image_shape, tracer.nodes, logits.read())


@dataclasses.dataclass(eq=False)
class Signal:
    """A traced value: the sum of the outputs of the nodes `inputs`, of shape `step_shape` for one image and time step.

    A vector that the module flattened in the order H, W, C has the map's shape as `interleaved`; only a dense layer may
    read it, as the graph flattens in the order C, H, W.
    """

    tracer: "_Tracer"
    inputs: tuple[str, ...]
    step_shape: Shape
    interleaved: Shape | None = None
    stale: bool = False

    @property
    def shape(self) -> Shape:
        """`[B, T, H, W, C]` or `[B, T, N]` with B = T = 1."""
        return (1, 1, *self.step_shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def read(self) -> tuple[str, ...]:
        """The nodes, of which one more reader is counted."""
        if self.stale:
            raise InputError(f"{self.inputs[0]} is read before its norm and after it; a graph has one of the two")
        if self.interleaved is not None:
            raise InputError(f"{self.inputs[0]} is a flattened map; only a dense layer may read it")
        self.tracer.readers.update(self.inputs)
        return self.inputs

    def __add__(self, other: "Signal") -> "Signal":
        inputs = self.read() + other.read()
        if self.step_shape != other.step_shape or len(set(inputs)) < len(inputs):
            raise InputError(f"{' + '.join(inputs)}: only different nodes of one shape can be summed")
        return Signal(self.tracer, inputs, self.step_shape)

    def mean(self, axis: tuple[int, ...]) -> "Signal":
        """The mean over the whole map."""
        if axis != (-3, -2):
            raise InputError(f"a mean over the axes {axis} is not among the layers of a graph")
        window = self.step_shape[0], self.step_shape[1]
        pooled = self.tracer.add("global_pool", Pool(window, window), self)
        return self.tracer.add("flatten", Flatten(), pooled)

    def reshape(self, *shape: int) -> "Signal":
        """The map as a vector."""
        if shape != (1, 1, -1) or len(self.step_shape) != 3:
            raise InputError(f"a reshape of {self.shape} to {shape} is not among the layers of a graph")
        flat = self.tracer.add("flatten", Flatten(), self)
        return dataclasses.replace(flat, interleaved=self.step_shape)

    def __jax_array__(self) -> Any:
        found = "what is not among the layers of a graph, such as the zero-padded shortcuts of pyramidnet18"
        raise InputError(f"the network computes {found}; take another architecture")


class _Tracer:
    """The nodes of a module that is being traced."""

    def __init__(self):
        self.nodes: dict[str, Node] = {}
        self.signals: dict[str, Signal] = {}  # the output of each node
        self.readers: Counter[str] = Counter()  # the number of nodes and sums that read a node
        self.parameters: set[Path] = set()  # the modules whose parameters are in a node

    def intercept(self, call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        """An interceptor of `nn.intercept_methods`: layers become nodes instead of being computed."""
        module = context.module
        if context.method_name != "__call__" or not isinstance(args[0], Signal):
            return call(*args, **kwargs)
        for kind, reason in _REFUSED.items():
            if isinstance(module, kind):
                raise InputError(f"{'/'.join(module.path)}: {reason}")
        x = args[0]
        values = {key: np.asarray(value) for key, value in module.variables.get("params", {}).items()}
        layer = _layer(module, values, x)
        if layer is None and not isinstance(module, FoldedNorm):
            return call(*args, **kwargs)
        if values:
            self.parameters.add(module.path)
        if layer is None:
            return self.add_bias(x, values["bias"])
        if isinstance(layer, Dense):
            x = dataclasses.replace(x, interleaved=None)  # the rows of the layer are in the order of the graph
        name = "/".join(module.path).removesuffix("/conv")  # the name inside `layers.Conv`, the same for all
        return self.add(name.replace("/", "_"), layer, x)

    def add(self, name: str, layer: Layer, x: Signal) -> Signal:
        """The output of a new node that reads x."""
        if name in (*self.nodes, graph.INPUT, graph.OUTPUT):
            raise InputError(f"two layers are called {name!r}; give one of them another name")
        self.nodes[name] = Node.of(layer, x.read(), x.step_shape)
        self.signals[name] = Signal(self, (name,), self.nodes[name].shape)
        return self.signals[name]

    def add_bias(self, x: Signal, bias: NDArray) -> Signal:
        """x plus a bias, which is added to that of the layer before; nothing else may read that layer."""
        (name,) = path = x.read()
        while isinstance(self.nodes[name].layer, Pool):
            (name,) = self.nodes[name].inputs
            path = (*path, name)
        node = self.nodes[name]
        if not isinstance(node.layer, Convolution | Dense) or any(self.readers[n] != 1 for n in path):
            raise InputError(f"{name}: a norm must read a layer with weights that nothing else reads")
        self.nodes[name] = dataclasses.replace(node, layer=dataclasses.replace(node.layer, bias=node.layer.bias + bias))
        for n in path:
            self.signals[n].stale = True
        self.readers[x.inputs[0]] -= 1
        self.signals[x.inputs[0]] = Signal(self, x.inputs, x.step_shape)
        return self.signals[x.inputs[0]]


def _layer(module: nn.Module, values: dict[str, NDArray], x: Signal) -> Layer | None:
    """The layer of a module, or None if it consists of others."""
    match module:
        case nn.Conv() | nn.Dense():
            kernel = values["kernel"]
            bias = values.get("bias", np.zeros(kernel.shape[-1], np.float32))
            if isinstance(module, nn.Conv):
                return _convolution(module, kernel, bias)
            if x.interleaved is not None:
                kernel = kernel[np.arange(len(kernel)).reshape(x.interleaved).transpose(2, 0, 1).ravel()]
            return Dense(kernel, bias)
        case FoldedNorm() if "scale" in values:
            return Convolution(np.diag(values["scale"])[None, None], values["bias"])
        case AvgPool():
            return Pool((2, 2), (2, 2))
        case graph.Weightless():
            return module.layer
        case Spike(neuron=EulerNeuron() as neuron) | Integrator(neuron=neuron):
            return neuron
        case Spike():
            return _neuron(module, values)
    return None


def _convolution(conv: nn.Conv, kernel: NDArray, bias: NDArray) -> Convolution:
    """The layer of a convolution of maps, with padding in numbers and without dilation of its input."""
    name, padding = "/".join(conv.path), conv.padding
    if isinstance(padding, str) or _pair(conv.input_dilation) != (1, 1) or kernel.ndim != 4:
        found = f"padding={padding!r}, input_dilation={conv.input_dilation} and a kernel {kernel.shape}"
        raise InputError(f"{name}: {found}; only convolutions of maps, with padding in numbers, without that dilation")
    (top, bottom), (left, right) = (_pair(sides, 0) for sides in _pair(padding, 0))
    strides, dilation = _pair(conv.strides), _pair(conv.kernel_dilation)
    return Convolution(kernel, bias, strides, ((top, bottom), (left, right)), dilation, conv.feature_group_count)


def _pair(value: Any, default: int = 1) -> tuple[Any, Any]:
    """Flax's `value` along H and W: None, one number or two."""
    a, b = (default if value is None else value,) * 2 if value is None or isinstance(value, int) else value
    return a, b


def _neuron(spike: Spike, values: dict[str, NDArray]) -> LIF | IF:
    neuron, name = spike.neuron, "/".join(spike.path)
    if isinstance(neuron, ILIF):
        raise InputError(f"{name}: {_COUNTS}")
    if type(neuron) not in (LIF, PLIF, IF):
        raise InputError(f"{name}: {type(neuron).__name__} is no neuron of a graph; train with LIF, PLIF or IF")
    assert isinstance(neuron, LIF | IF)
    if neuron.v_reset is None:
        raise InputError(f"{name}: v_reset=None subtracts the threshold (soft reset); train with a number, such as 0")
    if isinstance(neuron, IF):
        return IF(neuron.v_threshold, neuron.v_reset)
    tau = float(plif_tau(jnp.asarray(values["w"]))) if isinstance(neuron, PLIF) else neuron.tau
    return LIF(tau, neuron.v_threshold, neuron.v_reset, neuron.decay_input)
