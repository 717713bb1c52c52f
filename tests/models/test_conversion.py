"""Conversion without training: folding, quantised activations, and an error that falls with the number of steps."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from representative import slow

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.errors import InputError
from snnkd_jax.inference.convert import convert, percentiles
from snnkd_jax.inference.trained import Trained
from snnkd_jax.models import Network, build
from snnkd_jax.models.activation import QCFS
from snnkd_jax.models.converted import ConvertedMaxPool, ConvertedSpike, relu_outputs
from snnkd_jax.models.folding import fold_norms
from snnkd_jax.models.layers import BatchNorm
from snnkd_jax.training.loop import _warn_of_thresholds

SHAPE = (16, 16, 3)
IMAGES = jax.random.normal(jax.random.key(1), (4, *SHAPE))


def as_if_trained(network, shape=SHAPE):
    """Variables whose norms all differ from the identity."""
    variables = network.init(jax.random.key(0), shape)
    rng = np.random.default_rng(0)

    def disturbed(path, x):
        if path[-1].key in ("var", "scale"):
            return x * rng.uniform(0.5, 2, x.shape).astype(np.float32)
        return x + rng.normal(0, 0.1, x.shape).astype(np.float32) if path[-1].key in ("mean", "bias") else x

    return jax.tree_util.tree_map_with_path(disturbed, variables)


def trained(network, variables) -> Trained:
    normalisation = Normalisation((0.5,) * 3, (0.25,) * 3)
    return Trained(network, variables, normalisation, SHAPE, tuple("abcde"), "cifar10")


POOLED = {"width": 0.1, "pool": "max"}
PIXELS = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)


@pytest.mark.parametrize("name", ["convnet", slow("resnet19"), slow("wrn-16-2")])
def test_folded_norms_change_nothing(name):
    """Every architecture but deeper ones and those of test_imagenet_models.py, half of them spiking, with tdBN."""
    neuron = LIF(tau=4.0) if name in ("convnet", "resnet19", "airbench94") else None
    network = build(name, 5, neuron=neuron, num_steps=2, width=0.1, tdbn=True)
    variables = as_if_trained(network)
    folded, folded_variables = fold_norms(network, variables, SHAPE)
    expected, features = jax.jit(network.apply)(variables, IMAGES)
    found, folded_features = jax.jit(folded.apply)(folded_variables, IMAGES)
    for key, x in features["pre_activations"].items():
        agrees(folded_features["pre_activations"][key], x, rtol=1e-3, atol=1e-3, name="folded norms")
    agrees(found, expected, rtol=1e-3, atol=1e-3, name="folded norms")
    shapes = jax.eval_shape(lambda: folded.init(jax.random.key(0), SHAPE))
    assert shapes["batch_stats"] == {}
    if name not in ("wrn-16-2", "pyramidnet18"):  # whose scales are left
        assert jax.tree.structure(shapes) == jax.tree.structure(folded_variables)
    left = [path for path, _ in jax.tree_util.tree_leaves_with_path(folded_variables) if path[-1].key == "scale"]
    assert bool(left) == (name in ("wrn-16-2", "pyramidnet18")), left


@pytest.mark.slow
def test_maxima_keep_the_scale_behind_them():
    """Folding a negative scale into the convolution before a maximum would make it a minimum."""
    network = build("airbench94", 5, width=0.1, pool="max")
    variables = as_if_trained(network)
    variables["params"]["norm2_1"]["scale"] *= -1
    folded = fold_norms(network, variables, SHAPE)
    expected = jax.jit(network.apply)(variables, IMAGES)[0]
    np.testing.assert_allclose(jax.jit(folded[0].apply)(folded[1], IMAGES)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_stem_of_one_channel_is_not_read_by_a_sum():
    """Where the norm's layer had another reader, folding would scale that as well."""
    network = build("wrn-16-2", 5, width=0.03)
    variables = as_if_trained(network)
    assert variables["params"]["stem"]["conv"]["kernel"].shape[-1] == 1
    folded = fold_norms(network, variables, SHAPE)
    expected = jax.jit(network.apply)(variables, IMAGES)[0]
    np.testing.assert_allclose(jax.jit(folded[0].apply)(folded[1], IMAGES)[0], expected, rtol=1e-4, atol=1e-4)


class BiasedDense(nn.Module):
    """A module whose layer has a bias of its own before the norm."""

    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(5, name="layer")(x.reshape(len(x), -1))
        return self.norm(name="norm", train=train)(x), {}


