"""Architectures and networks: parameter counts, shapes, the injected activation, and what time does to them."""

import functools
import itertools
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from network_checks import FAMILIES, count, moved, shapes
from representative import representatives, slow

from snnkd_jax.distill.connector import Connectors
from snnkd_jax.distill.losses import mask_channels
from snnkd_jax.dynamics.neurons import LIF, PLIF, neuron_from
from snnkd_jax.errors import InputError
from snnkd_jax.models import MODELS, Network, build
from snnkd_jax.models.convnet import ConvNet
from snnkd_jax.models.layers import BatchNorm, avg_pool

# Weights and biases for 10 classes and 32x32x3 images, convolutions without bias; derived by hand below.
PARAMETERS = {
    "convnet": 545_322,
    "vgg11": 9_228_362,
    "vgg13": 9_413_066,
    "vgg16": 14_724_042,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet20": 272_474,
    "resnet20-a": 269_722,
    "resnet19": 12_697_994,
    "wrn-16-2": 691_674,
    "wrn-28-4": 5_849_050,
    "pyramidnet18": 15_498_250,
    "airbench94": 1_973_186,
    "airbench95": 4_606_914,
    "airbench94-whitened": 1_971_640,
    "resnet18-imagenet": 11_181_642,
    "resnet34-imagenet": 21_289_802,
    "vgg11-imagenet": 128_810_058,
    "vgg13-imagenet": 128_994_762,
    "vgg16-imagenet": 134_305_738,
    "sew-resnet18": 11_181_642,
    "sew-resnet34": 21_289_802,
}


def conv_count(kernel: int, *channels: int) -> int:
    return sum(kernel**2 * a * b + 2 * b for a, b in itertools.pairwise(channels))


def resnet_count(sizes, widths, stem=3) -> int:
    convolutions = [c for size, c in zip(sizes, widths, strict=True) for _ in range(2 * size)]
    projections = sum(conv_count(1, a, b) for a, b in itertools.pairwise(widths))
    return conv_count(stem, 3, widths[0]) + conv_count(3, widths[0], *convolutions) + projections


def wrn_count(blocks, widen) -> int:
    ends = [16] + [16 * widen * 2**i for i in range(3) for _ in range(blocks)]
    total = 9 * 3 * 16
    for a, b in itertools.pairwise(ends):
        total += 2 * a + 9 * a * b + 2 * b + 9 * b * b + (a * b if a != b else 0)
    return total + 2 * ends[-1] + head(ends[-1])


def head(features: int) -> int:
    return features * 10 + 10


