"""Operations counted by hand and by loops of NumPy."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from representative import representatives, slow

from snnkd_jax.analysis.energy import count, same_architecture, summary
from snnkd_jax.analysis.joules import joules
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, build
from snnkd_jax.models.activation import ReLU, Spike
from snnkd_jax.models.convnet import ConvNet
from snnkd_jax.models.layers import AvgPool, Conv, MaxPool
from snnkd_jax.models.resnet import ResNet
from snnkd_jax.models.vgg import VGG

T = 3


def random_variables(network, image_shape):
    """As `Network.init` makes them, without compiling it."""
    rng = np.random.default_rng(1)

    def leaf(path, x):
        if path[-1].key == "kernel":
            return jnp.asarray(rng.normal(size=x.shape) * (2 / np.prod(x.shape[:-1])) ** 0.5, x.dtype)
        return jnp.full(x.shape, float(path[-1].key in ("scale", "var")), x.dtype)

    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


class OneConv(nn.Module):
    features: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        del train
        return Conv(self.features, self.kernel, self.stride, name="only")(x).mean((-3, -2)), {}


class OneDense(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train):
        del train
        return nn.Dense(self.features, name="only")(x[..., 0, 0, :]), {}


def conv_layer(images, features=5, kernel=3, stride=1, weights=None, num_steps=None):
    """The cost of a single convolution on these images."""
    if weights is None:
        weights = np.full((kernel, kernel, images.shape[-1], features), -0.5, np.float32)
    variables = {"params": {"only": {"conv": {"kernel": weights}}}}
    return count(Network(OneConv(features, kernel, stride), num_steps), variables, images).layers["only"]


def spikes_at(*places, size=6, height=1.0):
    images = np.zeros((1, size, size, 2), np.float32)
    for i, j in places:
        images[0, i, j, 0] = height
    return images


@pytest.mark.parametrize(("place", "stride", "meets"), [((2, 3), 1, 9), ((0, 5), 1, 4), ((3, 0), 1, 6)])
def test_a_spike_costs_the_weights_that_it_meets(place, stride, meets):
    """3x3, padding 1, 5 channels out: in the interior, in a corner, at an edge."""
    layer = conv_layer(spikes_at(place), stride=stride)
    agrees((layer.macs, layer.acs), (0, 5 * meets), name="operations by hand")
    assert layer.operations == "AC"
    assert layer.dense == 2 * 5 * (3 * 6 - 2) ** 2
    assert layer.input_rate == 1 / 72


@pytest.mark.parametrize(("place", "meets"), [((2, 2), 1), ((2, 3), 2), ((3, 3), 4), ((5, 5), 1), ((0, 0), 1)])
def test_a_stride_skips_weights(place, meets):
    """Output i sees the rows 2i - 1 to 2i + 1, so an even row has one output and an odd one two, but the last."""
    layer = conv_layer(spikes_at(place), stride=2)
    assert layer.acs == 5 * meets
    assert layer.dense == 2 * 5 * (3 * 3 - 1) ** 2


def test_dense_layer():
    """Linear 100 to 50 with k spikes: 50 k; the bias is not counted."""
    images = np.zeros((2, 1, 1, 100), np.float32)
    images[0, ..., :7] = 1
    images[1, ..., 50:54] = 1
    network = Network(OneDense(50), None)
    variables = {"params": {"only": {"kernel": np.ones((100, 50), np.float32), "bias": np.ones(50, np.float32)}}}
    cost = count(network, variables, images)
    assert cost.layers["only"].kind == "dense"
    agrees((cost.acs, cost.macs, cost.dense), (50 * (7 + 4) / 2, 0, 5000), name="operations by hand")
    assert cost.footprint == 4 * 5050
    assert cost.activation_sparsity == 0


def behind(layer):
    """The same layer, if neurons had given its inputs."""
    return dataclasses.replace(layer, source="act")


def test_accumulations_need_inputs_of_one_magnitude():
    """Which for an image must be 1; behind an activation any other is folded into the weights."""
    both_signs = spikes_at((2, 2)) - spikes_at((3, 4))
    for images in (spikes_at((2, 2), (3, 4)), both_signs):
        assert conv_layer(images).acs == behind(conv_layer(images)).acs == 2 * 9 * 5
        low = conv_layer(0.3 * images)
        assert (low.operations, low.macs, low.acs) == ("MAC", 2 * 9 * 5, 0)
        assert (behind(low).macs, behind(low).acs) == (0, 2 * 9 * 5)
    two_heights = spikes_at((2, 2)) + spikes_at((3, 4), height=0.5)
    for layer in (conv_layer(two_heights), behind(conv_layer(two_heights))):
        assert (layer.operations, layer.macs, layer.acs) == ("MAC", 2 * 9 * 5, 0)
    silent = conv_layer(spikes_at())
    assert (silent.operations, silent.macs, silent.acs) == ("AC", 0, 0)


def test_one_batch_of_numbers_makes_a_layer_multiply():
    """Two batches of spikes, each of one height of its own: together they are not spikes."""
    low, high = (behind(conv_layer(spikes_at((2, 2), height=h))) for h in (0.5, 1.0))
    assert low.acs == high.acs == 45
    for both in (low + high, high + low):
        assert (both.macs, both.acs) == (45, 0)
    assert ((low + low).macs, (low + low).acs) == (0, 45)


def test_zero_weights_are_not_counted():
    """One tap of the kernel cut for all outputs, and one output for all taps."""
    weights = np.ones((3, 3, 2, 5), np.float32)
    weights[0, 0], weights[..., 4] = 0, 0
    layer = conv_layer(spikes_at((2, 2)), weights=weights)
    assert layer.acs == 8 * 4
    assert layer.dense == 2 * 5 * 16**2
    assert (layer.weights, layer.nonzero_weights) == (90, 8 * 2 * 4)
    # The tap (0, 0) would see the last row and column from an output behind them, which is not there.
    assert conv_layer(spikes_at((5, 5)), weights=weights).acs == 4 * 4


def test_steps_are_summed_and_a_constant_image_is_counted_once():
    frames = np.concatenate([spikes_at((2, 2)), spikes_at((0, 0)), spikes_at()])[None]
    layer = conv_layer(frames, num_steps=3)
    assert (layer.steps, layer.acs, layer.dense) == (3, 5 * (9 + 4), 3 * 2 * 5 * 16**2)
    still = conv_layer(spikes_at((2, 2)), num_steps=3)  # a module of one's own is given it at every step
    assert (still.steps, still.acs, still.dense) == (3, 3 * 5 * 9, 3 * 2 * 5 * 16**2)


@pytest.mark.parametrize("copies", [1, 50])
def test_large_counts_are_exact(copies):
    """More operations than float32 has whole numbers for, and than 32 bits hold."""
    images = np.ones((copies, 63, 63, 7), np.float32)
    images[0, 30, 30, 0] = 0
    layer = conv_layer(images, features=9, kernel=15)
    per_image = 7 * 9 * (15 * 63 - 56) ** 2  # odd
    assert per_image > 2**24
    assert (copies == 1) or copies * per_image > 2**31
    assert layer.effective == copies * per_image - 9 * 15**2
    assert layer.dense == per_image


# A whole network against loops over every position, the inputs of its layers read off Flax's own intermediates.

NEURON = LIF(decay_input=False, v_threshold=0.4)
BODIES = {
    "resnet": (ResNet, {"stage_sizes": (1, 1), "stage_channels": (4, 6), "hidden": 5}),
    "vgg-avg": (VGG, {"stage_sizes": (1, 2), "width": 0.06, "pool": AvgPool}),
    "vgg-max": (VGG, {"stage_sizes": (1, 2), "width": 0.06, "pool": MaxPool}),
    "convnet": (ConvNet, {"width": 0.1}),
}
IMAGES = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32) * 2


def is_captured(module, method):
    return method == "__call__" and isinstance(module, ReLU | Spike | AvgPool | MaxPool)


def captured(body, variables, images):
    """The outputs of activations and poolings."""
    _, kept = body.apply(variables, images, train=False, capture_intermediates=is_captured, mutable=["intermediates"])
    return kept


def inputs_of(name, images, out):
    """What each layer is given; `out` has the outputs of all modules by name."""
    if name == "resnet":
        yield from (("stem", images, 1), ("block1_1/conv1", out["act_stem"], 1))
        yield "block1_1/conv2", out["block1_1/act1"], 1
        yield "block2_1/conv1", out["block1_1/act2"], 2
        yield "block2_1/conv2", out["block2_1/act1"], 1
        yield "block2_1/conv_shortcut", out["block1_1/act2"], 2
        yield "hidden", out["block2_1/act2"].mean((-3, -2)), 1
        yield "head", out["act_hidden"], 1
    elif name.startswith("vgg"):
        yield from (("conv1_1", images, 1), ("conv2_1", out["pool1"], 1), ("conv2_2", out["act2_1"], 1))
        yield "head", out["act2_2"].mean((-3, -2)), 1
    else:
        yield from (("conv1", images, 1), ("conv2", out["pool1"], 1))
        yield "hidden", out["pool2"].reshape(*out["pool2"].shape[:-3], -1), 1
        yield "head", out["act_hidden"], 1


def operations(x, kernel, stride):
    """Products of what is not zero, at every position of the output."""
    x, w = (x != 0).astype(np.int64), (kernel != 0).astype(np.int64)
    if w.ndim == 2:
        return int((x @ w).sum())
    x = x.reshape(-1, *x.shape[-3:])
    k, total = len(w), 0
    for i in range(0, x.shape[1], stride):
        for j in range(0, x.shape[2], stride):
            for di in range(k):
                for dj in range(k):
                    r, c = i + di - k // 2, j + dj - k // 2
                    if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                        total += int((x[:, r, c] @ w[di, dj]).sum())
    return total


@functools.cache
def made(name, spiking):
    body, options = BODIES[name]
    activation = functools.partial(Spike, NEURON, num_steps=T) if spiking else ReLU
    network = Network(body(5, activation=activation, **options), T if spiking else None)
    variables = random_variables(network, (8, 8, 3))
    return network, jax.tree.map(lambda w: jnp.where(jnp.abs(w) < 0.02, 0, w), variables)


@pytest.mark.parametrize("name", representatives(BODIES, lambda name: name == "convnet"))
def test_whole_networks_against_loops(name):
    """The spiking network and the ANN of its architecture; weights below 0.02 are cut."""
    costs = {}
    for spiking in (True, False):
        network, variables = made(name, spiking)
        cost = costs[spiking] = count(network, variables, IMAGES)
        images = IMAGES[:, None] if spiking else IMAGES
        kept = jax.jit(functools.partial(captured, network.module))(variables, images)
        flat = {
            "/".join(key.key for key in path[1:-2]): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(kept)
        }
        given = list(inputs_of(name, images, flat))
        assert [layer for layer, _, _ in given] == list(cost.layers)
        for layer, x, stride in given:
            found, place = cost.layers[layer], variables["params"]
            for key in layer.split("/"):
                place = place[key]
            kernel = np.asarray(place.get("conv", place)["kernel"])
            agrees(found.effective, operations(x, kernel, stride), name="operations of whole networks")
            assert found.dense * len(IMAGES) == operations(np.ones_like(x), np.ones_like(kernel), stride), layer
            assert found.steps == (x.shape[1] if spiking else 1)
            assert found.steps == (1 if layer in ("stem", "conv1", "conv1_1") or not spiking else T)
            assert found.nonzero_inputs == np.count_nonzero(x)
            assert found.inputs == x.size
            assert found.weights - found.nonzero_weights == (kernel == 0).sum()
            assert found.operations == ("AC" if set(np.unique(x)) <= {0, 1} else "MAC"), layer
        active = {n: y for n, y in flat.items() if n.split("/")[-1].startswith("act")}
        assert {n: (a.values, a.nonzero) for n, a in cost.activations.items()} == {
            n: (y.size, np.count_nonzero(y)) for n, y in active.items()
        }
        if name == "resnet":
            blocks = [f"block{i}_1/act{j}" for i in (1, 2) for j in (1, 2)]
            assert list(cost.activations) == ["act_stem", *blocks, "act_hidden"]
        assert all(0.02 < a.rate < 0.9 for a in cost.activations.values()), "a silent network tests nothing"
        zeros, size = sum((y == 0).sum() for y in active.values()), sum(y.size for y in active.values())
        assert cost.activation_sparsity == pytest.approx(zeros / size)
        assert 0 < cost.connection_sparsity < 1
        assert cost.footprint == 4 * sum(x.size for x in jax.tree.leaves(variables))
    snn, ann = costs[True], costs[False]
    assert same_architecture(snn, ann)
    assert ann.dense == snn.dense_pass
    assert ann.acs == 0 < ann.macs < ann.dense
    assert ann.estimate == (ann.dense, 0)
    accumulating = {n for n, layer in snn.layers.items() if layer.operations == "AC"}
    assert (
        accumulating
        == {
            "resnet": {*snn.layers} - {"stem", "hidden"},
            "vgg-avg": {"conv2_2"},
            "vgg-max": {"conv2_1", "conv2_2"},
            "convnet": {"head"},
        }[name]
    )


@pytest.mark.slow
def test_the_papers_estimate():
    """Rate times dense operations of all steps, and the image's layer dense, whatever the pooling."""
    costs = {}
    for name in ("vgg-avg", "vgg-max"):
        costs[name] = cost = count(*made(name, True), IMAGES)
        macs, acs = cost.estimate
        assert macs == cost.layers["conv1_1"].dense
        first, second = cost.layers["conv2_1"], cost.layers["conv2_2"]
        rate = cost.activations["act1_1"].rate if name == "vgg-avg" else first.input_rate
        expected = rate * first.dense + cost.activations["act2_1"].rate * second.dense
        assert acs == pytest.approx(expected + cost.activations["act2_2"].rate * cost.layers["head"].dense)
        assert second.source == "act2_1"
        assert second.input_rate == cost.activations["act2_1"].rate
    assert costs["vgg-avg"].layers["conv2_1"].input_rate > costs["vgg-avg"].activations["act1_1"].rate
    assert same_architecture(costs["vgg-avg"], costs["vgg-max"])


