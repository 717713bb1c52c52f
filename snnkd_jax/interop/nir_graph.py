"""Graphs of layers to and from graphs of NIR; their nodes are those of `snnkd_jax.interop.nir_nodes`."""

import contextlib
import dataclasses
import graphlib
from collections.abc import Iterator
from typing import Any

import nir
import numpy as np

from snnkd_jax.errors import InputError
from snnkd_jax.interop.euler import ONE
from snnkd_jax.interop.graph import INPUT, OUTPUT, Flatten, Graph, Node, Scale, Shape
from snnkd_jax.interop.nir_dt import find_dt
from snnkd_jax.interop.nir_nodes import (
    channels_first,
    check_finite,
    check_shape,
    declared_shape,
    parse,
    to_layer,
    to_node,
    without_batch,
)

Nodes = dict[str, nir.NIRNode]
Edges = list[tuple[str, str]]


def to_nir(graph: Graph, dt: float, metadata: dict[str, Any]) -> nir.NIRGraph:
    """The graph in NIR, for steps of `dt` seconds; `InputError` names a node that NIR cannot express."""
    nodes: dict[str, Any] = {INPUT: nir.Input({"input": np.array(channels_first(graph.image_shape))})}
    for name, node in graph.nodes.items():
        shape = graph.shape(node.inputs[0])
        with _naming(name):
            nodes[name] = to_node(node.layer, shape, dt)
            check_finite(nodes[name])
        # Given, as nir <= 1.0.8 takes all kernels for square, and groups for one.
        nodes[name].input_type = {"input": np.array(channels_first(shape))}
        nodes[name].output_type = {"output": np.array(channels_first(node.shape))}
    nodes[OUTPUT] = nir.Output({"output": np.array(channels_first(graph.shape(graph.outputs[0])))})
    edges = [(source, name) for name, node in graph.nodes.items() for source in node.inputs]
    return nir.NIRGraph(nodes, edges + [(source, OUTPUT) for source in graph.outputs], metadata)


def from_nir(tree: dict[str, Any], dt: float | None) -> tuple[Graph, float]:
    """The graph of a file's group "node", given as nested dictionaries, and its dt, for None that of `find_dt`.

    Raises `InputError`, naming the node; see `snnkd_jax.interop.nir.read_nir`.
    """
    nodes, edges, first, last = _flat(tree)
    sources = _sources(nodes, edges, first, last)
    dt = find_dt(nodes) if dt is None else dt
    with _naming(first):
        image = _image(nodes, first)
    found: dict[str, Node] = {}
    h, w = (1, 1, *image[1:])[-2:]
    graph = Graph((h, w, image[0]), found, ())
    if len(image) == 1:
        found["vector"] = Node.of(Flatten(), (INPUT,), graph.image_shape)
    names = {first: "vector" if found else INPUT}  # in the graph, of nodes of the file
    read_as: dict[str, list[Shape]] = {name: [] for name in nodes}
    for reader, read in sources.items():
        for name in read:
            read_as[name].append(_takes(nodes[reader]) or ())
    _, *order = graphlib.TopologicalSorter(sources).static_order()
    for name in order:
        with _naming(name):
            inputs = tuple(names[source] for source in sources[name])
            given = _one_shape({source: _as_in_file(graph.shape(source), len(image)) for source in inputs})
            if isinstance(nodes[name], nir.Input | nir.Output):
                check_shape(nodes[name].input_type["input"], given)
                layer = None
            else:
                layer = to_layer(nodes[name], given, dt, read_as[name])
            if name == last:
                return dataclasses.replace(graph, outputs=inputs), dt
            if layer is None and len(inputs) == 1:
                (names[name],) = inputs
                continue
            if name in (*found, INPUT):
                raise InputError("another node needs that name; give it another")
            names[name], found[name] = name, Node.of(layer or Scale(ONE), inputs, graph.shape(inputs[0]))
    raise AssertionError("every node leads to the output")