def test_golden_counts_follow_from_the_definitions():
    def vgg(*sizes):
        widths = [c for size, c in zip(sizes, (64, 128, 256, 512, 512), strict=True) for _ in range(size)]
        return conv_count(3, 3, *widths) + head(512)

    def imagenet_vgg(*sizes):
        return vgg(*sizes) - head(512) + (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + head(4096)

    block = (64, 64, 256, 256, 256, 256)
    ends = [64 + 56 * k for k in range(9)]
    pyramid = conv_count(3, 3, 64) + sum(2 * a + conv_count(3, a, b, b) for a, b in itertools.pairwise(ends))
    imagenet18, imagenet34 = (
        resnet_count(sizes, (64, 128, 256, 512), stem=7) + head(512) for sizes in ((2, 2, 2, 2), (3, 4, 6, 3))
    )
    assert {
        "convnet": conv_count(3, 3, 32, 64) + 8 * 8 * 64 * 128 + 2 * 128 + head(128),
        "vgg11": vgg(1, 1, 2, 2, 2),
        "vgg13": vgg(2, 2, 2, 2, 2),
        "vgg16": vgg(2, 2, 3, 3, 3),
        "resnet18": resnet_count((2, 2, 2, 2), (64, 128, 256, 512)) + head(512),
        "resnet34": resnet_count((3, 4, 6, 3), (64, 128, 256, 512)) + head(512),
        "resnet20": resnet_count((3, 3, 3), (16, 32, 64)) + head(64),
        "resnet20-a": conv_count(3, 3, *[16] * 7, *[32] * 6, *[64] * 6) + head(64),
        "resnet19": resnet_count((3, 3, 2), (128, 256, 512)) + 512 * 256 + 256 + head(256),
        "wrn-16-2": wrn_count(2, 2),
        "wrn-28-4": wrn_count(4, 4),
        "pyramidnet18": pyramid + 2 * 512 + head(512),
        "airbench94": conv_count(3, 3, 24, *(c for c in (64, 256, 256) for _ in range(2))) + head(256),
        "airbench95": conv_count(3, 3, 24, *(c for c in (128, 384, 384) for _ in range(2))) + head(384),
        "airbench94-whitened": (2 * 2 * 3 + 1) * 24 + conv_count(3, 24, *block) - sum(block) + 256 * 10,
        "resnet18-imagenet": imagenet18,
        "resnet34-imagenet": imagenet34,
        "vgg11-imagenet": imagenet_vgg(1, 1, 2, 2, 2),
        "vgg13-imagenet": imagenet_vgg(2, 2, 2, 2, 2),
        "vgg16-imagenet": imagenet_vgg(2, 2, 3, 3, 3),
        "sew-resnet18": imagenet18,
        "sew-resnet34": imagenet34,
    } == PARAMETERS


def test_every_model_has_a_golden_count():
    assert PARAMETERS.keys() == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("neuron", [None, slow(LIF())], ids=["relu", "lif"])
def test_parameter_count(name, neuron):
    agrees(count(shapes(build(name, 10, neuron=neuron))), PARAMETERS[name], name="numbers of parameters")


QUICK = {("convnet", (28, 28, 1)), ("vgg11", (8, 8, 1)), ("airbench94", (32, 32, 3)), ("wrn-16-2", (8, 8, 1))}
SHAPES = [*itertools.product(FAMILIES, [(32, 32, 3), (28, 28, 1), (8, 8, 1)]), ("vgg11-imagenet", (28, 28, 1))]
SHAPES = representatives(SHAPES, QUICK.__contains__)


def test_published_counts():
    assert round(PARAMETERS["wrn-28-4"] / 1e6, 3) == 5.849
    assert round(PARAMETERS["wrn-16-2"] / 1e6, 3) == 0.692
    assert round(PARAMETERS["resnet18"] / 1e6, 2) == 11.17
    # torchvision's, with the biases of its convolutions and 1000 classes
    biases, classes = 2 * (64 + 128 + 256 + 512 + 512), (4096 + 1) * 990
    assert PARAMETERS["vgg13-imagenet"] + biases + classes == 133_053_736


@pytest.mark.parametrize(("name", "image_shape"), SHAPES, ids=str)
def test_shapes(name, image_shape):
    """Teacher and student agree on every stage; the student has T logits."""
    teacher, student = build(name, 7, width=0.25), build(name, 7, neuron=LIF(), num_steps=3, width=0.25)
    images = jnp.zeros((2, *image_shape))
    halved = name.startswith("vgg") or name.endswith("whitened")
    if halved and image_shape[0] < (32 if name.endswith("imagenet") else 16):
        with pytest.raises(InputError, match="too small"):
            shapes(teacher, image_shape)
        return
    logits, features = jax.eval_shape(teacher.apply, shapes(teacher, image_shape), images)
    assert logits.shape == (2, 7)
    assert features["firing_rates"] == {}
    student_logits, student_features = jax.eval_shape(student.apply, shapes(student, image_shape), images)
    assert student_logits.shape == (2, 3, 7)
    assert features["stages"].keys() == student_features["stages"].keys() == features["pre_activations"].keys()
    for stage, x in features["stages"].items():
        y = student_features["stages"][stage]
        assert y.shape in ((2, 3, *x.shape[1:]), (2, 1, *x.shape[1:]))
    assert len(student_features["firing_rates"]) >= 3
    assert all(rate.shape == (2,) for rate in student_features["firing_rates"].values())


def test_stages_halve_the_map():
    _, features = jax.eval_shape(
        (net := build("wrn-16-2", 10)).apply, shapes(net), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    )
    assert [x.shape[1:] for x in features["stages"].values()] == [(32, 32, 32), (16, 16, 64), (8, 8, 128)]


def convolutions(network, images) -> dict[int, int]:
    """Number of images that each convolution of the compiled program sees, counted."""
    jaxpr = jax.make_jaxpr(network.apply)(shapes(network), images)
    found: dict[int, int] = {}

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                batch = equation.invars[0].aval.shape[0]
                found[batch] = found.get(batch, 0) + 1
            for parameter in equation.params.values():
                if hasattr(parameter, "jaxpr"):
                    visit(parameter.jaxpr)

    visit(jaxpr.jaxpr)
    return found


def test_first_convolution_is_computed_once_for_a_static_image():
    student = build("resnet18", 10, neuron=LIF(), num_steps=4, width=0.1)
    # 20 convolutions: the stem, 16 in blocks, 3 projections
    assert convolutions(student, jnp.zeros((3, 32, 32, 3))) == {3: 1, 12: 19}
    assert convolutions(student, jnp.zeros((3, 4, 32, 32, 3))) == {12: 20}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnet", "wrn-16-2"])
def test_static_image_equals_its_repetition(name):
    """Computing the stem once is exact, in evaluation and in training (batch statistics included)."""
    student = build(name, 4, neuron=LIF(), num_steps=3, width=0.1)
    variables = moved(student.init(jax.random.key(0), (8, 8, 1)))
    images = jax.random.normal(jax.random.key(2), (5, 8, 8, 1))
    repeated = jnp.repeat(images[:, None], 3, axis=1)
    apply = jax.jit(student.apply)
    np.testing.assert_allclose(apply(variables, images)[0], apply(variables, repeated)[0], rtol=1e-5, atol=1e-5)
    (once, _), once_stats = jax.jit(student.apply_train)(variables, images)
    (thrice, _), thrice_stats = jax.jit(student.apply_train)(variables, repeated)
    np.testing.assert_allclose(once, thrice, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), once_stats, thrice_stats)


