"""Files of NIR against a reader in plain NumPy that knows nothing of this library, spike for spike.

The networks there have weights, images and time constants that are multiples of powers of two, few enough bits that
every sum is exact in float32: its order does not matter, and no spike may differ. Thresholds lie between the
multiples, where v > v_threshold and v >= v_threshold are the same.
"""

import functools
import importlib
import io
import sys
from typing import Any

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import nir
import numpy as np
import pytest
from check_nir import Counts
from peers import nir_readers as readers
from representative import representatives, slow

from snnkd_jax.cli.export_nir import export_nir
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.neurons import IF, ILIF, LIF, PLIF
from snnkd_jax.errors import InputError
from snnkd_jax.inference import trained as loading
from snnkd_jax.inference.trained import Trained
from snnkd_jax.interop.nir import read_nir, write_nir
from snnkd_jax.models import Network, build
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.converted import convert_to_spiking
from snnkd_jax.models.layers import BatchNorm

T = 4
NORMALISATION = Normalisation((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
V_THRESHOLD = 0.5 + 2**-16


def dyadic_variables(network, image_shape):
    """Variables whose norms scale and shift by multiples of powers of two; plif has tau = 2."""
    rng = np.random.default_rng(0)

    def leaf(path, x):
        key = path[-1].key
        if key == "kernel":
            x = np.round(32 * rng.normal(size=x.shape) * (2 / np.prod(x.shape[:-1])) ** 0.5) / 16
        elif key == "scale":
            x = rng.choice([0.5, 1.0, 2.0], x.shape)
        elif key == "var":
            x = np.full(x.shape, np.float32(1) - np.float32(1e-5))
        else:
            x = np.zeros(()) if key == "w" else rng.integers(-1, 4, x.shape) / 8
        return jnp.asarray(x, jnp.float32)

    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def dyadic_frames(image_shape, num_steps):
    rng = np.random.default_rng(1)
    h, w, c = image_shape
    return (rng.integers(-8, 9, (3, num_steps, c, h, w)) / 4).astype(np.float32)


def assert_same_spikes(found, expected):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x, err_msg=name)
        if name != "output":
            assert 0.01 < x.mean() < 0.99, f"{name} shows little: its rate is {x.mean()}"


CASES = {
    "convnet": ("convnet", (12, 8, 3), LIF(v_threshold=V_THRESHOLD), 1),
    "convnet-reset": ("convnet", (12, 8, 1), IF(V_THRESHOLD, -0.25), 1),
    "vgg11": ("vgg11", (32, 16, 3), LIF(2.0, V_THRESHOLD, 0.25, decay_input=False), 1),
    "resnet19": ("resnet19", (16, 8, 3), LIF(4.0, V_THRESHOLD, decay_input=False), T),
    "wrn-16-2": ("wrn-16-2", (8, 16, 2), IF(V_THRESHOLD), 1),
    "airbench94": ("airbench94", (16, 8, 3), PLIF(v_threshold=V_THRESHOLD), T),
}
"""Every architecture, by the model, `[H, W, C]`, the neurons, and the number of frames: 1 for a static image."""
QUICK = {"convnet", "convnet-reset"}


@pytest.fixture(scope="module")
def written(request, tmp_path_factory):
    """A file, frames for its readers, the same with T = 1 if they are constant, and what the network makes of them."""
    model, image_shape, neuron, num_frames = CASES[request.param]
    network = build(model, 5, neuron=neuron, num_steps=T, width=0.1)
    variables = dyadic_variables(network, image_shape)
    path = tmp_path_factory.mktemp(request.param) / "net.nir"
    write_nir(path, network, variables, image_shape, normalisation=NORMALISATION)
    frames = dyadic_frames(image_shape, num_frames)
    expected = readers.library_reader(network, variables, jax.jit)(frames)
    return path, np.repeat(frames, T // num_frames, axis=1), frames, expected


@pytest.mark.parametrize("written", representatives(CASES, QUICK.__contains__), indirect=True)
def test_numpy_reads_the_file_spike_for_spike(written):
    path, frames, _, expected = written
    assert_same_spikes(readers.numpy_reader(path)(frames), expected)


@pytest.mark.parametrize("written", ["convnet", slow("wrn-16-2")], indirect=True)
def test_read_network_is_the_written_one(written, tmp_path):
    path, _, frames, expected = written
    read = read_nir(path)
    c, h, w = frames.shape[2:]
    assert (read.image_shape, read.normalisation, read.network.num_steps) == ((h, w, c), NORMALISATION, T)
    assert_same_spikes(readers.library_reader(read.network, read.variables, jax.jit)(frames), expected)
    again: Any = write_nir(tmp_path / "again.nir", read.network, read.variables, read.image_shape)
    graph: Any = nir.read(path)
    assert sorted(again.edges) == sorted(graph.edges)
    for name, node in graph.nodes.items():
        assert type(node) is type(again.nodes[name])
        if isinstance(node, nir.Conv2d | nir.Affine):
            np.testing.assert_array_equal(again.nodes[name].weight, node.weight)
            np.testing.assert_array_equal(again.nodes[name].bias, node.bias)


ISI = [6, 15, 4, 3, 0, 2, 1, 2, 0, 1] + [0] * 10 + [13] + [0] * 11 + [5, 0, 14]
"""Inter-spike intervals of the experiment with one neuron of the NIR paper (Pedersen et al. 2024)."""


class OneNeuron(nn.Module):
    activation: functools.partial

    @nn.compact
    def __call__(self, x, train):
        del train
        return self.activation(name="neuron")(x), {}


def one_neuron_of_the_paper():
    """The input current at 1000 steps, a network of the one neuron, and the steps at which it fires in the paper."""
    spikes = np.array([spike for isi in ISI for spike in [0] * isi + [1]][:100], np.float32)
    current = np.zeros(1000, np.float32)
    current[::10] = spikes
    assert current.sum() == 34
    activation = functools.partial(Spike, LIF(tau=25.0, v_threshold=0.1), num_steps=1000)
    return current, Network(OneNeuron(activation), 1000), [460, 510, 710, 760]


def test_one_neuron_of_the_paper(tmp_path):
    """Written by this library and read by NumPy, and the other way round. Norse, snnTorch and Nengo fire there too."""
    current, network, expected = one_neuron_of_the_paper()
    write_nir(tmp_path / "ours.nir", network, {"params": {}, "batch_stats": {}}, (1, 1, 1))
    found = readers.numpy_reader(tmp_path / "ours.nir")(current.reshape(1, 1000, 1, 1, 1))
    assert np.flatnonzero(found["neuron"]).tolist() == expected

    one = np.ones(1)
    lif = nir.LIF(tau=25e-4 * one, r=one, v_leak=0 * one, v_threshold=0.1 * one, v_reset=0 * one)
    nir.write(tmp_path / "theirs.nir", nir.NIRGraph.from_list(nir.Linear(np.ones((1, 1), np.float32)), lif))
    read = read_nir(tmp_path / "theirs.nir", num_steps=1000)
    spikes = read.network.apply(read.variables, jnp.asarray(current.reshape(1, 1000, 1, 1, 1)))[0]
    assert np.flatnonzero(spikes).tolist() == expected


def test_learnt_time_constant_and_dt_are_written(tmp_path):
    network = build("convnet", 5, neuron=PLIF(), num_steps=T, width=0.1)
    variables = dyadic_variables(network, (8, 8, 1))
    variables["params"]["act2"]["w"] = jnp.float32(-np.log(4.5))
    graph: Any = write_nir(tmp_path / "net.nir", network, variables, (8, 8, 1), dt=1e-3)
    np.testing.assert_allclose(graph.nodes["act2"].tau, 5.5e-3, rtol=1e-6)
    np.testing.assert_allclose(graph.nodes["act1"].tau, 2e-3, rtol=1e-6)
    assert nir.read(tmp_path / "net.nir").metadata["dt"] == 1e-3
    assert neurons_of(read_nir(tmp_path / "net.nir"))["act2"].tau == pytest.approx(5.5)  # pyright: ignore[reportAttributeAccessIssue]


def neurons_of(read) -> dict[str, Any]:
    return {name: make for name, make, _ in read.network.module.layers if isinstance(make, LIF | IF)}


def test_old_readers_find_no_v_reset(tmp_path):
    def v_resets(path):
        with h5py.File(path) as file:
            nodes: Any = file["node/nodes"]
            return ["v_reset" in node for node in nodes.values() if node["type"][()] == b"LIF"]

    network = build("convnet", 5, neuron=LIF(), num_steps=T, width=0.1)
    variables = dyadic_variables(network, (8, 8, 1))
    write_nir(tmp_path / "net.nir", network, variables, (8, 8, 1))
    write_nir(tmp_path / "old.nir", network, variables, (8, 8, 1), old_readers=True)
    assert v_resets(tmp_path / "net.nir") == [True] * 3
    assert v_resets(tmp_path / "old.nir") == [False] * 3
    assert neurons_of(read_nir(tmp_path / "old.nir")) == neurons_of(read_nir(tmp_path / "net.nir"))
    other = build("convnet", 5, neuron=LIF(v_reset=-1.0), num_steps=T, width=0.1)
    with pytest.raises(InputError, match=r"old_readers=True.*another v_reset"):
        write_nir(tmp_path / "old.nir", other, variables, (8, 8, 1), old_readers=True)


@pytest.mark.slow
def test_what_nir_cannot_say_is_refused(tmp_path):
    shape, path = (16, 16, 3), tmp_path / "net.nir"
    convnet = functools.partial(build, "convnet", 5, num_steps=T, width=0.1)
    network, ann = convnet(neuron=LIF()), convnet()
    good = dyadic_variables(network, shape)  # of all of them, spiking or not

    def refused(network, match, variables=good, **options):
        with pytest.raises(InputError, match=match):
            write_nir(path, network, variables, shape, **options)
        assert not path.exists()

    refused(convnet(neuron=LIF(v_reset=None)), r"act1: v_reset=None.*train with a number")
    integer = convnet(neuron=ILIF())
    refused(integer, r"act1: .*several spikes per step.*LIF, PLIF or IF", dyadic_variables(integer, shape))
    refused(convnet(neuron=LIF(), pool="max"), r"pool1: max pooling.*pool='avg'")
    refused(convnet(neuron=LIF(), dtype=jnp.bfloat16), "dtype=bfloat16")
    refused(ann, "export a student")
    converted = convert_to_spiking(ann, good, shape, dict.fromkeys(("act1", "act2", "act_hidden"), 1.0), T, 0.5)
    refused(converted[0], "subtract the threshold", converted[1])
    refused(network, r"dt=0", dt=0.0)
    pyramid = build("pyramidnet18", 5, neuron=LIF(), num_steps=T, width=0.1)
    refused(pyramid, "zero-padded shortcuts of pyramidnet18", dyadic_variables(pyramid, shape))
    hidden = {"kernel": good["params"]["hidden"]["kernel"].at[0, 0].set(jnp.nan)}
    broken = good | {"params": good["params"] | {"hidden": hidden}}
    refused(network, r"node 'hidden': weight has values that are not finite", broken)
    with pytest.raises(InputError, match="cannot be written"):
        write_nir(tmp_path / "no" / "net.nir", network, good, shape)


class ReadBeforeItsNorm(nn.Module):
    """The bias of a norm cannot go into a layer that something else reads."""

    activation: functools.partial
    norm: type

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(2, (3, 3), padding=1, use_bias=False, name="conv1")(x)
        y = self.norm(train=train, name="norm1")(x)
        return self.activation(name="act1")(y + x), {}


def test_a_layer_read_before_and_after_its_norm_is_refused(tmp_path):
    network = Network(ReadBeforeItsNorm(functools.partial(Spike, LIF(), num_steps=T), BatchNorm), T)
    with pytest.raises(InputError, match="conv1 is read before its norm and after it"):
        write_nir(tmp_path / "net.nir", network, dyadic_variables(network, (4, 4, 2)), (4, 4, 2))


def small_graph():
    """Input -> convolution -> neurons -> flatten -> dense -> output, as another program might write it."""
    full = lambda value: np.full((2, 3, 4), value)  # noqa: E731
    nodes = {
        "input": nir.Input({"input": np.array([1, 3, 4])}),
        "conv": nir.Conv2d((3, 4), np.ones((2, 1, 3, 3), np.float32), 1, 1, 1, 1, np.zeros(2, np.float32)),
        "lif": nir.LIF(full(2e-4), full(1.0), full(0.0), full(1.0), full(0.0)),
        "flatten": nir.Flatten({"input": np.array([2, 3, 4])}, 0),
        "dense": nir.Affine(np.ones((5, 24), np.float32), np.zeros(5, np.float32)),
        "output": nir.Output({"output": np.array([5])}),
    }
    return nodes, list(zip(list(nodes), list(nodes)[1:], strict=False))


def test_a_file_of_another_program_is_read(tmp_path):
    nodes, edges = small_graph()
    nir.write(tmp_path / "net.nir", nir.NIRGraph(nodes, edges))
    with pytest.raises(InputError, match=r"net\.nir: it does not say how many time steps.*give num_steps"):
        read_nir(tmp_path / "net.nir")
    read = read_nir(tmp_path / "net.nir", num_steps=2)
    assert (read.image_shape, read.normalisation, read.network.num_steps) == ((3, 4, 1), None, 2)
    logits = read.network.apply(read.variables, jnp.ones((1, 3, 4, 1)))[0]
    # h = 9 / 2 in the two pixels that are not at the border, 6 / 2 and 4 / 2 in the others: all fire at every step
    np.testing.assert_array_equal(logits, np.full((1, 2, 5), 24))


FULL = np.ones((2, 3, 4))
DAMAGED = {
    "unknown node": (
        {"lif": nir.CubaLIF(FULL, FULL, FULL, FULL, FULL)},
        (),
        r"node 'lif': type 'CubaLIF' .*write an LI",
    ),
    "nan": ({"dense": nir.Affine(np.full((5, 24), np.nan), np.zeros(5))}, (), r"'dense': weight .* not finite"),
    "wrong shape": (
        {"dense": nir.Affine(np.ones((5, 23)), np.zeros(5))},
        (),
        r"'dense': it takes \(23,\).* given \(24,\)",
    ),
    "wrong bias": ({"dense": nir.Affine(np.ones((5, 24)), np.zeros(4))}, (), r"'dense': kernel .* bias \(4,\)"),
    "groups": (
        {"conv": nir.Conv2d((3, 4), np.ones((2, 1, 3, 3)), 1, 1, 1, 2, np.zeros(2))},
        (),
        r"'conv': it takes \(2, 3, 4\), but is given \(1, 3, 4\)",
    ),
    "same": (
        {"conv": nir.Conv2d((3, 4), np.ones((2, 1, 3, 3)), 2, "same", 1, 1, np.zeros(2))},
        (),
        r"node 'conv': padding='same' at stride=\(2, 2\).*write numbers",
    ),
    "other flatten": ({"flatten": nir.Flatten({"input": np.array([2, 3, 4])}, 0, 1)}, (), r"'flatten': start_dim=0"),
    "tau": ({"lif": nir.LIF(FULL * 5e-5, FULL, 0 * FULL, FULL)}, (), r"give dt.*'lif' has tau=5e-05"),
    "r": ({"lif": nir.LIF(FULL * 2e-4, FULL / 2, 0 * FULL, FULL)}, (), r"give dt.*'lif' needs 0\.0004.*tau=0\.0002"),
    "threshold": ({"lif": nir.LIF(FULL * 2e-4, FULL, 0 * FULL, -FULL)}, (), r"node 'lif': v_threshold=-1\.0"),
    "columns": (
        {"lif": nir.Threshold(np.arange(4.0))},
        (),
        r"node 'lif': it takes \(4,\), but is given \(2, 3, 4\)",
    ),
    "attribute": ({"apply": nir.Flatten({"input": np.array([5])}, 0)}, (("dense", "apply"),), "'apply'"),
    "two outputs": (
        {"output2": nir.Output({"output": np.array([5])})},
        (("dense", "output2"),),
        "it has 2 nodes of type Output",
    ),
    "no target": ({}, (("dense", "gone"),), r"from 'dense' to 'gone', and there is no node 'gone'"),
    "twice": ({}, (("flatten", "dense"),), r"node 'dense' reads 'flatten' twice"),
    "dead end": (
        {"more": nir.Affine(np.ones((5, 24)), np.zeros(5))},
        (("flatten", "more"),),
        r"node 'more' is not on a way from 'input' to 'output'",
    ),
    "cycle": (
        {"back": nir.Affine(np.ones((24, 5)), np.zeros(24))},
        (("dense", "back"), ("back", "dense")),
        r"nodes .*back.* are a cycle",
    ),
    "sum": (
        {"more": nir.Affine(np.ones((4, 24)), np.zeros(4))},
        (("flatten", "more"), ("more", "output")),
        r"node 'output': it is given different shapes: \(5,\) of 'dense', \(4,\) of 'more'",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_bad_graphs_are_told_with_the_file_and_the_node(name, tmp_path):
    replaced, further, told = DAMAGED[name]
    nodes, edges = small_graph()
    graph = nir.NIRGraph(nodes | replaced, [*edges, *further], type_check=False)
    nir.write(tmp_path / "bad.nir", graph)
    with pytest.raises(InputError, match=r"bad\.nir: .*" + told):
        read_nir(tmp_path / "bad.nir", num_steps=2)


def test_bad_files_are_told(tmp_path):
    (tmp_path / "text.nir").write_text("no HDF5")
    for name, match in (("text.nir", "damaged, or no file of NIR"), ("gone.nir", "gone.nir cannot be read")):
        with pytest.raises(InputError, match=match):
            read_nir(tmp_path / name, num_steps=2)
    with h5py.File(tmp_path / "empty.nir", "w") as file:
        file["node/type"] = "NIRGraph"
    with pytest.raises(InputError, match=r"empty\.nir: it holds no graph"):
        read_nir(tmp_path / "empty.nir", num_steps=2)
    nodes, edges = small_graph()
    nir.write(tmp_path / "meta.nir", nir.NIRGraph(nodes, edges, {"dt": "soon"}))
    with pytest.raises(InputError, match=r"meta\.nir: its metadata are damaged"):
        read_nir(tmp_path / "meta.nir", num_steps=2)


def damaged(content, rng):
    """A copy with one kind of damage, a few times."""
    kind = rng.choice(["bits", "cut", "zeros", "more", "data set"])
    copy = bytearray(content)
    if kind == "cut":
        return bytes(copy[: rng.integers(len(copy))])
    if kind == "more":
        return bytes(copy) + rng.bytes(int(rng.integers(1, 100)))
    if kind == "data set":
        payload = io.BytesIO(bytes(copy[512:]))
        with h5py.File(payload, "r+") as file:
            names = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            del file[str(rng.choice(names))]
        return bytes(copy[:512]) + payload.getvalue()
    for _ in range(rng.integers(1, 9)):
        i = int(rng.integers(len(copy)))
        if kind == "bits":
            copy[i] ^= 1 << int(rng.integers(8))
        else:
            copy[i : i + 64] = bytes(len(copy[i : i + 64]))
    return bytes(copy)


@pytest.mark.slow
def test_a_thousand_damaged_files_are_refused(tmp_path):
    network = build("convnet", 2, neuron=LIF(), num_steps=T, width=0.02)
    path = tmp_path / "net.nir"
    write_nir(path, network, dyadic_variables(network, (4, 4, 1)), (4, 4, 1))
    content = path.read_bytes()
    read_nir(path)
    rng = np.random.default_rng(0)
    refused = 0
    while refused < 1000:
        bad = damaged(content, rng)
        if bad == content:  # zeros over zeros
            continue
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"net\.nir"):
            read_nir(path)
        refused += 1


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    monkeypatch.delitem(sys.modules, "snnkd_jax.interop.nir")
    with pytest.raises(InputError, match=r"pip install 'snnkd-jax\[nir\]'"):
        importlib.import_module("snnkd_jax.interop.nir")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_script_writes_the_student_of_a_run(dtype, tmp_path, monkeypatch, capsys):
    network = build("convnet", 3, neuron=LIF(), num_steps=T, width=0.1, dtype=dtype)
    variables = dyadic_variables(network, (8, 8, 3))
    trained = Trained(network, variables, NORMALISATION, (8, 8, 3), ("a", "b", "c"), "cifar10")
    monkeypatch.setattr(loading, "load", lambda *_: trained)
    export_nir(tmp_path, tmp_path / "net.nir")
    read, told = read_nir(tmp_path / "net.nir"), capsys.readouterr().out
    assert (read.network.num_steps, read.normalisation) == (T, NORMALISATION)
    assert ("some spikes will differ" in told) == (dtype == jnp.bfloat16)
    for line in ("act1 LIF (3, 8, 8) conv1", "steps 4 of dt = 0.0001 s", "mean [0.1, 0.2, 0.3], std [1.0, 2.0, 4.0]"):
        assert line in " ".join(told.split())


@pytest.mark.parametrize(("num_steps", "written"), [slow(None, T), (7, 7)])
def test_script_writes_the_number_of_steps(num_steps, written, tmp_path, monkeypatch, capsys):
    network = build("convnet", 2, neuron=LIF(), num_steps=T, width=0.1)
    trained = Trained(network, dyadic_variables(network, (4, 4, 3)), NORMALISATION, (4, 4, 3), ("a", "b"), "cifar10")
    monkeypatch.setattr(loading, "load", lambda *_: trained)
    export_nir(tmp_path, tmp_path / "net.nir", num_steps=num_steps)
    assert read_nir(tmp_path / "net.nir").network.num_steps == written
    assert f"{written} of dt" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"num_steps=0"):
        export_nir(tmp_path, tmp_path / "no.nir", num_steps=0)


def test_differences_from_numpy_are_counted():
    counts = Counts("another")
    spikes, logits = np.zeros((2, 3, 4)), np.tile([1.0, 2.0], (2, 3, 1))
    other, others = spikes.copy(), logits.copy()
    other[0, 1, :3] = 1
    others[1] = [2.5, 2.0]
    counts.add({"act": other, "output": others}, {"act": spikes, "output": logits}, np.array([1, 0]))
    found = (counts.outputs, counts.spikes, counts.differing_spikes, counts.differing_classes, counts.correct)
    assert found == (24, 3, 3, 1, 2)
    assert counts.logit_difference == 1.5


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("written", representatives(CASES, QUICK.__contains__), indirect=True)
def test_spikingjelly_reads_the_file_spike_for_spike(written):
    path, frames, _, expected = written
    assert_same_spikes(readers.spikingjelly_reader(path)(frames), expected)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("written", ["convnet", "resnet19", "airbench94"], indirect=True)
def test_snntorch_reads_the_file_spike_for_spike(written):
    """Those of LIF neurons that are reset to 0: it reads no others."""
    path, frames, _, expected = written
    assert_same_spikes(readers.snntorch_reader(path)(frames), expected)
