"""Files of NIR as other programs write them, against `nir_graphs.simulate`, or values worked out by hand."""

import contextlib
import functools
import itertools
import warnings
from pathlib import Path
from typing import Any

import comparison
import flax.linen
import h5py
import jax
import jax.numpy as jnp
import nir
import numpy as np
import pytest
from nir_graphs import Draw, damage, simulate
from representative import representatives, slow

from snnkd_jax.dynamics.neurons import IF, LIF
from snnkd_jax.errors import InputError
from snnkd_jax.interop.nir import read_nir, write_nir
from snnkd_jax.models import Network
from snnkd_jax.models.activation import Spike

DT = 2.0**-13
T = 4


def chain(*nodes: Any, shape: Any, output: Any) -> nir.NIRGraph:
    """Input, the nodes as n0, n1, ..., and output, one after the other."""
    named = {f"n{i}": node for i, node in enumerate(nodes)}
    return between(named, list(itertools.pairwise(["in", *named, "out"])), shape, output)


def between(nodes: dict[str, Any], edges: Any, shape: Any, output: Any) -> nir.NIRGraph:
    """The nodes with an input "in" and an output "out"."""
    ends = {"in": nir.Input({"input": np.array(shape)}), "out": nir.Output({"output": np.array(output)})}
    return nir.NIRGraph(nodes | ends, edges, type_check=False)


def written(graph: nir.NIRGraph, directory: Path) -> Path:
    nir.write(directory / "net.nir", graph, compression=None)  # pyright: ignore[reportArgumentType]
    return directory / "net.nir"


def refuse(graph: nir.NIRGraph, directory: Path, match: str, **options: Any) -> None:
    with pytest.raises(InputError, match=r"net\.nir: .*" + match):
        read_nir(written(graph, directory), **{"num_steps": T, "dt": DT} | options)


def outputs(read: Any, frames: Any) -> Any:
    """`[T, ...]` of the network, channels first, for frames `[T, ...]` of one image, channels first."""
    images = frames[:, None, None] if frames.ndim == 2 else np.moveaxis(frames, 1, -1)
    images = images[:, None] if images.ndim == 3 else images
    with jax.disable_jit():
        found = read.network.apply(read.variables, jnp.asarray(images[None], jnp.float32))[0][0]
    return np.moveaxis(np.asarray(found), -1, 1)


def frames_of(shape: Any, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-2, 5, (T, *shape)).astype(float)


def agrees(graph: nir.NIRGraph, directory: Path, shape: Any, dt: float = DT) -> Any:
    """Reads the graph, and compares it, and what is written of it, with the simulation to the bit."""
    expected, exact = simulate(graph, frames_of(shape), dt)
    assert exact, "a test of values that float32 rounds"
    read = read_nir(written(graph, directory), num_steps=T, dt=dt)
    found = outputs(read, frames_of(shape))
    np.testing.assert_array_equal(found, expected.reshape(found.shape))
    write_nir(directory / "again.nir", read.network, read.variables, read.image_shape, dt=dt)
    again = read_nir(directory / "again.nir")
    np.testing.assert_array_equal(outputs(again, frames_of(shape)), found)
    return read


def lif(tau: Any = 2 * DT, r: Any = 1.0, v_leak: Any = 0.0, v_threshold: Any = 1.0, v_reset: Any = 0.0) -> nir.LIF:
    return nir.LIF(*np.broadcast_arrays(*map(np.float64, (tau, r, v_leak, v_threshold, v_reset))))