def test_examples_do_not_see_each_other_in_evaluation():
    student = build("convnet", 4, neuron=LIF(), num_steps=2, width=0.25)
    variables = moved(student.init(jax.random.key(0), (8, 8, 1)))
    images = jax.random.normal(jax.random.key(2), (4, 8, 8, 1))
    logits, _ = jax.jit(student.apply)(variables, images)
    alone, _ = jax.jit(student.apply)(variables, images[2:3])
    np.testing.assert_allclose(logits[2:3], alone, rtol=1e-5, atol=1e-5)


def test_student_takes_the_variables_of_its_teacher():
    teacher, student = build("vgg11", 10, width=0.1), build("vgg11", 10, width=0.1, neuron=LIF())
    assert shapes(teacher) == shapes(student)


def test_convnet_against_numpy():
    """A whole spiking network, step by step with loops over time: its convolutions by SciPy in float64."""
    from scipy.signal import correlate

    student = build("convnet", 3, neuron=LIF(tau=1.5), num_steps=3, width=0.1)
    variables = moved(student.init(jax.random.key(0), (8, 8, 2)))
    image = 4 * np.asarray(jax.random.normal(jax.random.key(3), (8, 8, 2)), np.float64)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    stats = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["batch_stats"])

    def norm(name, x):
        scale = p[name]["scale"] / np.sqrt(stats[name]["var"] + 1e-5)
        return (x - stats[name]["mean"]) * scale + p[name]["bias"]

    def conv(name, x):
        kernel = p[name]["conv"]["kernel"]
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        return np.stack(
            [correlate(padded, kernel[..., k], mode="valid")[..., 0] for k in range(kernel.shape[-1])], axis=-1
        )

    def fire(v, x):
        h = v + (x - v) / 1.5
        s = (h >= 1).astype(float)
        return (1 - s) * h, s

    def pool(x):
        h, w, c = x.shape
        return x.reshape(h // 2, 2, w // 2, 2, c).mean((1, 3))

    potentials = [0.0, 0.0, 0.0]
    expected = []
    for _ in range(3):
        potentials[0], s = fire(potentials[0], norm("norm1", conv("conv1", image)))
        potentials[1], s = fire(potentials[1], norm("norm2", conv("conv2", pool(s))))
        hidden = norm("norm_hidden", pool(s).ravel() @ p["hidden"]["kernel"])
        potentials[2], s = fire(potentials[2], hidden)
        expected.append(s @ p["head"]["kernel"] + p["head"]["bias"])
    logits, features = jax.jit(student.apply)(variables, jnp.asarray(image, jnp.float32)[None])
    assert all(0 < float(rate[0]) < 1 for rate in features["firing_rates"].values())
    agrees(logits[0], np.array(expected), rtol=1e-4, atol=1e-5, name="a spiking convnet")


def test_batch_norm_against_numpy():
    x = np.random.default_rng(0).normal(3, 2, (4, 3, 5, 5, 2)).astype(np.float32)
    norm = BatchNorm(train=True, v_threshold=0.5, branches=2)
    variables = BatchNorm(train=False).init(jax.random.key(0), x)
    variables = {**variables, "params": {"scale": jnp.array([1.5, -1.0]), "bias": jnp.array([0.1, 0.2])}}
    y, updates = cast(Any, norm.apply(variables, x, mutable=["batch_stats"]))
    x64 = x.astype(np.float64)
    mean, var = x64.mean((0, 1, 2, 3)), x64.var((0, 1, 2, 3))
    gain = 0.5 / np.sqrt(2)  # tdBN: threshold over the root of the number of branches
    expected = gain * np.array([1.5, -1.0]) * (x64 - mean) / np.sqrt(var + 1e-5) + np.array([0.1, 0.2])
    agrees(y, expected, rtol=1e-4, atol=1e-5, name="batch norm with tdBN")
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * var, rtol=1e-5)


