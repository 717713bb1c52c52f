"""Noise between layers, each kind against its own definition, and reports of a network's own answers."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from representative import slow

from snnkd_jax.analysis.disturbance import (
    LEAST_FACTOR,
    NEURON_KINDS,
    apply_disturbed,
    disturbed_neurons,
    noisy_weights,
    threshold_factors,
)
from snnkd_jax.analysis.robustness import KINDS, LEVELS, evaluate_noise
from snnkd_jax.data.corruptions import IMAGE_LEVELS, corrupt, noise_key
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.neurons import IF, LIF, PLIF
from snnkd_jax.errors import InputError
from snnkd_jax.inference.convert import convert
from snnkd_jax.inference.trained import Trained
from snnkd_jax.models import Network, build
from snnkd_jax.models.activation import Spike
from snnkd_jax.parallel.mesh import batch_sharding

KEY = jax.random.key(0)
MESH = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])


# Between the layers

T = 4
SHAPE = (8, 8, 1)
NEURON = LIF(decay_input=False, v_threshold=0.3)
SNN = build("convnet", 5, neuron=NEURON, num_steps=2, width=0.25)
ANN = build("convnet", 5, width=0.25)
BYTES = np.random.default_rng(2).integers(0, 256, (40, *SHAPE), np.uint8)
NORMALISATION = Normalisation((0.4,), (0.3,))
INPUTS = NORMALISATION(BYTES)
INDEX = jnp.arange(40)


# Jitted functions of all of their arguments: XLA would take its time to evaluate what depends on constants.
_disturbed = jax.jit(apply_disturbed, static_argnums=(0, 3))
_noisy_weights = jax.jit(noisy_weights)
_apply = jax.jit(lambda network, variables, images: network.apply(variables, images), static_argnums=0)


@functools.cache
def variables_of(network):
    return network.init(jax.random.key(1), SHAPE)


def disturbed(kind, strength, images=INPUTS, index=INDEX, network=SNN, key=KEY):
    return _disturbed(network, variables_of(network), images, kind, strength, key, index)


CURRENT = jnp.where(jax.random.bernoulli(KEY, 0.5, (32, 1, 20, 20)), 9.0, 0.0)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _spikes(kind, strength, key, index, current, neuron):
    with disturbed_neurons(kind, strength, key, index):
        return Spike(neuron, T).apply({}, current)


def spikes_of(kind, strength, current=CURRENT, neuron=NEURON, index=None):
    index = jnp.arange(len(current)) if index is None else index
    return np.asarray(_spikes(kind, strength, KEY, index, current, neuron))


@pytest.mark.slow
def test_neurons_and_weights_are_untouched_at_strength_0():
    for kind in NEURON_KINDS:
        assert spikes_of(kind, 0.0).tobytes() == np.asarray(Spike(NEURON, T).apply({}, CURRENT)).tobytes()
    jax.tree.map(np.testing.assert_array_equal, _noisy_weights(variables_of(ANN), 0.0, KEY), variables_of(ANN))
    plain = _apply(SNN, variables_of(SNN), INPUTS)[0]
    np.testing.assert_allclose(disturbed("spike_deletion", 0.0)[0], plain, atol=1e-5)
    assert np.abs(disturbed("spike_deletion", 0.3)[0] - plain).max() > 1e-2


@pytest.mark.parametrize("kind", [NEURON_KINDS[0], *map(slow, NEURON_KINDS[1:])])
def test_the_spikes_of_an_image_are_disturbed_by_its_index(kind):
    whole = spikes_of(kind, 0.3)
    order = np.random.default_rng(0).permutation(32)
    np.testing.assert_array_equal(spikes_of(kind, 0.3, CURRENT[order], index=order), whole[order])
    spread = jax.device_put((CURRENT, jnp.arange(32)), batch_sharding(MESH))
    np.testing.assert_array_equal(spikes_of(kind, 0.3, spread[0], index=spread[1]), whole)


def test_spikes_are_deleted_and_inserted_at_their_rates():
    """Half of 51,200 neuron-steps fire, so that a rate is known to 0.003."""
    spikes = np.asarray(Spike(NEURON, T).apply({}, CURRENT))
    assert 0.45 < spikes.mean() < 0.55
    assert not spikes_of("spike_deletion", 1.0).any()
    assert spikes_of("spike_insertion", 1.0).all()
    lost, inserted = (np.asarray(spikes_of(f"spike_{kind}", 0.2)) for kind in ("deletion", "insertion"))
    assert not lost[spikes == 0].any()
    agrees(lost[spikes == 1].mean(), 0.8, atol=0.015, name="spike_deletion")
    assert inserted[spikes == 1].all()
    agrees(inserted[spikes == 0].mean(), 0.2, atol=0.015, name="spike_insertion")
    kept = lost[0][spikes[0] == 1], lost[1][spikes[0] == 1]
    assert (kept[0] != kept[1]).any(), "two images share their draw"
    always = lost[:, 0][spikes[:, 0] == 1], lost[:, 1][spikes[:, 0] == 1]
    assert (always[0] != always[1]).any(), "two steps share their draw"


def test_layers_have_draws_of_their_own():
    class Two(nn.Module):
        @nn.compact
        def __call__(self, current):
            return [Spike(NEURON, T, name=name)(current) for name in ("a", "b")]

    with disturbed_neurons("spike_insertion", 0.5, KEY, jnp.arange(4)):
        a, b = Two().apply({}, jnp.zeros((4, 1, 20, 20)))
    assert np.mean(a) == pytest.approx(0.5, abs=0.05)
    assert np.mean(a != b) == pytest.approx(0.5, abs=0.05)


def lif_with_thresholds(x, f, neuron):
    """Spikes `[B, T, n]` of neurons whose thresholds are f `[n]` times as far from the reset, in float64."""
    x = np.asarray(x, np.float64)
    v_rest = 0.0 if neuron.v_reset is None else neuron.v_reset
    threshold = v_rest + f * (neuron.v_threshold - v_rest)
    v, spikes = np.full(x[:, 0].shape, v_rest), []
    for t in range(x.shape[1]):
        if isinstance(neuron, IF):
            h = v + x[:, t]
        else:
            h = v - (v - v_rest) / neuron.tau + x[:, t] / (neuron.tau if neuron.decay_input else 1)
        s = h >= threshold
        v = np.where(s, h - threshold if neuron.v_reset is None else v_rest, h)
        spikes.append(s)
    return np.stack(spikes, axis=1)


@pytest.mark.parametrize(
    "neuron",
    [LIF(2.0, 1.0, v_reset, decay_input) for v_reset in (0.0, -0.4, 0.3, None) for decay_input in (True, False)]
    + [IF(v_reset=None), IF(v_reset=0.2)],
)
def test_mismatched_thresholds_are_those_of_a_neuron_with_another_threshold(neuron):
    current = jax.random.normal(jax.random.key(3), (20, T, 50)) + 0.8
    factor = np.asarray(threshold_factors(jax.random.fold_in(KEY, 0), 0.3, (50,)), np.float64)  # crc32 of no name is 0
    expected = lif_with_thresholds(current, factor, neuron)
    nominal = lif_with_thresholds(current, np.ones(50), neuron)
    assert (expected != nominal).mean() > 0.02
    assert 0.1 < expected.mean() < 0.9
    agrees(spikes_of("threshold_mismatch", 0.3, current, neuron), expected, name="threshold_mismatch")


def test_a_constant_current_meets_the_same_thresholds_and_so_does_a_learnt_time_constant():
    neuron = PLIF(3.0, v_reset=None)
    current = jax.random.normal(jax.random.key(3), (20, 1, 50)) + 0.8
    factor = np.asarray(threshold_factors(jax.random.fold_in(KEY, 0), 0.3, (50,)), np.float64)
    variables = Spike(neuron, T).init(KEY, current)
    with disturbed_neurons("threshold_mismatch", 0.3, KEY, jnp.arange(20)):
        spikes = Spike(neuron, T).apply(variables, current)
    expected = lif_with_thresholds(np.repeat(current, T, axis=1), factor, neuron)
    np.testing.assert_array_equal(spikes, expected)


def test_threshold_factors_are_normal_and_positive():
    factor = np.asarray(threshold_factors(KEY, 0.2, (100, 100)))
    assert factor.mean() == pytest.approx(1, abs=0.01)
    assert factor.std() == pytest.approx(0.2, rel=0.03)
    assert np.asarray(threshold_factors(KEY, 2.0, (100, 100))).min() == pytest.approx(LEAST_FACTOR)


@pytest.mark.slow
def test_noisy_weights_are_multiplied_kernels():
    """The factors that `noisy_weights` used are read off, and the network applied with kernels multiplied by hand."""
    variables = variables_of(ANN)
    found = _noisy_weights(variables, 0.2, KEY)
    multiplied, factors = [], []

    def by_hand(path, before, after):
        if path[-1].key != "kernel":
            np.testing.assert_array_equal(before, after)
            return before
        factor = np.asarray(after) / np.asarray(before)
        factors.append(factor.ravel())
        multiplied.append(path[-2].key)
        return before * factor

    params = jax.tree_util.tree_map_with_path(by_hand, variables["params"], found["params"])
    assert sorted(multiplied) == ["conv", "conv", "head", "hidden"]
    assert np.concatenate(factors).mean() == pytest.approx(1, abs=0.02)
    agrees(np.concatenate(factors).std(), 0.2, rtol=0.05, name="weight_noise")
    assert len(np.unique(np.concatenate(factors))) > 0.9 * sum(map(len, factors)), "weights share their draws"
    expected = _apply(ANN, variables | {"params": params}, INPUTS)[0]
    np.testing.assert_allclose(disturbed("weight_noise", 0.2, network=ANN)[0], expected, rtol=1e-4, atol=1e-4)


def test_wrong_disturbances_are_refused():
    for kind in NEURON_KINDS:
        with pytest.raises(InputError, match=rf"kind='{kind}'.*ANN.*use 'weight_noise'"):
            disturbed(kind, 0.1, network=ANN)
    with pytest.raises(InputError, match=r"'spike_delation' is unknown \(did you mean spike_deletion\?\)"):
        disturbed("spike_delation", 0.1)
    with pytest.raises(InputError, match=r"index has shape \(3,\)"):
        disturbed("spike_deletion", 0.1, INPUTS, INDEX[:3])
    with pytest.raises(InputError, match="unknown"), disturbed_neurons("weight_noise", 0.1, KEY, INDEX):
        pass


# Reports

ONE = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])


def trained(network):
    return Trained(network, variables_of(network), NORMALISATION, SHAPE, tuple("abcde"), "digits")


def logits_of(network, images):
    logits = _apply(network, variables_of(network), images)[0]
    return logits if network is ANN else logits.mean(1)


@functools.cache
def answers_of(network):
    return np.asarray(logits_of(network, INPUTS).argmax(-1), np.int32)


@pytest.mark.slow
def test_report_is_of_the_networks_own_answers(monkeypatch):
    """Labels are the answers without noise, so that the accuracy is the share of answers that noise leaves.

    Then once more: the images in another order, in smaller batches, on four devices.
    """
    labels, traced = answers_of(SNN), []
    apply = Network.apply
    monkeypatch.setattr(Network, "apply", lambda *args: traced.append(0) or apply(*args))
    kinds = ("gaussian", "jpeg", "spike_deletion")
    measure = functools.partial(evaluate_noise, trained(SNN), seed=3, kinds=kinds)
    report = measure(BYTES, labels, batch_size=40, mesh=ONE)
    assert len(traced) == 2, "a program for images, noisy or not, and one for each disturbance, whatever the level"
    monkeypatch.undo()
    assert report["clean"] == 1
    images = BYTES.astype(np.float32) / 255
    for kind in kinds[:2]:
        answers = logits_of(SNN, NORMALISATION(corrupt(kind, 4, jax.random.key(3), images))).argmax(-1)
        assert report["kinds"][kind]["accuracy"][4] == pytest.approx((answers == answers_of(SNN)).mean())
    strength, key = LEVELS["spike_deletion"][4], noise_key(jax.random.key(3), "spike_deletion", 5)
    logits = disturbed("spike_deletion", strength, key=key)[0]
    expected = (logits.mean(1).argmax(-1) == answers_of(SNN)).mean()
    assert report["kinds"]["spike_deletion"]["accuracy"][5] == pytest.approx(expected)
    for entry in report["kinds"].values():
        assert entry["accuracy"][0] == 1
        assert len(set(entry["accuracy"])) >= 3, "the case is too easy"
        assert entry["mean"] == pytest.approx(np.mean(entry["accuracy"][1:]))
        assert entry["drop"] == pytest.approx(1 - entry["mean"])
    assert report["mean"] == {"image": None, "layer": None, "all": None}
    assert json.loads(json.dumps(report)) == report
    order = np.random.default_rng(0).permutation(40)
    assert measure(BYTES[order], answers_of(SNN)[order], batch_size=16, mesh=MESH, index=order) == report


def test_an_ann_has_no_spikes_to_delete(monkeypatch):
    """Only the mean over image noise is defined for it."""

    def darker(kind, _level, _key, images, _index):
        return images * list(IMAGE_LEVELS).index(kind) / 10

    monkeypatch.setattr("snnkd_jax.analysis.robustness.corrupt", darker)
    report = evaluate_noise(trained(ANN), BYTES, answers_of(ANN), 0, levels=[1], batch_size=40, mesh=ONE)
    assert tuple(report["kinds"]) == KINDS
    undefined = [kind for kind, entry in report["kinds"].items() if entry is None]
    assert undefined == ["spike_deletion", "spike_insertion", "threshold_mismatch"]
    assert report["mean"]["layer"] is report["mean"]["all"] is None
    means = [report["kinds"][kind]["mean"] for kind in IMAGE_LEVELS]
    assert len(set(means)) > 2
    assert report["mean"]["image"] == pytest.approx(np.mean(means))


@pytest.mark.slow
def test_thresholds_of_neurons_that_start_elsewhere_have_no_mismatch():
    """Of a network converted by QCFS; the other kinds are measured. Levels may be NumPy's."""
    quantised = trained(build("convnet", 5, width=0.25, levels=4))
    converted = convert(quantised, BYTES, 2)
    kinds = ("threshold_mismatch", "spike_deletion")
    report = evaluate_noise(converted, BYTES, answers_of(ANN), 0, kinds=kinds, levels=np.array([5]), batch_size=40)
    assert report["kinds"]["threshold_mismatch"] is None
    assert report["kinds"]["spike_deletion"]["drop"] == report["clean"] - report["kinds"]["spike_deletion"]["mean"]
    assert json.loads(json.dumps(report)) == report


