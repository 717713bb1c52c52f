"""NIR graphs as any program might write them: what they compute, from the format's definitions, and random ones.

`simulate` knows nothing of the library. It takes one Euler step of dt after the other, in float64, from rest, v_leak or
for `IF` v_reset; h >= v_threshold fires, and for `Threshold` x > threshold, as `snnkd_jax.interop.nir` documents.
"""

import dataclasses
import itertools
from typing import Any

import nir
import numpy as np


class Undefined(Exception):
    """The graph has no exact meaning."""


def simulate(graph: nir.NIRGraph, frames: Any, dt: float) -> tuple[Any, bool]:
    """Outputs `[T, ...]` for frames `[T, ...]` of one image, channels first; and whether float32 holds every value."""
    simulation = _Simulation(graph, dt)
    outputs = [simulation.step(x) for x in np.asarray(frames, np.float64)]
    return np.stack(outputs), simulation.exact


class _Simulation:
    """A graph and the potentials of its neurons."""

    def __init__(self, graph: nir.NIRGraph, dt: float):
        self.graph, self.dt, self.v, self.exact = graph, dt, {}, True
        self.within = {k: _Simulation(x, dt) for k, x in graph.nodes.items() if isinstance(x, nir.NIRGraph)}
        (self.first,), (self.last,) = graph.inputs, graph.outputs
        self.sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}

    def step(self, x: Any) -> Any:
        values = {self.first: x}
        while len(values) < len(self.graph.nodes):
            ready = [n for n in self.graph.nodes if n not in values and all(s in values for s in self.sources[n])]
            if not ready:
                raise Undefined("a cycle")
            for name in ready:
                inputs = [values[source] for source in self.sources[name]]
                if not inputs or len({x.shape for x in inputs}) > 1:
                    raise Undefined("nothing or several shapes to sum")
                values[name] = self._node(name, sum(inputs[1:], inputs[0]))
                self.exact &= bool(np.all(values[name] == values[name].astype(np.float32)))
        self.exact &= all(simulation.exact for simulation in self.within.values())
        return values[self.last]

    def _node(self, name: str, x: Any) -> Any:
        node: Any = self.graph.nodes[name]
        match node:
            case nir.NIRGraph():
                return self.within[name].step(x)
            case nir.Input() | nir.Output():
                return x
            case nir.Affine():
                return node.weight @ x + node.bias
            case nir.Linear():
                return node.weight @ x
            case nir.Scale():
                return x * beside(node.scale, x.shape)
            case nir.Threshold():
                return (x > beside(node.threshold, x.shape)).astype(float)
            case nir.Delay() if not np.any(node.delay):
                return x
            case nir.Flatten():
                return x.ravel()
            case nir.Conv2d():
                return _convolve(x, node.weight, node.bias, _two(node.stride), _two(node.dilation), node)
            case nir.Conv1d():
                strides, dilation = (1, _one(node.stride)), (1, _one(node.dilation))
                return _convolve(x[:, None], node.weight[:, :, None], node.bias, strides, dilation, node)[:, 0]
            case nir.AvgPool2d() | nir.SumPool2d():
                (h, w), kernel = _two(node.padding), _two(node.kernel_size)
                windows = _windows(np.pad(x, ((0, 0), (h, h), (w, w))), kernel, _two(node.stride), (1, 1))
                return windows.sum(axis=0) / (np.prod(kernel) if isinstance(node, nir.AvgPool2d) else 1)
        return self._neuron(name, node, x)

    def _neuron(self, name: str, node: Any, x: Any) -> Any:
        c = {k: beside(v, x.shape) for k, v in vars(node).items() if isinstance(v, np.ndarray | float)}
        v = self.v.get(name, c.get("v_leak", c.get("v_reset", np.zeros(()))))
        h = v + (self.dt / c["tau"] * (c["v_leak"] - v + c["r"] * x) if "tau" in c else self.dt * c["r"] * x)
        self.exact &= bool(np.all(h == h.astype(np.float32)))
        z = h >= c["v_threshold"] if "v_threshold" in c else np.zeros(h.shape, bool)
        self.v[name] = np.where(z, c.get("v_reset", 0), h)
        return z.astype(float) if "v_threshold" in c else h


def beside(constant: Any, shape: tuple[int, ...]) -> Any:
    """A constant for all, per channel or per neuron of this shape, channels first; a batch of one is dropped."""
    constant = np.asarray(constant, np.float64)
    while constant.ndim > len(shape) and len(constant) == 1:
        constant = constant[0]
    if constant.size == 1:
        return constant.reshape(())
    if constant.ndim == 1 and len(shape) > 1 and constant.shape == shape[:1]:
        return constant.reshape(-1, *(1,) * (len(shape) - 1))
    if constant.ndim != len(shape) or np.broadcast_shapes(constant.shape, shape) != shape:
        raise Undefined(f"{constant.shape} beside {shape}")
    return constant