def test_batch_norm_agrees_with_flax():
    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 3)) + 1
    ours = BatchNorm(train=True)
    theirs = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
    a, _ = ours.apply(BatchNorm(train=False).init(jax.random.key(0), x), x, mutable=["batch_stats"])
    b, _ = theirs.apply(theirs.init(jax.random.key(0), x), x, mutable=["batch_stats"])
    agrees(a, b, rtol=1e-4, atol=1e-5, name="batch norm")


def test_tdbn_counts_the_threshold_from_rest():
    neuron = LIF(v_reset=-1.0, v_threshold=-0.5)
    assert build("convnet", 4, neuron=neuron, tdbn=True).module.norm.keywords["v_threshold"] == 0.5  # pyright: ignore


def test_batch_norm_of_one_value_per_channel_is_refused():
    """It would be beta, whatever x is."""
    norm = BatchNorm(train=True, name="norm_hidden")
    variables = BatchNorm(train=False).init(jax.random.key(0), jnp.zeros((1, 5)))
    with pytest.raises(
        InputError, match=r"batch norm 'norm_hidden' is trained on one value per channel \(shape \(1, 5\)\)"
    ):
        norm.apply(variables, jnp.ones((1, 5)), mutable=["batch_stats"])
    norm.apply(variables, jnp.ones((1, 2, 5)), mutable=["batch_stats"])


@pytest.mark.slow
def test_tdbn_reaches_the_residual_sum():
    """With tdBN and threshold 2, the norm before a neuron has standard deviation 2, those of a sum 2 / sqrt 2."""
    student = build("resnet18", 4, neuron=LIF(v_threshold=2.0), num_steps=2, width=0.1, tdbn=True)
    variables = student.init(jax.random.key(0), (8, 8, 3))
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))
    seen: dict[str, jax.Array] = {}

    def record(next_call, arguments, keywords, context):
        y = next_call(*arguments, **keywords)
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            seen[str(context.module.name)] = y.std()
        return y

    def stds():
        student.apply_train(variables, images)
        return dict(seen)

    with nn.intercept_methods(record):
        seen = jax.jit(stds)()
    assert seen["norm_stem"] == pytest.approx(2, rel=1e-2)
    assert seen["norm_shortcut"] == pytest.approx(2**0.5, rel=1e-2)


def test_average_pooling_against_a_loop_and_odd_maps():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 7, 2))
    y = avg_pool(x)
    assert y.shape == (2, 3, 2, 3, 2)
    for i in range(2):
        for j in range(3):
            window = x[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, :]
            agrees(y[..., i, j, :], window.mean((2, 3)), rtol=1e-5, atol=1e-6, name="mean pooling")


def test_connectors_map_each_stage():
    connectors = Connectors((("stage1", 5), ("stage2", 7)))
    stages = {"stage1": jnp.ones((2, 4, 4, 3)), "stage2": jnp.ones((2, 2, 2, 6))}
    variables = connectors.init(jax.random.key(0), stages, train=False, blur_key=jax.random.key(1))
    y: Any = connectors.apply(variables, stages, train=False, blur_key=jax.random.key(1))
    assert {name: x.shape for name, x in y.items()} == {"stage1": (2, 4, 4, 5), "stage2": (2, 2, 2, 7)}
    assert count(variables) == 3 * 5 + 2 * 5 + 6 * 7 + 2 * 7
    blurred = Connectors((("stage1", 5),), blur=True).init(jax.random.key(0), stages, False, jax.random.key(1))
    assert count(blurred) == 3 * 5 + 2 * 5 + 2 * 9 * 5 * 5