def test_wrong_arguments_of_a_report_are_named():
    network, labels = trained(SNN), answers_of(SNN)
    with pytest.raises(InputError, match=r"'blurr' is unknown \(did you mean blur\?\)"):
        evaluate_noise(network, BYTES, labels, 0, kinds=["blurr"])
    with pytest.raises(InputError, match="level=6"):
        evaluate_noise(network, BYTES, labels, 0, levels=[6])
    with pytest.raises(InputError, match=r"levels=\[0\] has none above 0"):
        evaluate_noise(network, BYTES, labels, 0, levels=[0])
    with pytest.raises(InputError, match="seed=-1"):
        evaluate_noise(network, BYTES, labels, -1)
    with pytest.raises(InputError, match=r"float32 \(40, 8, 8, 1\); this network takes uint8 \[N, 8, 8, 1\]"):
        evaluate_noise(network, BYTES.astype(np.float32), labels, 0)  # pyright: ignore[reportArgumentType]
    for wrong in (labels[:39], labels[:, None]):
        with pytest.raises(InputError, match=rf"labels have shape \({len(wrong)},.*; 40 images need \(40,\)"):
            evaluate_noise(network, BYTES, wrong, 0)
    with pytest.raises(InputError, match="batch_size=7"):
        evaluate_noise(network, BYTES, labels, 0, batch_size=7)
