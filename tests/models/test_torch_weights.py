"""State dicts of PyTorch networks: the converted network computes what the original does, and what is not one is told.

The originals are NumPy forward passes (`torch_nets.py`) and, in the group `peers`, the modules themselves in PyTorch.
"""

import jax
import numpy as np
import pytest
from representative import representatives
from torch_nets import (
    resnet,
    resnet_weights,
    vgg,
    vgg_weights,
    wide_resnet,
    wide_resnet_weights,
)

from snnkd_jax.errors import InputError
from snnkd_jax.models import build
from snnkd_jax.models.torch_weights import convert_weights, read_weights


def option_a(weights, x):
    return resnet(weights, x, head="linear")


CASES = {
    "resnet18": (lambda: resnet_weights("resnet18", 4), resnet),
    "resnet34": (
        lambda: resnet_weights("resnet34", 4, shortcut="shortcut", head="linear"),
        lambda weights, x: resnet(weights, x, "shortcut", "linear"),
    ),
    "resnet20": (lambda: resnet_weights("resnet20", 4, classes=7), resnet),
    "resnet20-a": (lambda: resnet_weights("resnet20", 8, shortcut="", head="linear"), option_a),
    "resnet18-imagenet": (lambda: resnet_weights("resnet18", 4, kernel=7), resnet),
    "resnet34-imagenet": (lambda: resnet_weights("resnet34", 4, kernel=7), resnet),
    "vgg11-imagenet": (
        lambda: vgg_weights("vgg11", 1 / 32, hidden=128),
        lambda weights, x: vgg(weights, x, "vgg11"),
    ),
    "vgg13-imagenet": (
        lambda: vgg_weights("vgg13", 1 / 32, hidden=128),
        lambda weights, x: vgg(weights, x, "vgg13"),
    ),
    "vgg16-imagenet": (
        lambda: vgg_weights("vgg16", 1 / 32, hidden=128),
        lambda weights, x: vgg(weights, x, "vgg16"),
    ),
    "vgg11": (lambda: vgg_weights("vgg11", 1 / 16), lambda weights, x: vgg(weights, x, "vgg11")),
    "vgg13": (
        lambda: vgg_weights("vgg13", 1 / 16, head="classifier.0"),
        lambda weights, x: vgg(weights, x, "vgg13", "classifier.0"),
    ),
    "vgg16": (lambda: vgg_weights("vgg16", 1 / 16), lambda weights, x: vgg(weights, x, "vgg16")),
    "wrn-16-2": (lambda: wide_resnet_weights(16, 2, 4), lambda weights, x: wide_resnet(weights, x, 16)),
    "wrn-28-4": (lambda: wide_resnet_weights(28, 4, 2), lambda weights, x: wide_resnet(weights, x, 28)),
}
IMAGES = np.random.default_rng(1).standard_normal((2, 32, 32, 3)).astype(np.float32)