@pytest.mark.slow
def test_a_generator_restores_what_is_blanked():
    """norm(conv x), 15 % of its channels blanked, conv, ReLU, conv: each in float64, on what was trained otherwise."""
    stages = {"stage1": jax.random.normal(jax.random.key(0), (40, 4, 4, 3))}
    connectors, key = Connectors((("stage1", 50),), blur=True), jax.random.key(1)
    variables = connectors.init(jax.random.key(2), stages, train=False, blur_key=key)
    variables = jax.tree.map(lambda x: x + 0.5 * jax.random.uniform(jax.random.key(3), x.shape), variables)
    w: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])
    statistics: Any = variables["batch_stats"]["norm_stage1"]
    x = np.asarray(stages["stage1"], np.float64) @ w["conv_stage1"]["conv"]["kernel"][0, 0]
    x = (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5)
    x = w["norm_stage1"]["scale"] * x + w["norm_stage1"]["bias"]
    plain: Any = Connectors((("stage1", 50),)).apply(
        {name: {k: v for k, v in part.items() if "generate" not in k} for name, part in variables.items()},
        stages,
        train=False,
        blur_key=key,
    )
    agrees(plain["stage1"], x, rtol=1e-4, atol=1e-4, name="connector")
    blanked = mask_channels(key, jnp.asarray(x, jnp.float32), 0.15)
    assert 0.1 < float((blanked == 0).mean()) < 0.2
    x = np.asarray(blanked, np.float64)
    for name in ("generate_stage1_1", "generate_stage1_2"):
        padded, out = np.pad(np.maximum(x, 0) if name.endswith("2") else x, ((0, 0), (1, 1), (1, 1), (0, 0))), 0.0
        for i in range(3):
            for j in range(3):
                out = out + padded[:, i : i + 4, j : j + 4] @ w[name]["conv"]["kernel"][i, j]
        x = out
    found: Any = connectors.apply(variables, stages, train=False, blur_key=key)
    agrees(found["stage1"] / np.abs(x).max(), x / np.abs(x).max(), atol=1e-5, name="generator")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plif", "if"])
def test_neuron_kinds_differ_and_plif_starts_as_lif(kind):
    neurons = {k: neuron_from({"neuron": k, "tau": 3.0}) for k in ("lif", kind)}
    networks = {k: build("convnet", 3, neuron=neuron, num_steps=4, width=0.2) for k, neuron in neurons.items()}
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    logits = {}
    for k, network in networks.items():
        variables = network.init(jax.random.key(0), (8, 8, 1))
        logits[k] = network.apply(variables, 3 * images)[0]
    if kind == "plif":
        np.testing.assert_allclose(logits["plif"], logits["lif"], rtol=1e-5, atol=1e-6)
    else:
        assert not np.allclose(logits["if"], logits["lif"])


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_answers_in_float32():
    student = build("convnet", 3, neuron=LIF(), num_steps=2, width=0.2, dtype=jnp.bfloat16)
    variables = student.init(jax.random.key(0), (8, 8, 1))
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits, features = student.apply(variables, jnp.ones((2, 8, 8, 1)))
    assert logits.dtype == jnp.float32
    assert features["stages"]["stage1"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "resnet81"}, "model 'resnet81' is unknown"),
        ({"width": 0.0}, "width=0.0"),
        ({"width": 100.0}, "width=100.0"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"num_classes": 2.5}, r"num_classes=2\.5 must be a whole number of at least 2"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_steps": 4.0}, r"num_steps=4\.0 must be a whole number"),
        ({"num_steps": float("nan")}, "num_steps=nan"),
        ({"neuron": None, "levels": 2.5}, r"levels=2\.5"),
        ({"levels": 4}, "levels=4 is for ANNs"),
        ({"neuron": "lif"}, "neuron='lif' must have parameters, init and step"),
        ({"neuron": LIF}, "LIF.* must have parameters"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"name": "convnet", "num_classes": 10, "neuron": LIF()} | change
    with pytest.raises(InputError, match=message):
        build(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neuron": "hh"}, "neuron 'hh' is unknown"),
        ({"tau": 0.5}, "tau=0.5"),
        ({"neuron": "if", "tau": 0.5, "v_threshold": 0.0}, "v_threshold=0.0"),
        ({"neuron": "plif", "tau": 1.0}, "tau=1.0"),
        ({"v_threshold": 0.0}, "v_threshold=0.0"),
        ({"v_reset": 2.0}, "v_threshold=1.0"),
    ],
)
def test_bad_neurons_are_named(change, message):
    with pytest.raises(InputError, match=message):
        neuron_from({"neuron": "lif"} | change)


def test_names_as_in_the_papers():
    assert shapes(build("ResNet-18", 10)) == shapes(build("resnet18", 10))
    assert shapes(build("WRN_16_2", 10)) == shapes(build("wrn-16-2", 10))