@pytest.mark.slow
def test_batches_add_up():
    network, variables = made("vgg-max", True)
    whole = count(network, variables, IMAGES)
    parts = count(network, variables, IMAGES[:2]) + count(network, variables, IMAGES[2:])
    assert parts == whole
    assert parts.images == 4
    pruned = jax.tree.map(lambda w: jnp.where(jnp.abs(w) < 0.1, 0, w), variables)
    with pytest.raises(InputError, match="different networks"):
        _ = whole + count(network, pruned, IMAGES)
    frames = IMAGES[:, None].repeat(T, axis=1)
    with pytest.raises(InputError, match="numbers of frames"):
        _ = whole + count(network, variables, frames)


def closed_formula(model, width):
    """Dense operations of the first layer and of the others, padding left out, from the kernels and sizes of maps.

    Along an axis of n inputs, a 3x3 kernel meets 3n - 2 of them with stride 1, and 3n/2 - 1 with stride 2.
    """
    shapes = jax.eval_shape(lambda: build(model, 10, width=width).init(jax.random.key(0), (32, 32, 3)))["params"]
    stem, rest = 0, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        names = [key.key for key in path]
        if names[-1] != "kernel":
            continue
        if names[0] == "head":
            rest += leaf.size
            continue
        k, _, c_in, c_out = leaf.shape
        stage = int(next((c for c in names[0] if c.isdigit()), "1"))
        n = 32 // 2 ** (stage - 1)
        halves = model == "resnet18" and names[0].endswith("_1") and stage > 1 and names[1] != "conv2"
        met = {(3, False): 3 * n - 2, (3, True): 3 * n - 1, (1, True): n}[k, halves]
        if c_in == 3:
            stem += met**2 * c_in * c_out
        else:
            rest += met**2 * c_in * c_out
    return stem, rest


