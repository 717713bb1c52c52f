"""Graphs of layers to and from the nodes of NIR; see the table of `snnkd_jax.interop.nir`."""

import contextlib
import dataclasses
import functools
import graphlib
import math
from collections.abc import Iterator
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from snnkd_jax.dynamics.neurons import IF, LIF
from snnkd_jax.errors import InputError
from snnkd_jax.interop.graph import INPUT, OUTPUT, Convolution, Dense, Flatten, Graph, Layer, Node, Pool, Shape

_KINDS = ("Input", "Output", "Conv2d", "Affine", "Linear", "LIF", "IF", "AvgPool2d", "Flatten")


def to_nir(graph: Graph, dt: float, metadata: dict[str, Any]) -> nir.NIRGraph:
    """The graph in NIR, for steps of `dt` seconds; `InputError` names a node whose weights are not finite."""
    nodes: dict[str, Any] = {INPUT: nir.Input({"input": np.array(_channels_first(graph.image_shape))})}
    for name, node in graph.nodes.items():
        with _naming(name):
            nodes[name] = _nir_node(node.layer, graph.shape(node.inputs[0]), dt)
            _check_finite(nodes[name])
    nodes[OUTPUT] = nir.Output({"output": np.array(_channels_first(graph.shape(graph.outputs[0])))})
    edges = [(source, name) for name, node in graph.nodes.items() for source in node.inputs]
    return nir.NIRGraph(nodes, edges + [(source, OUTPUT) for source in graph.outputs], metadata)


def _nir_node(layer: Layer, shape: Shape, dt: float) -> nir.NIRNode:
    """The node of a layer with an input of this shape."""
    match layer:
        case Convolution():
            weight = np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1))
            return nir.Conv2d((shape[0], shape[1]), weight, layer.strides, layer.padding, (1, 1), 1, layer.bias)
        case Dense():
            return nir.Affine(np.ascontiguousarray(layer.kernel.T), layer.bias)
        case Pool():
            return nir.AvgPool2d(np.array(layer.window), np.array(layer.strides), np.array(layer.padding))
        case Flatten():
            return nir.Flatten({"input": np.array(_channels_first(shape))}, start_dim=0)
        case LIF() | IF():
            # In float64, so that division by dt restores tau.
            full: Any = functools.partial(np.full, _channels_first(shape), dtype=np.float64)
            v_threshold, v_reset = full(layer.v_threshold), full(layer.v_reset)
            if isinstance(layer, IF):
                return nir.IF(full(1 / dt), v_threshold, v_reset)
            r = full(1.0 if layer.decay_input else layer.tau)
            return nir.LIF(full(layer.tau * dt), r, v_leak=v_reset, v_threshold=v_threshold, v_reset=v_reset)


def from_nir(tree: dict[str, Any], dt: float) -> Graph:
    """The graph of a file's group "node", given as nested dictionaries, for steps of `dt` seconds.

    Raises `InputError`, naming the node; see `snnkd_jax.interop.nir.read_nir`.
    """
    if tree.get("type") != "NIRGraph" or not isinstance(tree.get("nodes"), dict):
        raise InputError("it holds no graph")
    nodes: dict[str, nir.NIRNode] = {}
    for name, fields in tree["nodes"].items():
        with _naming(name):
            kind = fields.get("type") if isinstance(fields, dict) else fields
            if not isinstance(fields, dict) or kind not in _KINDS:
                raise InputError(f"type {kind!r} is unknown; known are {', '.join(_KINDS)}")
            nodes[name] = nir.dict2NIRNode(fields)
            _check_finite(nodes[name])
    first, last = _single(nodes, nir.Input), _single(nodes, nir.Output)
    sources = _sources(nodes, tree.get("edges"), first, last)
    with _naming(first):
        shape = _channels_last(nodes[first])
        if len(shape) not in (1, 3) or min(shape) < 1:
            raise InputError(f"an image is [C, H, W] or [N], not {shape}")
    h, w, c = shape if len(shape) == 3 else (1, 1, *shape)
    names, found = {first: INPUT}, {}
    graph = Graph((h, w, c), found, ())
    if len(shape) == 1:
        names[first], found["vector"] = "vector", Node.of(Flatten(), (INPUT,), graph.image_shape)
    _, *order = graphlib.TopologicalSorter(sources).static_order()
    for name in order:
        with _naming(name):
            inputs = tuple(names[source] for source in sources[name])
            shapes = [graph.shape(source) for source in inputs]
            if len(set(shapes)) > 1:
                pairs = zip(shapes, inputs, strict=True)
                different = ", ".join(f"{_channels_first(shape)} of {source!r}" for shape, source in pairs)
                raise InputError(f"it is given different shapes: {different}")
            shape = shapes[0]
            if nodes[name].input_type["input"] is not None and (takes := _channels_last(nodes[name])) != shape:
                raise InputError(f"it takes {_channels_first(takes)}, but is given {_channels_first(shape)}")
            if name == last:
                return dataclasses.replace(graph, outputs=inputs)
            if name in found or name == INPUT:
                raise InputError("another node needs that name; give it another")
            names[name], found[name] = name, Node.of(_layer(nodes[name], shape, dt), inputs, shape)
    raise AssertionError("every node leads to the output")