def _two(value: Any) -> tuple[int, int]:
    h, w = np.broadcast_to(np.asarray(value), 2).tolist()
    if h % 1 or w % 1:
        raise Undefined(f"{value} are no whole numbers")
    return int(h), int(w)


def _one(value: Any) -> int:
    return int(np.asarray(value).item())


def _convolve(x: Any, weight: Any, bias: Any, strides: Any, dilation: Any, node: Any) -> Any:
    size = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
    if isinstance(node.padding, str):
        total = size if node.padding == "same" else [0, 0]
        if node.padding == "same" and max(strides) > 1:
            raise Undefined("'same' with a stride")
        sides = [(n // 2, n - n // 2) for n in total]
    else:
        sides = [(p, p) for p in (_two(node.padding) if isinstance(node, nir.Conv2d) else (0, _one(node.padding)))]
    windows = _windows(np.pad(x, [(0, 0), *sides]), weight.shape[2:], strides, dilation)  # [k, C, H, W]
    groups = _one(node.groups)
    parts = np.split(windows, groups, axis=1)
    kernels = np.split(weight.reshape(*weight.shape[:2], -1).astype(float), groups)
    return (
        np.concatenate([np.einsum("kchw,ock->ohw", *x) for x in zip(parts, kernels, strict=True)]) + bias[:, None, None]
    )


def _windows(x: Any, kernel: Any, strides: Any, dilation: Any) -> Any:
    """Each pixel of every window, `[kh kw, C, H', W']`."""
    (kh, kw), (sh, sw), (dh, dw) = kernel, strides, dilation
    rows, columns = x.shape[1] - dh * (kh - 1), x.shape[2] - dw * (kw - 1)
    if min(rows, columns) < 1:
        raise Undefined("no window fits")
    places = itertools.product(range(0, dh * kh, dh), range(0, dw * kw, dw))
    return np.stack([x[:, i : i + rows : sh, j : j + columns : sw] for i, j in places])


@dataclasses.dataclass
class Drawn:
    """A random graph, the dt of its program, and how a reader learns it: "given", "file" or "neurons"."""

    graph: nir.NIRGraph
    dt: float
    told: str
    shape: tuple[int, ...]


class Draw:
    """Draws graphs of few bits: every constant is a multiple of a power of two, so that float32 rounds nothing."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.dt = float(rng.choice([2.0**-13, 0.25, 1.0]))
        self.told = str(rng.choice(["given", "file", "neurons"]))
        self.count = 0

    def one(self) -> Drawn:
        """A graph from an image, a sequence or a vector to a vector."""
        shape = [(2, 4, 4), (1, 3, 4), (3, 5), (2, 4), (6,), (4,)][self.rng.integers(6)]
        nodes, edges, end, out = self._chain(shape, int(self.rng.integers(1, 5)), depth=0)
        if len(out) > 1:
            nodes["flat"], _ = self._flatten(out)
            edges.append((end, "flat"))
            end, out = "flat", (int(np.prod(out)),)
        if self.told == "neurons":  # at least one that tells
            nodes["tells"] = nir.IF(*(np.full(out, x) for x in (1 / self.dt, 1.0, 0.0)))
            edges.append((end, "tells"))
            end = "tells"
        batch = (1,) if len(shape) != 2 and self._chance(0.2) else ()  # a sequence with one would be an image
        nodes["out"] = nir.Output({"output": np.array(batch + out)})
        nodes["in"].input_type = nodes["in"].output_type = {"input": np.array(batch + shape)}
        metadata = {"dt": self.dt} if self.told == "file" else {}
        graph = nir.NIRGraph(nodes, [*edges, (end, "out")], metadata, type_check=False)
        return Drawn(graph, self.dt, self.told, shape)

    def _chance(self, p: float) -> bool:
        return self.rng.random() < p

    def _chain(self, shape: Any, length: int, depth: int) -> tuple[dict[str, Any], list[Any], str, Any]:
        """Nodes after each other, from one called "in": nodes, edges, the last one's name, and its output's shape."""
        nodes: dict[str, Any] = {"in": nir.Input({"input": np.array(shape)})}
        edges, end = [], "in"
        for _ in range(length):
            self.count += 1
            name = f"n{self.count}"
            if depth < 2 and self._chance(0.15):  # a subgraph
                inner, inside, last, out = self._chain(shape, int(self.rng.integers(0, 3)), depth + 1)
                inner["out"] = nir.Output({"output": np.array(out)})
                nodes[name] = nir.NIRGraph(inner, [*inside, (last, "out")], type_check=False)
            else:
                nodes[name], out = self._node(shape)
            edges.append((end, name))
            if out == shape and self._chance(0.25):  # a shortcut
                nodes[f"{name}s"] = nir.Scale(np.ones(shape))
                edges += [(end, f"{name}s"), (name, f"{name}s")]
                name = f"{name}s"
            shape, end = out, name
        return nodes, edges, end, shape

    def _node(self, shape: Any) -> tuple[Any, Any]:
        kinds: list[Any] = [self._neurons] * 3 + [self._scale, self._threshold, self._delay]
        kinds += {1: [self._dense] * 3, 2: [self._conv1d] * 3, 3: [self._conv2d] * 3 + [self._pool] * 2}[len(shape)]
        kinds += [self._flatten] if len(shape) > 1 else []
        return kinds[self.rng.integers(len(kinds))](shape)

    def _values(self, shape: Any, low: int = -4, high: int = 4, unit: float = 0.5) -> Any:
        return self.rng.integers(low, high + 1, shape) * unit

    def _shape(self, shape: Any) -> Any:
        """A shape of constants for neurons of this shape."""
        full = tuple(shape)
        kinds = [full, full, (), (1,), (1, *full)]
        if len(full) > 1:
            kinds += [(full[0], *(1,) * (len(full) - 1))] + ([full[:1]] if full[-1] != full[0] else [])
        return kinds[self.rng.integers(len(kinds))]

    def _neurons(self, shape: Any) -> tuple[Any, Any]:
        s = self._shape(shape)
        plain = self.told == "neurons" or self._chance(0.5)
        tau = self.rng.choice([1.0, 2.0], s if self._chance(0.5) else ())
        r = tau if np.ndim(tau) or self._chance(0.5) else np.ones(())
        r = r if plain else self._values(s, -2, 4)
        v_reset = self._values(s, -2, 0) if self._chance(0.5) else np.zeros(s)
        v_threshold = v_reset + self._values(s if self._chance(0.5) else (), 1, 6)
        v_leak = v_reset if self._chance(0.5) else self._values(s, -2, 2)
        full = lambda x: np.broadcast_to(x, s).astype(self.rng.choice(["f4", "f8"]))  # noqa: E731
        current = full(r * np.ones(()) / self.dt if not plain else 1 / self.dt)
        kind = self.rng.integers(6)
        if kind <= 1:
            return nir.IF(current, full(v_threshold), full(v_reset)), shape
        if kind == 2:
            return nir.I(current), shape
        if kind == 3:
            return nir.LI(full(tau * self.dt), full(r), full(v_leak)), shape
        return nir.LIF(full(tau * self.dt), full(r), full(v_leak), full(v_threshold), full(v_reset)), shape

    def _scale(self, shape: Any) -> tuple[Any, Any]:
        return nir.Scale(np.asarray(self._values(self._shape(shape)))), shape

    def _threshold(self, shape: Any) -> tuple[Any, Any]:
        return nir.Threshold(np.asarray(self._values(self._shape(shape)))), shape

    def _delay(self, shape: Any) -> tuple[Any, Any]:
        return nir.Delay(np.zeros(shape)), shape

    def _dense(self, shape: Any) -> tuple[Any, Any]:
        n = int(self.rng.integers(1, 6))
        weight = self._values((n, shape[0])).astype(self.rng.choice(["f4", "f8"]))
        if self._chance(0.5):
            return nir.Linear(weight), (n,)
        return nir.Affine(weight, self._values(n)), (n,)

    def _flatten(self, shape: Any) -> tuple[Any, Any]:
        declared, start = [(shape, 0), ((1, *shape), 1), ((1, *shape), 0), (shape, -len(shape)), (None, 0)][
            self.rng.integers(5)
        ]
        declared = np.array(shape if declared is None else declared)
        end = int(self.rng.choice([-1, len(declared) - 1]))
        node = nir.Flatten({"input": declared}, int(start), end)
        return node, (int(np.prod(shape)),)

    def _conv2d(self, shape: Any) -> tuple[Any, Any]:
        c, h, w = shape
        kernel = self.rng.integers(1, 4, 2)
        stride, dilation = (self.rng.integers(1, 3, 2) for _ in range(2))
        padding: Any = self.rng.integers(0, 3, 2)
        named = self.rng.choice(["numbers", "numbers", "same", "valid"])
        stride = np.ones(2, int) if named == "same" else stride
        padding = padding if named == "numbers" else str(named)
        groups = int(self.rng.choice([1, c]))
        n = groups * int(self.rng.integers(1, 3))
        weight, bias = self._values((n, c // groups, *kernel)), self._values(n)
        one: Any = lambda x: int(x[0]) if not isinstance(x, str) and x[0] == x[1] and self._chance(0.5) else x  # noqa: E731
        node = nir.Conv2d((h, w), weight, one(stride), one(padding), one(dilation), groups, bias)
        return self._sized(node, shape)

    def _conv1d(self, shape: Any) -> tuple[Any, Any]:
        c, n = shape
        stride, dilation, kernel = (int(self.rng.integers(1, 3)) for _ in range(3))
        padding = [int(self.rng.integers(0, 3)), "same", "valid"][self.rng.integers(3)]
        stride = 1 if padding == "same" else stride
        groups = int(self.rng.choice([1, c]))
        out = groups * int(self.rng.integers(1, 3))
        weight = self._values((out, c // groups, kernel))
        return self._sized(nir.Conv1d(n, weight, stride, padding, dilation, groups, self._values(out)), shape)

    def _pool(self, shape: Any) -> tuple[Any, Any]:
        kind = [nir.AvgPool2d, nir.SumPool2d][self.rng.integers(2)]
        kernel = self.rng.choice([1, 2] if kind is nir.AvgPool2d else [1, 2, 3], 2)
        return self._sized(kind(kernel, self.rng.integers(1, 3, 2), self.rng.integers(0, 2, 2)), shape)

    def _sized(self, node: Any, shape: Any) -> tuple[Any, Any]:
        """The node with the shape of its output; neurons instead, if its windows do not fit."""
        nodes = {"in": nir.Input({"input": np.array(shape)}), "node": node, "out": nir.Output({"output": np.array(0)})}
        alone = nir.NIRGraph(nodes, [("in", "node"), ("node", "out")], type_check=False)
        try:
            out = simulate(alone, np.zeros((1, *shape)), 1.0)[0].shape[1:]
        except Undefined:
            return self._neurons(shape)
        return node, out


def damage(graph: nir.NIRGraph, rng: np.random.Generator) -> None:
    """One change of a field, an edge or a node, of the kind that a careless program or a mistaken hand makes."""
    within = [graph] + [node for node in graph.nodes.values() if isinstance(node, nir.NIRGraph)]
    chosen: Any = within[rng.integers(len(within))]
    names, edges = list(chosen.nodes), chosen.edges
    name = names[rng.integers(len(names))]
    node = chosen.nodes[name]
    match rng.integers(6):
        case 0 if edges:
            edges.pop(rng.integers(len(edges)))
        case 1 if edges:
            edges.append(edges[rng.integers(len(edges))][:: rng.choice([-1, 1])])
        case 2:
            edges.append((name, names[rng.integers(len(names))]))
        case 3:
            shape = [(4,), (2, 4), (2, 4, 4)][rng.integers(3)]
            kinds = [nir.Delay(np.full(shape, 0.5)), nir.CubaLI(*(np.ones(shape),) * 4), nir.Scale(np.ones(shape))]
            chosen.nodes[name] = kinds[rng.integers(3)]
        case _:
            _damage_field(node, rng)


def _damage_field(node: Any, rng: np.random.Generator) -> None:
    fields = {k: v for k, v in vars(node).items() if k not in ("output_type", "metadata", "nodes", "edges")}
    if isinstance(node, nir.Output):
        fields = {"output_type": node.output_type}
    elif not isinstance(node, nir.Input | nir.Flatten):
        del fields["input_type"]
    if not fields:
        return
    name = list(fields)[rng.integers(len(fields))]
    if name.endswith("_type"):
        (key,) = fields[name]
        fields[name][key] = _damaged(np.array(fields[name][key]), rng)
    else:
        setattr(node, name, _damaged(fields[name], rng))


def _damaged(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, str) or rng.random() < 0.1:
        return str(rng.choice(["same", "valid", "full"]))
    array = np.array(value)
    match rng.integers(5):
        case 0:
            return array.reshape(array.shape[::-1]) if array.ndim > 1 else array.reshape(-1, 1)
        case 1:
            return array[None] if rng.random() < 0.5 or array.ndim == 0 else array[:-1]
        case 2:
            return array.astype(rng.choice(["c8", "i4", "u1", "S3", "?"]))
        case _:
            array = array.astype(float) if rng.random() < 0.5 else array
            extreme = [0, -1, 1, 3] + [np.nan, np.inf, 0.5, 1e39, 1e-46] * (array.dtype.kind == "f")
            array[rng.random(array.shape) < 0.5] = rng.choice(extreme)
            return array