def test_images_of_a_wrong_rank_and_length_are_refused():
    teacher, student = build("convnet", 3, width=0.1), build("convnet", 3, neuron=LIF(), num_steps=4, width=0.1)
    with pytest.raises(InputError, match=r"\[B, H, W, C\]"):
        teacher.apply(teacher.init(jax.random.key(0), (8, 8, 1)), jnp.zeros((1, 4, 8, 8, 1)))
    with pytest.raises(InputError, match="5 steps"):
        student.apply(student.init(jax.random.key(0), (8, 8, 1)), jnp.zeros((1, 5, 8, 8, 1)))


class Raising(nn.Module):
    """Raises `error` for one of these numbers of time steps."""

    error: Exception
    steps: tuple[int, ...]

    def __call__(self, images, train):
        del train
        if images.shape[1] in self.steps:
            raise self.error
        return images.mean((2, 3))


@pytest.mark.parametrize(
    ("num_steps", "error", "steps", "shown"),
    [
        (3, ValueError("mine"), (3,), True),
        (1, ValueError("mine"), (1,), True),
        (3, RuntimeError("mine"), (1,), True),
        (3, ValueError("mine"), (1,), False),
        (1, AssertionError("mine"), (2,), False),
        (3, ValueError("mine"), (), None),
    ],
)
def test_streaming_check_shows_errors_of_the_module(num_steps, error, steps, shown):
    """Those of the whole sequence, and others than for a number of steps that does not fit."""
    network = Network(Raising(error, steps), num_steps)
    if shown:
        with pytest.raises(type(error), match="mine"):
            network.streams({}, (4, 4, 3))
    else:
        assert network.streams({}, (4, 4, 3)) == (shown is None)


class Value:
    """Equal to itself alone, whatever it holds."""

    value: Any


class Changing(nn.Module):
    """A network with a field that is the same object and of another value later, or has no hash."""

    widths: Any

    @nn.compact
    def __call__(self, images, train):  # noqa: ARG002
        x = images.mean(axis=(1, 2))
        for width in getattr(self.widths, "value", self.widths):
            x = nn.Dense(width)(x)
        return x


def test_your_own_modules_are_initialised_as_they_are():
    """Also where they are equal: one that has changed, those without a hash, one that cannot be compared."""

    def shapes(widths):
        params = Network(Changing(widths)).init(jax.random.key(0), (8, 8, 1))["params"]
        return [layer["kernel"].shape for layer in params.values()]

    changing = Value()
    changing.value = (3, 5)
    assert shapes(changing) == [(1, 3), (3, 5)]
    changing.value = (4,)
    assert shapes(changing) == [(1, 4)]
    assert shapes(np.array([3, 5])) == shapes(np.array([3, 5])) == [(1, 3), (3, 5)]


def test_equal_networks_are_initialised_by_the_numbers_of_the_key():
    """Raw keys are those of the generator of the settings."""
    network = build("convnet", 7, neuron=LIF(tau=1.875), num_steps=1, width=0.1)
    found = []
    for generator in ("rbg", "unsafe_rbg"):
        with jax.default_prng_impl(generator):
            found.append(network.init(jax.random.PRNGKey(0), (8, 8, 1))["params"]["head"]["kernel"])
            expected: Any = network.module.init(jax.random.PRNGKey(0), jnp.zeros((1, 1, 8, 8, 1)), train=False)
        np.testing.assert_allclose(found[-1], expected["params"]["head"]["kernel"], rtol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 0.01


def test_equal_networks_are_initialised_by_one_program(monkeypatch):
    """Those that differ are not."""
    traced = []
    call = ConvNet.__call__

    @functools.wraps(call)
    def counted(*arguments, **options):
        traced.append(1)
        return call(*arguments, **options)

    monkeypatch.setattr(ConvNet, "__call__", counted)

    def initialised(**options) -> list[tuple[int, ...]]:
        network = build("convnet", 7, **{"neuron": LIF(tau=1.75), "num_steps": 2, "width": 0.1} | options)
        return [x.shape for x in jax.tree.leaves(network.init(jax.random.key(0), (8, 8, 1)))]

    assert build("convnet", 7, neuron=LIF()) == build("convnet", 7, neuron=LIF())
    assert build("convnet", 7, neuron=LIF()) != build("convnet", 7, neuron=LIF(tau=1.75))
    one = initialised()
    assert initialised() == one
    assert len(traced) == 1
    assert initialised(neuron=PLIF()) != one
    assert initialised(num_steps=3) == one
    assert initialised(width=0.2) != one
    assert len(traced) == 4