MAP = (2, 3, 4)
FULL = np.arange(24.0).reshape(MAP) / 4
NEURONS = {
    "one value, ()": lif(),
    "one value, (1,)": lif(v_threshold=np.ones(1)),
    "per channel, (C,)": lif(v_threshold=np.array([1.0, 2.5])),
    "per channel, (C, 1, 1)": lif(tau=np.array([1.0, 4.0]).reshape(2, 1, 1) * DT),
    "per neuron": lif(v_threshold=0.5 + FULL),
    "per neuron, a batch of one": lif(v_threshold=0.5 + FULL[None]),
    "leak above reset": lif(v_leak=0.5, v_reset=-1.0),
    "leak per channel": lif(v_leak=np.array([0.5, -0.5]).reshape(2, 1, 1)),
    "leak above threshold": lif(v_leak=2.0),
    "any r": lif(r=3.0),
    "r = 0": lif(r=0.0),
    "negative r": lif(r=-2.0),
    "r per neuron": lif(r=FULL),
    "decay_input=False": lif(tau=4 * DT, r=4.0),
    "IF at r = 1": nir.IF(np.full(MAP, 1.0), np.full(MAP, DT)),
    "IF with r = 0": nir.IF(np.full(MAP, 0.0), np.full(MAP, DT)),
    "IF per channel": nir.IF(np.full((2, 1, 1), 2 / DT), np.array([1.0, 2.0]).reshape(2, 1, 1)),
    "LI": nir.LI(np.full(MAP, 2 * DT), np.ones(MAP), FULL),
    "I": nir.I(FULL / DT),
    "Threshold": nir.Threshold(np.array([1.0, 0.0]).reshape(2, 1, 1)),
    "Threshold below 0": nir.Threshold(np.full(MAP, -1.0)),
    "Scale": nir.Scale(FULL),
    "Scale per channel": nir.Scale(np.array([0.5, -2.0])),
    "no delay": nir.Delay(np.zeros(MAP)),
}
FIRST = {"per channel, (C,)", "per neuron", "leak above reset", "LI", "Threshold", "Scale"}


@pytest.mark.parametrize("name", [name if name in FIRST else slow(name) for name in NEURONS])
def test_constants_are_those_of_the_file(name, tmp_path):
    agrees(chain(NEURONS[name], shape=MAP, output=MAP), tmp_path, MAP)