@pytest.mark.parametrize("model", [slow("resnet18"), "vgg11"])
def test_dense_operations_by_the_closed_formula(model):
    network = build(model, 10, neuron=NEURON, num_steps=2, width=0.0625)
    cost = count(network, random_variables(network, (32, 32, 3)), np.ones((1, 32, 32, 3), np.float32))
    stem, rest = closed_formula(model, 0.0625)
    agrees((cost.dense, cost.dense_pass), (stem + 2 * rest, stem + rest), name="dense operations")


def test_energy():
    agrees(joules(1e6, 2e6), (4.6 + 1.8) * 1e-6, rtol=1e-6, name="joules")
    assert joules(3, 5, mac_pj=1, ac_pj=0.1) == pytest.approx(3.5e-12)
    with pytest.raises(InputError, match="mac_pj=-1"):
        joules(1, 1, mac_pj=-1)
    with pytest.raises(InputError, match="ac_pj=nan"):
        joules(1, 1, ac_pj=float("nan"))


def test_summary_has_a_row_for_each_layer_and_the_sum():
    weights = {"params": {"only": {"conv": {"kernel": np.ones((3, 3, 2, 50), np.float32)}}}}
    text = summary(count(Network(OneConv(50), None), weights, spikes_at((2, 2))), ac_pj=1000.0)
    rows = [line.split() for line in text.splitlines()]
    assert rows[1] == ["only", "conv", "1", "0.0139", "25,600", "0", "450", "0.4500", "0.3556"]
    assert rows[2] == ["all", "25,600", "0", "450", "0.4500", "0.3556"]
    assert text.endswith("mean of 1 images; 3,600 bytes; zero: 0.00 % of weights, 0.00 % of activations")


def test_wrong_images_are_named():
    network, variables = made("vgg-max", True)
    with pytest.raises(InputError, match=r"images have shape \(0, 8, 8, 3\)"):
        count(network, variables, IMAGES[:0])
    with pytest.raises(InputError, match=r"shape \(8, 8, 3\)"):
        count(network, variables, IMAGES[0])
    with pytest.raises(InputError, match="2 steps"):
        count(network, variables, IMAGES[:, None].repeat(2, axis=1))