def _flat(tree: Any) -> tuple[Nodes, Edges, str, str]:
    """Nodes and edges of a graph with those of its subgraphs, "sub.node", and the names of its Input and its Output.

    Input and Output of a subgraph pass on what they read.
    """
    if not isinstance(tree, dict) or tree.get("type") != "NIRGraph" or not isinstance(tree.get("nodes"), dict):
        raise InputError("it holds no graph")
    nodes: Nodes = {}
    inner: Edges = []
    ports: dict[str, tuple[str, str]] = {}
    for name, fields in tree["nodes"].items():
        with _naming(name):
            if isinstance(fields, dict) and fields.get("type") == "NIRGraph":
                within, edges, *ends = _flat(fields)
                ports[name] = f"{name}.{ends[0]}", f"{name}.{ends[1]}"
                inner += [(f"{name}.{a}", f"{name}.{b}") for a, b in edges]
                found = {f"{name}.{node}": value for node, value in within.items()}
            else:
                found = {name: parse(fields)}
            if taken := nodes.keys() & found.keys():
                raise InputError(f"two nodes are called {min(taken)!r}, a dot after the name of a subgraph; rename one")
            nodes |= found
    first, last = (_single({n: x for n, x in nodes.items() if n in tree["nodes"]}, k) for k in (nir.Input, nir.Output))
    outer: dict[tuple[str, str], None] = {}  # in their order
    for edge in [] if tree.get("edges") is None else tree["edges"]:
        a, b = (end.decode() if isinstance(end, bytes) else str(end) for end in edge)
        for end in (a, b):
            if end not in tree["nodes"]:
                raise InputError(f"an edge goes from {a!r} to {b!r}, and there is no node {end!r}")
        if (a, b) in outer:
            raise InputError(f"node {b!r} reads {a!r} twice; an edge counts once, so remove one (a Scale of 2 doubles)")
        outer[a, b] = None
    return nodes, [(ports.get(a, (a, a))[1], ports.get(b, (b, b))[0]) for a, b in outer] + inner, first, last


def _single(nodes: Nodes, kind: type) -> str:
    found = [name for name, node in nodes.items() if isinstance(node, kind)]
    if len(found) != 1:
        names = f" ({', '.join(map(repr, found))})" if found else ""
        raise InputError(f"it has {len(found)} nodes of type {kind.__name__}{names}; only networks with one")
    return found[0]


def _sources(nodes: Nodes, edges: Edges, first: str, last: str) -> dict[str, list[str]]:
    """The nodes that each node reads; raises `InputError` for a cycle, or a node that is on no path to the output."""
    sources: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        sources[b].append(a)
    try:
        graphlib.TopologicalSorter(sources).prepare()
    except graphlib.CycleError as error:
        raise InputError(f"nodes {' -> '.join(error.args[1])} are a cycle; only feed-forward networks") from error
    read = {name for found in sources.values() for name in found}
    for name, found in sources.items():
        if bool(found) == (name == first) or (name in read) == (name == last):
            raise InputError(f"node {name!r} is not on a way from {first!r} to {last!r}; remove it, or connect it")
    return sources


def _image(nodes: Nodes, first: str) -> Shape:
    """The shape of the input, an image `[C, H, W]`, a sequence `[C, L]` or a vector `[N]`, without a batch of one."""
    declared = _takes(nodes[first]) or ()
    is_sequence = any(isinstance(node, nir.Conv1d) for node in nodes.values())
    shape = without_batch(declared, 2 if is_sequence else 1 if len(declared) == 2 else 3)
    if len(shape) not in (1, 2, 3):
        raise InputError(f"its shape is {declared}; it must be [C, H, W], [C, L] or [N], without batch and time")
    return shape


def _as_in_file(shape: Shape, axes: int) -> Shape:
    """`(H, W, C)` as `[C, H, W]`, or of a network on sequences, with two axes, as `[C, L]`; a vector as it is."""
    return (shape[2], shape[1]) if axes == 2 and len(shape) == 3 else channels_first(shape)


def _takes(node: Any) -> Shape | None:
    return declared_shape(node.input_type["input"])


def _one_shape(shapes: dict[str, Shape]) -> Shape:
    """The shape of nodes that are summed; raises `InputError` if they have several."""
    if len(set(shapes.values())) > 1:
        different = ", ".join(f"{shape} of {source!r}" for source, shape in shapes.items())
        raise InputError(f"it is given different shapes: {different}")
    return next(iter(shapes.values()))


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turns any error, also one of the package `nir` for a damaged node, into an `InputError` that names the node."""
    try:
        yield
    except Exception as error:
        raise InputError(f"node {name!r}: {str(error) or type(error).__name__}") from error