def test_a_bias_before_a_norm_is_scaled_too():
    network = Network(BiasedDense(), None)
    variables = as_if_trained(network)
    folded = fold_norms(network, variables, SHAPE)
    expected = network.apply(variables, IMAGES)[0]
    np.testing.assert_allclose(folded[0].apply(folded[1], IMAGES)[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("levels", [1, 4])
def test_quantised_activation_by_hand(levels):
    module, theta = QCFS(levels), 2.0
    params = {"params": {"threshold": jnp.float32(theta)}}
    x = np.linspace(-1, 3, 101).astype(np.float32)
    expected = theta / levels * np.clip(np.floor(levels * x / theta + 0.5), 0, levels)
    found: Any = module.apply(params, x)
    agrees(found, expected, rtol=1e-6, name="QCFS")

    def total(x, theta):
        y: Any = module.apply({"params": {"threshold": theta}}, x)
        return y.sum()

    off = x + 0.0013  # neither at 0 nor at theta
    y = theta / levels * np.clip(np.floor(levels * off / theta + 0.5), 0, levels)
    slopes = jax.vmap(jax.grad(total, argnums=(0, 1)), (0, None))(off, jnp.float32(theta))
    np.testing.assert_allclose(slopes[0], (off > 0) & (off < theta), rtol=1e-6)
    of_theta = np.where(off < 0, 0, np.where(off < theta, (y - off) / theta, 1))
    agrees(slopes[1], of_theta, rtol=1e-5, atol=1e-6, name="QCFS, gradient by theta")


@pytest.mark.parametrize(("v_init", "num_steps"), [(0.5, 4), (0.0, 16)])
def test_rate_of_converted_neurons_is_the_quantised_activation(v_init, num_steps):
    """theta / T clip(floor(T x / theta + v_init), 0, T), for currents that are no multiples of theta / T."""
    theta = 1.5
    x = (np.arange(-40, 60, dtype=np.float32) / 20 + 0.013)[None, None]
    spikes = ConvertedSpike(num_steps, v_init).apply({"params": {"threshold": jnp.float32(theta)}}, x)
    expected = theta / num_steps * np.clip(np.floor(num_steps * x / theta + v_init), 0, num_steps)
    agrees(np.asarray(spikes).mean(1, keepdims=True), expected, rtol=1e-5, atol=1e-6, name="converted neurons")
    assert set(np.unique(np.asarray(spikes))) == {0.0, np.float32(theta)}


@pytest.mark.slow
def test_activations_are_all_that_leave_a_relu():
    network = build("convnet", 5, width=0.1)
    variables = as_if_trained(network)
    found = relu_outputs(network, variables, IMAGES)
    _, features = network.apply(variables, IMAGES)
    assert found.keys() == {"act1", "act2", "act_hidden"}
    np.testing.assert_array_equal(found["act1"], features["stages"]["stage1"])
    np.testing.assert_array_equal(found["act2"], features["stages"]["stage2"])


@pytest.mark.slow
def test_error_of_percentile_conversion_falls_with_the_number_of_steps():
    """With the maximum as threshold nothing is clipped, so that the logits go to the ANN's as 1 / T."""
    network = build("convnet", 5, **POOLED)
    variables = as_if_trained(network)
    ann = trained(network, variables)
    expected = np.asarray(jax.jit(network.apply)(variables, ann.normalisation(jnp.asarray(PIXELS)))[0])
    converted = convert(ann, PIXELS, 2, 100.0)
    assert converted.with_steps(4).num_steps == 4
    logits = dataclasses.replace(converted, network=converted.with_steps(4)).logits_by_step(PIXELS, 256)
    means = np.cumsum(logits, axis=1) / np.arange(1, 257)[:, None]
    error = np.abs(means - expected[:, None]).mean(axis=(0, 2)) / np.abs(expected).mean()
    # 1 / T is a quarter each time; half of the way is asked for.
    assert error[255] < error[63] / 2 < error[15] / 4


@pytest.mark.parametrize("spikes", [True, False])
def test_maxima_are_of_what_came_so_far(spikes):
    """Against a loop, in one call and in pieces. Two neurons that fire in turn are not one that fires always."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 12, 4, 6, 3)).astype(np.float32)
    x = np.where(x > 0, np.float32(0.3), 0) if spikes else x
    x[0, :, 0, :2, 0] = [[0.3, 0], [0, 0.3]] * 6
    sums = x.astype(np.float64).cumsum(axis=1)
    peaks = np.array(
        [
            [[[s[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((0, 1)) for j in range(3)] for i in range(2)] for s in b]
            for b in sums
        ]
    )
    expected = np.diff(peaks, axis=1, prepend=0)
    pool = ConvertedMaxPool(spikes)
    whole = np.asarray(pool.apply({}, x))
    agrees(whole, expected, atol=1e-5, name="maxima of sums")
    assert whole[0, :, 0, 0, 0].sum() < 0.6 * 12 * 0.3 or not spikes
    if spikes:
        assert set(np.unique(whole)) == {0, np.float32(0.3)}
    state, pieces = {}, []
    for part in np.split(x, 4, axis=1):
        y, state = pool.apply(state, part, mutable=["state"])
        pieces.append(y)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-6)


@pytest.mark.slow
def test_percentile_is_the_threshold():
    network = build("convnet", 5, width=0.1)
    ann = trained(network, as_if_trained(network))
    pixels = ann.normalisation(jnp.asarray(PIXELS))
    expected = np.percentile(np.asarray(relu_outputs(network, ann.variables, pixels)["act2"]), 99.0)
    assert percentiles(network, ann.variables, np.asarray(pixels), 99.0)["act2"] == pytest.approx(expected)
    for images in (PIXELS, PIXELS.astype(np.float32) / 255):
        threshold = convert(ann, images, 1, 99.0).variables["params"]["act2"]["threshold"]
        assert float(threshold) == pytest.approx(expected, rel=1e-5)


def test_qcfs_conversion_is_the_quantised_network_where_currents_are_constant():
    """One activation behind the stem sees a constant current: after L steps its rates are the quantised activations."""
    network = build("convnet", 5, width=0.25, levels=4)
    variables = as_if_trained(network)
    for name in ("act1", "act2", "act_hidden"):
        variables["params"][name]["threshold"] = jnp.float32(1.7)
    converted = convert(trained(network, variables), PIXELS, 4)
    logits, features = jax.jit(converted.network.apply)(converted.variables, IMAGES)
    _, quantised = jax.jit(network.apply)(variables, IMAGES)
    np.testing.assert_allclose(
        features["stages"]["stage1"].mean(1), quantised["stages"]["stage1"], rtol=1e-4, atol=1e-4
    )
    assert len(np.unique(np.asarray(quantised["stages"]["stage1"]))) == 5
    error = np.abs(logits.mean(1) - jax.jit(network.apply)(variables, IMAGES)[0]).mean()
    assert error < 0.25 * np.abs(logits.mean(1)).mean()


@pytest.mark.parametrize("theta", [-57139.0, *map(slow, (0.0, 57139.0, float("nan")))])
def test_a_learned_threshold_that_diverged_is_told_where_it_is_used(theta):
    """Without advice on percentiles, which a quantised network has not."""
    network = build("convnet", 5, width=0.1, levels=4)
    variables = network.init(jax.random.key(0), SHAPE)
    sound = trained(network, variables)
    sound.as_teacher()
    variables = jax.tree.map(jnp.copy, variables)
    variables["params"]["act2"]["threshold"] = jnp.float32(theta)
    ann = trained(network, variables)
    for use in (lambda: convert(ann, PIXELS, 1), ann.as_teacher):
        with pytest.raises(InputError) as error:
            use()
        message = str(error.value)
        assert f"threshold of act2 is {theta:g}" in message
        assert "lower learning rate" in message
        assert "percentile" not in message
    with pytest.warns(UserWarning, match=f"teacher, epoch 3: learned thresholds .* act2 .{theta:g}.; .*lower"):
        _warn_of_thresholds("teacher, epoch 3", network, variables, warned := set())
    _warn_of_thresholds("teacher, epoch 4", network, variables, warned)
    _warn_of_thresholds("teacher, epoch 4", network, sound.variables, set())


def test_what_cannot_be_converted_is_refused():
    network, spiking = build("convnet", 5, width=0.1), build("convnet", 5, neuron=LIF(), width=0.1)
    ann = trained(network, network.init(jax.random.key(0), SHAPE))
    with pytest.raises(InputError, match="spiking already"):
        convert(trained(spiking, ann.variables), PIXELS, 1)
    with pytest.raises(InputError, match=r"percentile=0\.0"):
        convert(ann, PIXELS, 1, 0.0)
    with pytest.raises(InputError, match=r"percentile=1e-06 of the activations of act1 is 0.*; raise it"):
        convert(ann, PIXELS, 1, 1e-6)
    variables = jax.tree.map(jnp.copy, ann.variables)
    variables["params"]["norm2"]["bias"] -= 100.0  # a layer without a positive activation
    with pytest.raises(InputError, match=r"activations of act2 is 0.*; no percentile is, .*: train the ANN anew"):
        convert(trained(network, variables), PIXELS, 1, 99.9)
    with pytest.raises(InputError, match=r"num_steps=0"):
        convert(ann, PIXELS, 0)
    with pytest.raises(InputError, match="no images to measure"):
        convert(ann, PIXELS[:0], 1)
    with pytest.raises(InputError, match=r"train_images have shape \(20, 8, 16, 3\)"):
        convert(ann, PIXELS[:, :8], 1)
    with pytest.raises(InputError, match="levels=4"):
        build("convnet", 5, neuron=LIF(), levels=4)