def _sources(nodes: dict[str, nir.NIRNode], edges: Any, first: str, last: str) -> dict[str, list[str]]:
    """The nodes that each node reads; raises `InputError` for a cycle, or a node that is on no path to the output."""
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for edge in [] if edges is None else edges:
        a, b = (end.decode() if isinstance(end, bytes) else end for end in edge)
        if a not in nodes or b not in nodes:
            raise InputError(f"an edge goes from {a!r} to {b!r}, and there is no node {b if a in nodes else a!r}")
        if a in sources[b]:
            raise InputError(f"node {b!r} reads {a!r} twice")
        sources[b].append(a)
    try:
        graphlib.TopologicalSorter(sources).prepare()
    except graphlib.CycleError as error:
        raise InputError(f"nodes {' -> '.join(error.args[1])} are a cycle; only feed-forward networks") from error
    read = {name for found in sources.values() for name in found}
    for name, found in sources.items():
        if bool(found) == (name == first) or (name in read) == (name == last):
            raise InputError(f"node {name!r} is not on a way from {first!r} to {last!r}")
    return sources


def _single(nodes: dict[str, nir.NIRNode], kind: type) -> str:
    found = [name for name, node in nodes.items() if isinstance(node, kind)]
    if len(found) != 1:
        raise InputError(f"it has {len(found)} nodes of type {kind.__name__}; only networks with one")
    return found[0]


def _layer(node: Any, shape: Shape, dt: float) -> Layer:
    """The layer of a node with an input of this shape."""
    match type(node).__name__:
        case "Conv2d":
            if _pair(node.dilation) != (1, 1) or int(node.groups) != 1:
                raise InputError(f"dilation={node.dilation} and groups={node.groups}; only 1")
            padding = 0 if isinstance(node.padding, str) and node.padding == "valid" else node.padding
            if isinstance(padding, str):
                raise InputError(f"padding={padding!r} is uneven with a stride; write numbers")
            kernel, bias = _floats(node.weight, 4).transpose(2, 3, 1, 0), _floats(node.bias, 1)
            return Convolution(kernel, bias, _pair(node.stride), _pair(padding, least=0))
        case "Affine" | "Linear":
            kernel = _floats(node.weight, 2).T
            return Dense(kernel, _floats(getattr(node, "bias", np.zeros(kernel.shape[1])), 1))
        case "AvgPool2d":
            return Pool(_pair(node.kernel_size), _pair(node.stride), _pair(node.padding, least=0))
        case "Flatten":
            if node.start_dim != 0 or node.end_dim not in (-1, len(shape) - 1):
                raise InputError(f"start_dim={node.start_dim}, end_dim={node.end_dim}; only whole maps, from 0 to -1")
            return Flatten()
    v_threshold, v_reset, r = (_constant(node, name) for name in ("v_threshold", "v_reset", "r"))
    if isinstance(node, nir.IF):
        if not _equal(r * dt, 1):
            raise InputError(f"r={r:g}; only r = 1 / dt, {1 / dt:g}")
        return IF(v_threshold, v_reset)
    tau, v_leak = _constant(node, "tau") / dt, _constant(node, "v_leak")
    if not _equal(v_leak, v_reset):
        raise InputError(f"v_leak={v_leak:g} and v_reset={v_reset:g}; only neurons whose reset is their rest")
    if not (_equal(r, 1) or _equal(r, tau)):
        raise InputError(f"r={r:g}; only 1 or tau / dt, {tau:g}: give dt, if it is not {dt:g}")
    return LIF(tau, v_threshold, v_reset, decay_input=_equal(r, 1))


def _constant(node: Any, name: str) -> float:
    values = np.unique(getattr(node, name))
    if len(values) != 1:
        raise InputError(f"{name} differs between the neurons; only one value for all of a node")
    return float(values[0])


def _equal(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)  # other programs store constants in float32


def _pair(value: Any, least: int = 1) -> tuple[int, int]:
    h, w = np.broadcast_to(np.asarray(value), 2).tolist()
    if int(h) != h or int(w) != w or min(h, w) < least:
        raise InputError(f"{value} must be whole numbers of at least {least}")
    return int(h), int(w)


def _floats(value: Any, ndim: int) -> NDArray:
    array = np.asarray(value, np.float32)
    if array.ndim != ndim:
        raise InputError(f"weights of shape {array.shape}; they must have {ndim} axes")
    return array


def _check_finite(node: nir.NIRNode) -> None:
    arrays = {name: x for name, x in vars(node).items() if isinstance(x, np.ndarray) and x.dtype.kind == "f"}
    for name, x in arrays.items():
        with np.errstate(over="ignore"):
            if not np.isfinite(x.astype(np.float32)).all():
                raise InputError(f"{name} has values that are not finite in float32")


def _channels_first(shape: Shape) -> Shape:
    """`(H, W, C)` to `(C, H, W)`; a vector to itself."""
    return (*shape[-1:], *shape[:-1])


def _channels_last(node: nir.NIRNode) -> Shape:
    """The shape of a node's input: `[C, H, W]` to `(H, W, C)`; a vector to itself."""
    shape = tuple(int(n) for n in np.atleast_1d(node.input_type["input"]))
    return (*shape[1:], *shape[:1])


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turns any error, also one of the package `nir` for a damaged node, into an `InputError` that names the node."""
    try:
        yield
    except Exception as error:
        raise InputError(f"node {name!r}: {str(error) or type(error).__name__}") from error