def assert_close(found, expected):
    """To 1e-4 of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def check(converted, logits, stages):
    network = build(converted.model, converted.num_classes, width=converted.width, pool=converted.pool)
    found, features = jax.device_get(jax.jit(network.apply)(converted.variables, IMAGES))
    assert_close(found, logits)
    assert len(features["stages"]) == len(stages)
    for i, ends in enumerate(stages, start=1):
        for kind, end in zip(("pre_activations", "stages"), ends, strict=True):
            assert_close(features[kind][f"stage{i}"], np.moveaxis(end, 1, -1))


QUICK = ("vgg11", "resnet20-a")


@pytest.mark.parametrize("model", representatives(CASES, QUICK.__contains__))
def test_a_converted_network_computes_what_the_original_does(model):
    make, forward = CASES[model]
    weights = make()
    converted = convert_weights(weights)
    assert converted.model == model
    stem = weights[f"{'features.0' if model.startswith('vgg') else 'conv1'}.weight"]
    assert converted.width == len(stem) / (16 if model.startswith(("wrn", "resnet20")) else 64)
    check(converted, *forward(weights, IMAGES.transpose(0, 3, 1, 2).astype(np.float64)))


@pytest.mark.slow
@pytest.mark.parametrize("model", CASES)
def test_architecture_width_and_classes_follow_from_the_entries(model):
    weights = CASES[model][0]()
    converted = convert_weights(weights)
    assert (converted.model, converted.num_classes) == (model, 7 if model == "resnet20" else 10)
    network = build(model, converted.num_classes, width=converted.width)
    expected = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))
    assert jax.tree.map(np.shape, converted.variables) == jax.tree.map(lambda x: x.shape, expected)
    # Nothing is lost but the counters and the biases of VGG's convolutions, which are in the means.
    lost = {f"{name[:-6]}bias" for name, x in weights.items() if x.ndim == 4}
    kept = [x.size for name, x in weights.items() if name not in lost and not name.endswith("tracked")]
    assert sum(x.size for x in jax.tree.leaves(converted.variables)) == sum(kept)


@pytest.mark.parametrize(
    ("model", "change", "told"),
    [
        ("resnet18", {"layer2.1.bn2.running_var": None}, "layer2.1.bn2.running_var is missing"),
        ("resnet18", {"layer2.0.downsample.0.weight": None}, "layer2.0.downsample.0.weight is missing"),
        ("resnet18", {"fc.bias": None}, "fc.bias is missing"),
        ("resnet18", {"attention.weight": np.zeros(3, np.float32)}, "attention.weight are of another network"),
        ("resnet18", {"conv1.bias": np.zeros(4, np.float32)}, "conv1.bias are of another network"),
        ("resnet18", {"layer3.0.conv1.weight": np.zeros((16, 8, 1, 1), np.float32)}, r"\(1, 1, 8, 16\), not \(3, 3"),
        ("resnet18", {"layer4.1.bn1.weight": np.zeros(31, np.float32)}, r"shape \(31,\), not \(32,\)"),
        ("resnet18", {"layer4.1.bn1.bias": np.full(32, np.nan, np.float32)}, "layer4.1.bn1.bias has values that are"),
        ("resnet18", {"layer4.1.bn1.running_var": np.full(32, -1, np.float32)}, "running variance .* is negative"),
        ("resnet18", {"fc.weight": np.zeros((10, 32), np.int8)}, "fc.weight holds int8"),
        ("resnet18", {"fc.weight": np.zeros(10, np.float32)}, r"fc.weight has shape \(10,\), not 2 axes"),
        ("resnet20", {"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)}, "ResNet-20 with a 7x7 stem"),
        ("resnet18", {"conv1.weight": np.zeros((4, 3, 5, 5), np.float32)}, r"\(5, 5, 3, 4\), not \(3, 3"),
        ("resnet18", {"layer1.0.conv3.weight": np.zeros((64, 3, 1, 1), np.float32)}, "bottlenecks"),
        ("resnet18", {"layer1.2.conv1.weight": np.zeros((4, 4, 3, 3), np.float32)}, r"\(3, 2, 2, 2\) blocks"),
        ("vgg11", {"features.1.running_mean": None}, "VGG without batch norm"),
        ("vgg11", {"features.29.weight": np.zeros((32, 32, 3, 3), np.float32)}, r"VGG .* \(1, 1, 2, 2, 2, 1\) conv"),
        (
            "vgg11",
            {"classifier.3.weight": np.zeros((4096, 4096), np.float32)},
            "with the layers classifier, classifier.3",
        ),
        ("vgg11-imagenet", {"classifier.0.weight": np.zeros((128, 512), np.float32)}, "reads 512 values, not a map"),
        ("vgg11-imagenet", {"classifier.6.bias": None}, "classifier.6.bias is missing"),
        ("vgg11-imagenet", {"classifier.3.weight": np.zeros((9, 128), np.float32)}, r"\(128, 9\), not \(128, 128\)"),
        ("resnet20-a", {"layer3.0.conv1.weight": None}, "layer3.0.conv1.weight is missing"),
        ("resnet20", {"layer2.0.downsample.1.weight": None}, "layer2.0.downsample.1.weight is missing"),
        ("resnet18-imagenet", {"layer2.0.downsample.0.weight": None}, "layer2.0.downsample.0.weight is missing"),
        ("vgg11", {"features.0.bias": np.zeros(3, np.float32)}, r"features.1.running_mean has shape \(4,\)"),
        ("wrn-16-2", {"block1.layer.2.conv1.weight": np.zeros((8, 8, 3, 3), np.float32)}, "wide ResNet .*3, 2, 2"),
        ("wrn-16-2", {"block1.layer.0.conv2.bias": np.zeros(8, np.float32)}, "conv2.bias are of another network"),
        ("wrn-16-2", {"conv1.weight": None}, "wide ResNet"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_the_network_is_named(model, change, told):
    weights = {name: x for name, x in (CASES[model][0]() | change).items() if x is not None}
    with pytest.raises(InputError, match=told):
        convert_weights(weights)


def test_another_network_is_refused():
    with pytest.raises(InputError, match=r"blocks\.0\.attn, 1, 2, 3, 4, 5 and 1 more are of no known network"):
        convert_weights({name: np.zeros(1) for name in ("blocks.0.attn", *"123456")})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.pt does not exist"):
        read_weights(tmp_path / "nowhere.pt")
