"""Networks for photographs: parameters, maps, blocks, and SpikingJelly's with the same weights."""

import functools
import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_checks import IMAGES, assert_trees_close, count, moved, shapes, train_outputs
from representative import slow

from snnkd_jax.analysis.energy import count as count_operations
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, build
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.folding import fold_norms
from snnkd_jax.models.imagenet_resnet import ImageNetResNet, SEWBlock
from snnkd_jax.models.layers import BatchNorm, MaxPool
from snnkd_jax.models.rate import Rate, RateBatchNorm, RateMaxPool


@pytest.mark.slow
def test_published_parameter_counts():
    """Of torchvision's ResNet-18 and -34 with 1000 classes; SEW has the same layers, and neurons without parameters."""
    for name, published in (("18", 11_689_512), ("34", 21_797_672)):
        for network in (
            build(f"resnet{name}-imagenet", 1000),
            build(f"sew-resnet{name}", 1000, neuron=LIF()),
        ):
            assert count(shapes(network, (224, 224, 3))) == published


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18-imagenet", "sew-resnet34"])
def test_maps_of_a_photograph(name):
    student = build(name, 10, neuron=LIF(), num_steps=2)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    _, features = jax.eval_shape(student.apply, shapes(student, (224, 224, 3)), images)
    ends = [(1, 2, side, side, channels) for side, channels in ((56, 64), (28, 128), (14, 256), (7, 512))]
    assert [x.shape for x in features["stages"].values()] == ends


@pytest.mark.parametrize(("bias", "added"), [(-10.0, 0.0), slow(10.0, 1.0)])
def test_a_block_adds_spikes_to_its_input(bias, added):
    """Silent neurons pass the input on, and its gradient; neurons that fire at each step add 1."""
    block = SEWBlock(
        3, 1, functools.partial(Spike, LIF(), num_steps=4), functools.partial(BatchNorm, train=False), jnp.float32
    )
    x = jax.random.bernoulli(jax.random.key(0), 0.3, (2, 4, 5, 5, 3)).astype(jnp.float32)

    def run(x):
        variables = block.init(jax.random.key(1), x)
        norms = {name: {"scale": jnp.zeros(3), "bias": jnp.full(3, bias)} for name in ("norm1", "norm2")}
        variables = {**variables, "params": {**variables["params"], **norms}}
        y, pullback = jax.vjp(lambda x: block.apply(variables, x, mutable=["firing_rates"])[0][0], x)  # pyright: ignore
        return y, pullback(y)[0]

    y, gradient = jax.jit(run)(x)
    np.testing.assert_array_equal(y, x + added)
    np.testing.assert_array_equal(gradient, y)


@pytest.mark.slow
def test_sums_of_spikes_multiply_and_spikes_accumulate():
    """A convolution that reads the output of a SEW block costs MACs, one that reads neurons or their maxima ACs."""
    spike = functools.partial(Spike, LIF(decay_input=False), num_steps=2)
    network = Network(ImageNetResNet(4, spike, block=SEWBlock, stage_sizes=(2,), width=0.05), 2)
    variables = moved(network.init(jax.random.key(0), (16, 16, 3)))
    cost = count_operations(network, variables, jax.random.normal(jax.random.key(2), (2, 16, 16, 3)))
    multiplying = {layer for layer, x in cost.layers.items() if x.operations == "MAC"}
    assert multiplying == {"stem", "block1_2/conv1", "head"}
    assert cost.layers.keys() - multiplying == {"block1_1/conv1", "block1_1/conv2", "block1_2/conv2"}


@pytest.mark.slow
def test_rates_and_folded_norms():
    """A SEW-ResNet of two blocks with the gains of tdBN: gradients for T = 1, through windows that share maxima."""
    fields = {"block": SEWBlock, "stage_sizes": (1, 1), "width": 0.1}
    modules = [
        ImageNetResNet(5, activation, functools.partial(norm, v_threshold=0.5), max_pool=pool, **fields)
        for activation, norm, pool in (
            (functools.partial(Spike, LIF(v_threshold=0.5), num_steps=1), BatchNorm, MaxPool),
            (functools.partial(Rate, LIF(v_threshold=0.5)), RateBatchNorm, RateMaxPool),
        )
    ]
    through_time, by_rates = Network(modules[0], 1), Network(modules[0], 1, modules[1])
    variables = moved(through_time.init(jax.random.key(0), (16, 16, 3)))
    expected, found = (train_outputs(network, variables) for network in (through_time, by_rates))
    np.testing.assert_array_equal(found[0], expected[0])
    assert_trees_close(found[2:], expected[2:], 2e-5)
    assert np.abs(expected[3]["stem"]["conv"]["kernel"]).max() > 1e-6
    folded, folded_variables = fold_norms(through_time, variables, (16, 16, 3))
    np.testing.assert_allclose(
        jax.jit(folded.apply)(folded_variables, IMAGES)[0],
        jax.jit(through_time.apply)(variables, IMAGES)[0],
        rtol=1e-3,
        atol=1e-3,
    )