def conv(weight: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> nir.Conv2d:
    return nir.Conv2d((3, 4), weight, stride, padding, dilation, groups, np.arange(len(weight)) / 2)


def weights(*shape: int) -> Any:
    return np.random.default_rng(1).integers(-4, 5, shape) / 4


LAYERS = {
    "groups": (conv(weights(4, 1, 2, 2), groups=2), (4, 2, 3)),
    "dilation": (conv(weights(3, 2, 2, 2), padding=1, dilation=(2, 1)), (3, 3, 5)),
    "not square": (conv(weights(3, 2, 1, 3), stride=(2, 1)), (3, 2, 2)),
    "same": (conv(weights(2, 2, 2, 3), padding="same"), (2, 3, 4)),
    "same, dilated": (conv(weights(2, 2, 2, 2), padding="same", dilation=(1, 3)), (2, 3, 4)),
    "valid": (conv(weights(2, 2, 3, 3), padding="valid"), (2, 1, 2)),
    "sum pooling": (nir.SumPool2d(np.array([3, 2]), np.array([1, 2]), np.array([1, 0])), (2, 3, 2)),
    "average pooling": (nir.AvgPool2d(np.array([2, 2]), np.array([2, 1]), np.array([1, 1])), (2, 2, 5)),
}


@pytest.mark.parametrize("name", [name if name in ("groups", "same", "sum pooling") else slow(name) for name in LAYERS])
def test_layers_are_those_of_the_file(name, tmp_path):
    layer, shape = LAYERS[name]
    agrees(chain(layer, nir.Threshold(np.full(shape, 0.5)), shape=MAP, output=shape), tmp_path, MAP)


def test_a_sequence_is_a_map_of_height_1(tmp_path):
    layer = nir.Conv1d(5, weights(4, 1, 2), 1, "same", 2, 2, np.zeros(4))
    whole = nir.Flatten({"input": np.array([4, 5])}, 0)
    graph = chain(layer, lif(v_threshold=np.ones((4, 1))), whole, nir.Linear(weights(3, 20)), shape=(2, 5), output=(3,))
    assert agrees(graph, tmp_path, (2, 5)).image_shape == (1, 5, 2)


FLATTENS = {
    "as NIR": nir.Flatten({"input": np.array(MAP)}, 0),
    "from the end": nir.Flatten({"input": np.array(MAP)}, -3, 2),
    "a batch of one": nir.Flatten({"input": np.array([1, *MAP])}, 1),
    "as PyTorch": nir.Flatten({"input": np.array(MAP)}, 1),
    "as PyTorch, to the last": nir.Flatten({"input": np.array(MAP)}, 1, 3),
}


@pytest.mark.parametrize("name", FLATTENS)
def test_flatten_with_and_without_the_batch(name, tmp_path):
    agrees(chain(FLATTENS[name], nir.Linear(weights(3, 24)), shape=MAP, output=(3,)), tmp_path, MAP)


def test_a_batch_of_one_is_left_out(tmp_path):
    """As sinabs writes the convolutional network of the NIR paper."""
    neurons = nir.IF(*(np.full((1, *MAP), x) for x in (1.0, 1.0, 0.0)))
    flat = nir.Flatten({"input": np.array([1, *MAP])}, 1)
    graph = chain(neurons, flat, nir.Linear(weights(3, 24)), shape=(1, *MAP), output=(1, 3))
    read = agrees(graph, tmp_path, MAP, dt=1.0)
    assert read.image_shape == (3, 4, 2)


def test_subgraphs_are_flattened(tmp_path):
    within = chain(nir.Scale(np.full(4, 2.0)), shape=(4,), output=(4,))
    nothing = chain(shape=(4,), output=(4,))
    block = chain(within, lif(v_threshold=np.arange(1.0, 5)), nothing, shape=(4,), output=(4,))
    graph = chain(block, nothing, nir.Linear(weights(3, 4)), shape=(4,), output=(3,))
    graph.edges.append(("in", "n1"))  # a shortcut into a subgraph, whose input is a sum
    read = agrees(graph, tmp_path, (4,))
    names = [name for name, *_ in read.network.module.layers]
    assert names == ["vector", "n0.n0.n0", "n0.n1", "n1.in", "n2"]


def test_a_potential_can_be_read_out_and_no_firing_rate_is_made_of_it(tmp_path):
    graph = chain(
        lif(np.full(4, 2 * DT)),
        nir.Linear(weights(3, 4)),
        nir.LI(*(np.full(3, x) for x in (2 * DT, 1, 0))),
        shape=(4,),
        output=(3,),
    )
    read = agrees(graph, tmp_path, (4,))
    _, features = read.network.apply(read.variables, jnp.ones((1, 1, 1, 4)))
    assert set(features["firing_rates"]) == {"n0"}
    (first, _), state = read.network.with_steps(2).apply_from(read.variables, jnp.ones((1, 1, 1, 4)), None)
    (second, _), _ = read.network.with_steps(2).apply_from(read.variables, jnp.ones((1, 1, 1, 4)), state)
    whole, _ = read.network.apply(read.variables, jnp.ones((1, 1, 1, 4)))
    np.testing.assert_array_equal(jnp.concatenate([first, second], axis=1), whole)


def test_a_network_without_neurons_has_logits_at_every_step(tmp_path):
    read = agrees(chain(nir.Linear(weights(3, 4)), shape=(4,), output=(3,)), tmp_path, (4,))
    logits, _ = read.network.apply(read.variables, jnp.ones((2, 1, 1, 4)))
    np.testing.assert_array_equal(logits, np.broadcast_to(weights(3, 4).sum(axis=1), (2, T, 3)))


def neurons_of(read: Any) -> list[Any]:
    return [make for _, make, _ in read.network.module.layers if isinstance(make, LIF | IF)]


ONE_DT = {
    "sinabs": ([nir.IF(np.ones(4), np.ones(4))], 1.0, [IF(1.0)]),
    "weights 1": ([lif(np.full(4, 4e-3), r=4)], 1e-3, [LIF(4.0, decay_input=False)]),
    "two": ([lif(np.full(4, 4e-3)), nir.IF(np.full(4, 1e3), np.ones(4))], 1e-3, [LIF(4.0), IF(1.0)]),
}


@pytest.mark.parametrize("name", ONE_DT)
def test_dt_is_that_of_the_neurons_if_there_is_one(name, tmp_path):
    nodes, dt, neurons = ONE_DT[name]
    path = written(chain(*nodes, shape=(4,), output=(4,)), tmp_path)
    with pytest.warns(UserWarning, match=rf"net\.nir.* dt={dt:g} s"):
        read = read_nir(path, num_steps=T)
    assert (read.dt, neurons_of(read)) == (pytest.approx(dt), neurons)
    assert read_nir(path, num_steps=T, dt=dt / 2).dt == dt / 2  # without a warning


def test_the_dt_that_is_taken_without_a_warning_is_said_by_the_network(tmp_path):
    path = written(chain(lif(np.full(4, 2e-4)), shape=(4,), output=(4,)), tmp_path)
    assert read_nir(path, num_steps=T).dt == 1e-4


NO_DT = {
    "two values": ([nir.IF(np.ones(4), np.ones(4)), nir.I(np.full(4, 2.0))], r"'n0' needs 1 .*'n1' needs 0\.5"),
    "too long": ([nir.IF(np.ones(4), np.ones(4)), lif(np.full(4, 0.5))], r"'n0' needs 1 .*'n1' has tau=0\.5"),
    "too long for the default": ([lif(np.full(4, 5e-5))], r"default is 0\.0001.*'n0' has tau=5e-05"),
    "differs": ([nir.IF(np.arange(1.0, 5), np.ones(4))], "give dt"),
    "zero": ([nir.IF(np.zeros(4), np.ones(4))], "give dt.*none gives 'n0'"),
    "negative": ([nir.IF(-np.ones(4), np.ones(4))], "give dt"),
}


@pytest.mark.parametrize("name", NO_DT)
def test_dt_is_asked_for_if_there_is_not_one(name, tmp_path):
    nodes, match = NO_DT[name]
    graph = chain(*nodes, shape=(4,), output=(4,))
    refuse(graph, tmp_path, match, dt=None)
    if name != "too long for the default":
        read_nir(written(graph, tmp_path), num_steps=T, dt=1e-4)  # as the message says


ones = np.ones(4)
REFUSED = {
    "synapses": (nir.CubaLIF(*(ones,) * 5), r"'n0': type 'CubaLIF'.*before or after.*write an LI"),
    "synapses without spikes": (nir.CubaLI(*(ones,) * 4), r"'n0': type 'CubaLI'.*write an LI"),
    "delay": (nir.Delay(ones * DT), r"'n0': delay=0\.00012.*only 0"),
    "short tau": (lif(DT / 2), r"'n0': tau=6\.1.*dt=0\.00012.*give dt=6\.1"),
    "no tau": (lif(0.0), r"'n0': tau=0 must be positive"),
    "negative tau": (lif(-2 * DT), r"'n0': tau=-0\.00024.* must be positive"),
    "threshold at reset": (lif(v_reset=1.0), r"'n0': v_threshold=1\.0 .*v_reset=1\.0"),
    "threshold at reset in float32": (
        lif(v_threshold=1 + 1e-9, v_reset=1.0),
        r"'n0': v_threshold=1\.000000001 .*float32",
    ),
    "threshold that counts as 0": (lif(v_threshold=1e-40), r"'n0': v_threshold=1e-40 .*float32"),
    "one threshold below": (lif(v_threshold=np.array([1.0, 1, -1, 1])), r"'n0': v_threshold=-1\.0"),
    "other length": (lif(v_threshold=np.ones(5)), r"'n0': it takes \(5,\), but is given \(4,\)"),
    "nan": (lif(v_leak=np.nan), r"'n0': v_leak .*not finite"),
    "nan in one": (nir.Scale(np.array([1, 2, np.nan, 4])), r"'n0': scale .*not finite"),
    "complex": (nir.Scale(ones * 1j), r"'n0': scale .*complex.*numbers"),
    "text": (nir.Scale(np.array([b"1"] * 4)), r"'n0': scale .*numbers"),
    "no weights": (nir.Linear(np.ones((0, 4))), r"'n0': weight .*\(0, 4\)"),
    "weights of three axes": (nir.Linear(np.ones((2, 3, 4))), r"'n0': weight has shape \(2, 3, 4\)"),
    "pooling of a vector": (nir.AvgPool2d(*(np.array([2, 2]),) * 3), r"'n0': pooling .*\(4,\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_exact_meaning_is_refused_by_name(name, tmp_path):
    node, match = REFUSED[name]
    shape = (3,) if isinstance(node, nir.Linear) else (4,)
    refuse(chain(node, shape=(4,), output=shape), tmp_path, match)


def test_a_weight_that_float32_does_not_hold_is_refused(tmp_path):
    neurons = nir.IF(np.full(4, 1e38), ones)
    refuse(chain(neurons, shape=(4,), output=(4,)), tmp_path, r"'n0': r=1e\+38 at dt=10000 .*float32", dt=1e4)


REFUSED_ON_MAPS = {
    "channels or columns": (
        nir.Scale(np.array([1.0, 2, 3])),
        r"'n0': .*channel or per column.*\(3, 1, 1\)",
    ),
    "rows": (nir.Scale(np.ones((5, 3))), r"'n0': it takes \(5, 3\), but is given \(3, 5, 3\)"),
    "other map": (lif(v_threshold=np.ones((3, 3, 5))), r"'n0': it takes \(3, 3, 5\), but is given \(3, 5, 3\)"),
    "no flatten": (nir.Linear(np.ones((2, 45))), r"'n0': it takes \(45,\).*\(3, 5, 3\); a Flatten"),
    "part of the map": (nir.Flatten({"input": np.array([3, 5, 3])}, 0, 1), r"'n0': start_dim=0 and end_dim=1"),
    "same": (nir.Conv2d((5, 3), np.ones((2, 3, 3, 3)), 2, "same", 1, 1, ones[:2]), r"'n0': padding='same' at stride"),
    "groups": (nir.Conv2d((5, 3), np.ones((2, 1, 3, 3)), 1, 0, 1, 2, ones[:2]), r"'n0': it takes \(2, 5, 3\)"),
    "uneven groups": (nir.Conv2d((5, 3), np.ones((2, 1, 1, 1)), 1, 0, 1, 3, ones[:2]), r"'n0': kernel"),
    "stride": (nir.Conv2d((5, 3), np.ones((2, 3, 3, 3)), -1, 0, 1, 1, ones[:2]), r"'n0': stride=\[-1, -1\]"),
    "endless padding": (nir.SumPool2d(np.array([2, 2]), np.ones(2), np.full(2, 1e30)), r"'n0': padding=\[1e\+30"),
    "half a stride": (nir.SumPool2d(np.array([2, 2]), np.array([1.5, 1]), np.zeros(2)), r"'n0': stride=\[1\.5, 1"),
    "large window": (nir.AvgPool2d(np.array([6, 2]), np.ones(2), np.zeros(2)), r"'n0': windows of \(6, 2\)"),
}


@pytest.mark.parametrize("name", REFUSED_ON_MAPS)
def test_what_has_no_exact_meaning_on_maps_is_refused_by_name(name, tmp_path):
    node, match = REFUSED_ON_MAPS[name]
    refuse(chain(node, shape=(3, 5, 3), output=(2,)), tmp_path, match)


def two_ports(kind: str) -> nir.NIRGraph:
    graph = chain(nir.Scale(ones), shape=(4,), output=(4,))
    graph.nodes["more"] = nir.Input({"input": np.array([4])}) if kind == "in" else nir.Output({"output": np.array([4])})
    graph.edges.append(("more", "n0") if kind == "in" else ("n0", "more"))
    return graph


def edited(*edges: tuple[str, str], **nodes: Any) -> nir.NIRGraph:
    graph = chain(nir.Scale(ones), nir.Scale(ones), shape=(4,), output=(4,))
    graph.nodes |= nodes
    graph.edges += edges
    return graph


SHAPES = {
    "two inputs": (two_ports("in"), r"it has 2 nodes of type Input \('in', 'more'\)"),
    "two outputs of a subgraph": (
        chain(two_ports("out"), shape=(4,), output=(4,)),
        r"'n0': it has 2 nodes of type Output",
    ),
    "an edge twice": (edited(("n0", "n1")), r"'n1' reads 'n0' twice.*Scale of 2"),
    "recurrent": (edited(("n1", "n0")), r"are a cycle"),
    "recurrent to itself": (edited(("n1", "n1")), r"n1 -> n1 are a cycle"),
    "isolated": (edited(more=nir.Scale(ones)), r"'more' is not on a way from 'in' to 'out'; remove it"),
    "time": (
        chain(nir.Scale(ones), shape=(9, 4, 2, 2), output=(4,)),
        r"'in': .*\(9, 4, 2, 2\).*without batch and time",
    ),
    "empty axis": (chain(nir.Scale(ones), shape=(0,), output=(4,)), r"'in': shape .*at least 1"),
    "output": (chain(nir.Scale(ones), shape=(4,), output=(5,)), r"'out': it takes \(5,\), but is given \(4,\)"),
    "names": (
        between(
            {"a.n0": nir.Scale(ones), "a": chain(nir.Scale(ones), shape=(4,), output=(4,))},
            [("in", "a"), ("a", "a.n0"), ("a.n0", "out")],
            (4,),
            (4,),
        ),
        r"two nodes are called 'a\.n0'.*rename",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_graphs_without_an_exact_meaning_are_refused(name, tmp_path):
    graph, match = SHAPES[name]
    refuse(graph, tmp_path, match)


def drawn_and_read(seed: int, directory: Path, change: Any = None) -> tuple[Any, Any, Any]:
    """A random graph, frames of T steps, and what is read of it; only "net.nir does not say its dt" may be warned."""
    rng = np.random.default_rng(seed)
    drawn = Draw(rng).one()
    frames = rng.integers(-2, 4, (T, *drawn.shape)).astype(float)
    if change is not None:
        change(drawn.graph, rng)
    dt = drawn.dt if drawn.told == "given" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*net\.nir does not say")
        return drawn, frames, read_nir(written(drawn.graph, directory), num_steps=T, dt=dt)


def assert_same(drawn: Any, frames: Any, read: Any) -> None:
    expected, exact = simulate(drawn.graph, frames, read.dt)
    if exact:
        found = outputs(read, frames)
        comparison.agrees(found, expected.reshape(found.shape), name="NIR's nodes, random graphs")


@pytest.mark.parametrize("seeds", [range(2), slow(range(2, 30))], ids=len)
def test_random_graphs_are_read_as_the_network_that_they_are(seeds, tmp_path):
    for seed in seeds:
        drawn, frames, read = drawn_and_read(seed, tmp_path)
        assert read.dt == pytest.approx(drawn.dt)
        assert_same(drawn, frames, read)


@pytest.mark.parametrize("seeds", [range(20), slow(range(20, 200))], ids=len)
def test_damaged_random_graphs_are_refused_or_the_network_that_they_are(seeds, tmp_path):
    refused = 0
    for seed in seeds:
        try:
            found = drawn_and_read(seed, tmp_path, damage)
        except InputError as error:
            refused += "net.nir: " in str(error)  # with the node; "is damaged" is for what nobody thought of
            continue
        assert_same(*found)
    assert refused > len(seeds) / 2


def test_arguments_are_checked_before_the_file(tmp_path):
    cases: Any = (
        ({"dt": "1e-4"}, "dt='1e-4' must be the seconds"),
        ({"dt": -1.0}, r"dt=-1\.0 must be the seconds"),
        ({"num_steps": 2.5}, r"num_steps=2\.5 must be a whole number"),
        ({"num_steps": 0}, "num_steps=0 must be a whole number"),
    )
    for options, match in cases:
        with pytest.raises(InputError, match=match):
            read_nir(tmp_path / "gone.nir", **options)


def test_a_field_that_is_missing_or_unknown_is_named(tmp_path):
    path = written(chain(lif(ones), shape=(4,), output=(4,)), tmp_path)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/n0/v_reset"]
    assert read_nir(path, num_steps=T, dt=1.0).image_shape == (1, 1, 4)  # as nir <= 1.0.4 writes it
    with h5py.File(path, "r+") as file:
        file["node/nodes/n0/v_reset"], file["node/nodes/n0/refractory"] = np.zeros(4), np.ones(4)
    with pytest.raises(InputError, match=r"'n0': refractory of type 'LIF' is unknown"):
        read_nir(path, num_steps=T, dt=1.0)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/n0/refractory"], file["node/nodes/n0/tau"]
    with pytest.raises(InputError, match=r"'n0': type 'LIF' without tau"):
        read_nir(path, num_steps=T, dt=1.0)


def test_what_a_file_cannot_hold_is_not_read(tmp_path):
    path = written(chain(lif(ones), shape=(4,), output=(4,)), tmp_path)
    content = path.read_bytes()

    def refused(edit: Any, match: str) -> None:
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            edit(file["node/nodes/n0"])
        with pytest.raises(InputError, match=match):
            read_nir(path, num_steps=T)

    def claim(node: Any) -> None:
        node.create_dataset("more", (2**40,), "f4", chunks=(2**10,))

    def itself(node: Any) -> None:
        node["more"] = node

    def outside(node: Any) -> None:
        node["more"] = h5py.ExternalLink("other.h5", "x")

    def raw(node: Any) -> None:
        node.create_dataset("more", (4,), "f4", external=[("/dev/zero", 0, 100)])

    refused(claim, r"n0/more claims 4398046511104 bytes, and 0 are stored")
    refused(itself, r"n0/more is a group under two names")
    refused(outside, r"n0/more refers to something else")
    refused(raw, r"n0/more refers to something else")


def test_many_sums_of_nothing_are_read_at_once(tmp_path):
    """Two delays of 0, both read by both of the next two, and so on: 2^40 ways to the output."""
    nodes = {f"{side}{i}": nir.Delay(np.zeros(4)) for i in range(40) for side in "ab"}
    edges = [(f"{x}{i - 1}", f"{y}{i}") for i in range(1, 40) for x in "ab" for y in "ab"]
    edges += [("in", "a0"), ("in", "b0"), ("a39", "out"), ("b39", "out")]
    read_nir(written(between(nodes, edges, (4,), (4,)), tmp_path), num_steps=T)


@pytest.mark.parametrize("seeds", [range(20), slow(range(20, 200))], ids=len)
def test_damaged_bytes_are_refused_or_change_a_number(seeds, tmp_path):
    """A file of another program has no checksum: a changed number is a number. No other error may be raised."""
    graph = chain(nir.Linear(weights(3, 4)), lif(np.full(3, 1e-4)), shape=(4,), output=(3,))
    content = written(graph, tmp_path).read_bytes()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        changed = np.frombuffer(content, np.uint8).copy()
        for i in rng.integers(len(changed), size=rng.integers(1, 9)):
            changed[i : i + rng.integers(1, 9)] = rng.integers(256)
        cut = int(rng.integers(len(changed))) if seed % 4 == 0 else len(changed)
        (tmp_path / "net.nir").write_bytes(changed[:cut].tobytes())
        with contextlib.suppress(InputError):
            read_nir(tmp_path / "net.nir", num_steps=T, dt=1e-4)


class OwnConvolution(flax.linen.Module):
    """A convolution with options of a user, before neurons."""

    activation: Any
    options: Any

    @flax.linen.compact
    def __call__(self, x: Any, train: bool) -> Any:
        """`[B, T, H, W, C]` to a map."""
        del train
        return self.activation(name="act")(flax.linen.Conv(4, (2, 3), name="conv", **dict(self.options))(x)), {}


def own_convolution(**options: Any) -> tuple[Any, Any]:
    activation = functools.partial(Spike, LIF(v_threshold=0.625), num_steps=T)
    network = Network(OwnConvolution(activation, tuple(options.items())), T)
    shape = (2, 3, 2 // options.get("feature_group_count", 1), 4)
    return network, {"params": {"conv": {"kernel": weights(*shape), "bias": np.arange(4) / 4}}, "batch_stats": {}}


EXPORTED = {
    "grouped, as same": {"feature_group_count": 2, "padding": ((0, 1), (1, 1))},
    "dilated": {"kernel_dilation": (2, 1), "padding": (2, 1), "strides": (1, 2)},
    "valid": {"padding": 0},
}


@pytest.mark.parametrize("name", representatives(EXPORTED, lambda name: name == "dilated"))
def test_own_convolutions_are_written(name, tmp_path):
    network, variables = own_convolution(**EXPORTED[name])
    write_nir(tmp_path / "net.nir", network, variables, (3, 4, 2), dt=DT)
    frames = frames_of((2, 3, 4))
    graph: Any = nir.read(tmp_path / "net.nir", type_check=False)
    expected, exact = simulate(graph, frames, DT)
    assert exact
    with jax.disable_jit():
        found = network.apply(variables, jnp.asarray(np.moveaxis(frames, 1, -1)[None], jnp.float32))[0][0]
    np.testing.assert_array_equal(np.moveaxis(np.asarray(found), -1, 1), expected)
    np.testing.assert_array_equal(outputs(read_nir(tmp_path / "net.nir"), frames), expected)


def test_padding_that_nir_does_not_have_is_refused(tmp_path):
    for padding, match in (
        (((1, 0), (1, 1)), r"node 'conv': padding=\(\(1, 0\), \(1, 1\)\) is uneven.*make it even"),
        ("SAME", r"conv: padding='SAME'.*in numbers"),
    ):
        with pytest.raises(InputError, match=match):
            write_nir(tmp_path / "net.nir", *own_convolution(padding=padding), (3, 4, 2))