def test_registered_networks_pool_by_the_layer_of_their_gradient():
    network = build("sew-resnet18", 10, neuron=LIF(), backprop="rate")
    assert (network.module.max_pool, network.rate_module.max_pool) == (MaxPool, RateMaxPool)  # pyright: ignore
    with pytest.raises(InputError, match="pool='max': 'sew-resnet18' has a fixed pooling"):
        build("sew-resnet18", 10, pool="max")


@pytest.mark.peers
@pytest.mark.parametrize("kind", ["sew", "spiking", "relu"])
def test_networks_against_spikingjelly(kind, monkeypatch):
    """Logits of every step in evaluation with the same weights; with ReLU its spiking ResNet is torchvision's."""
    import torch  # pyright: ignore[reportMissingImports]

    if importlib.util.find_spec("torchvision") is None:  # SpikingJelly takes a function from it that is not called here
        downloads = SimpleNamespace(load_state_dict_from_url=None)
        monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "torchvision._internally_replaced_utils", downloads)
    from spikingjelly.activation_based import functional, neuron  # pyright: ignore
    from spikingjelly.activation_based.model import sew_resnet, spiking_resnet  # pyright: ignore

    model: Any = sew_resnet.sew_resnet18 if kind == "sew" else spiking_resnet.spiking_resnet18
    options: dict[str, Any] = {"cnf": "ADD"} if kind == "sew" else {}
    options |= {"spiking_neuron": torch.nn.ReLU if kind == "relu" else neuron.LIFNode, "num_classes": 10}
    torch.manual_seed(0)
    peer = model(**options).eval()
    functional.set_step_mode(peer, "m")
    for parameter in [*peer.parameters(), *peer.buffers()]:
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.rand(parameter.shape)
    ours = build(
        "sew-resnet18" if kind == "sew" else "resnet18-imagenet",
        10,
        neuron=None if kind == "relu" else LIF(),
        num_steps=3,
    )
    variables = from_torch({name: x.numpy() for name, x in peer.state_dict().items()})
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    logits, _ = jax.jit(ours.apply)(variables, images)
    with torch.no_grad():
        frames = torch.from_numpy(np.array(images.transpose(0, 3, 1, 2)))[None].repeat(3, 1, 1, 1, 1)
        expected = peer(frames).transpose(0, 1).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(logits, expected[:, 0] if kind == "relu" else expected, rtol=1e-3, atol=1e-3)


def from_torch(state: dict[str, np.ndarray]) -> dict[str, Any]:
    """A network's variables from a state dictionary with torchvision's names."""
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}

    def put(path: list[str], conv: str, norm: str, name: str) -> None:
        of = [*path, name] if path else [name]
        kernel = state[f"{conv}.weight"].transpose(2, 3, 1, 0)
        nested(variables["params"], [*of[:-1], f"conv_{of[-1]}" if path and name == "shortcut" else of[-1]])["conv"] = {
            "kernel": kernel
        }
        norm_name = f"norm_{name}" if name in ("stem", "shortcut") else name.replace("conv", "norm")
        nested(variables["params"], [*path, norm_name]).update(
            scale=state[f"{norm}.weight"], bias=state[f"{norm}.bias"]
        )
        nested(variables["batch_stats"], [*path, norm_name]).update(
            mean=state[f"{norm}.running_mean"], var=state[f"{norm}.running_var"]
        )

    put([], "conv1", "bn1", "stem")
    for i in range(1, 5):
        for j in range(2):
            block = f"layer{i}.{j}"
            for n in (1, 2):
                put([f"block{i}_{j + 1}"], f"{block}.conv{n}", f"{block}.bn{n}", f"conv{n}")
            if f"{block}.downsample.0.weight" in state:
                put([f"block{i}_{j + 1}"], f"{block}.downsample.0", f"{block}.downsample.1", "shortcut")
    variables["params"]["head"] = {"kernel": state["fc.weight"].T, "bias": state["fc.bias"]}
    return variables


def nested(tree: dict[str, Any], path: list[str]) -> dict[str, Any]:
    return functools.reduce(lambda node, key: node.setdefault(key, {}), path, tree)
