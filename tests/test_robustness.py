"""Noise: each kind against its own definition, its draws, and what a report and a record make of them."""

import dataclasses
import functools
import importlib
import io
import json
import re
import statistics
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from comparison import agrees
from PIL import Image

from snnkd_jax.backend import split
from snnkd_jax.config import default_config
from snnkd_jax.corruptions import IMAGE_LEVELS, corrupt, noise_key
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Neuron, build
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.disturbance import (
    DISTURBANCES,
    LEAST_FACTOR,
    NEURON_KINDS,
    apply_disturbed,
    disturbed_neurons,
    noisy_weights,
    threshold_factors,
)
from snnkd_jax.noise_records import in_words, noise_section, noise_table, summarise
from snnkd_jax.robustness import KINDS, LAYER_LEVELS, LEVELS, evaluate_noise
from snnkd_jax.train import Normalisation
from snnkd_jax.trained import Trained

ROOT = Path(__file__).parent.parent
KEY = jax.random.key(0)
MESH = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
N = 12
GREY = np.full((N, 28, 28, 3), 0.5, np.float32)
SMOOTH = scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((N, 28, 28, 3)), (0, 2, 2, 0))
SMOOTH = ((SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH)).astype(np.float32)


def noisy(kind, level, images, index=None):
    return np.asarray(corrupt(kind, level, KEY, images, index))


# Noise on images


def test_there_are_fourteen_kinds_of_five_levels_that_grow():
    assert len(IMAGE_LEVELS) == 10
    assert tuple(LAYER_LEVELS) == ("spike_deletion", "spike_insertion", "threshold_mismatch", "weight_noise")
    assert set(LAYER_LEVELS) == set(DISTURBANCES)
    for kind, strengths in LEVELS.items():
        assert len(strengths) == 5
        falling = kind in ("shot", "contrast", "jpeg")
        assert sorted(set(strengths), reverse=falling) == list(strengths)


@pytest.mark.parametrize("kind", IMAGE_LEVELS)
def test_no_noise_at_level_0_more_at_each_next_and_pixels_in_range(kind):
    unclipped = SMOOTH * 1.5
    assert noisy(kind, 0, unclipped).tobytes() == unclipped.tobytes()
    disturbance = [np.abs(noisy(kind, level, SMOOTH) - SMOOTH).mean() for level in range(6)]
    assert disturbance == sorted(set(disturbance))
    images = noisy(kind, 5, SMOOTH)
    assert images.dtype == np.float32
    assert images.shape == SMOOTH.shape
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("kind", IMAGE_LEVELS)
def test_the_draw_of_an_image_depends_on_its_index_and_not_on_its_batch(kind):
    whole = noisy(kind, 3, SMOOTH)
    order = np.array([7, 2, 9])
    np.testing.assert_array_equal(noisy(kind, 3, SMOOTH[order], order), whole[order])
    if kind in ("gaussian", "shot"):
        np.testing.assert_array_equal(noisy(kind, 3, jax.device_put(SMOOTH, split(MESH))), whole)


def test_images_levels_kinds_and_seeds_differ_in_their_draws():
    draws = [noisy("gaussian", 1, GREY)[i] for i in (0, 1)]
    draws += [
        (noisy("gaussian", 2, GREY)[0] - 0.5) / 2 + 0.5,
        np.asarray(corrupt("gaussian", 1, jax.random.key(1), GREY))[0],
    ]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1
    assert (
        jax.random.key_data(noise_key(KEY, "gaussian", 1)).tolist()
        != jax.random.key_data(noise_key(KEY, "shot", 1)).tolist()
    )


def test_gaussian_uniform_speckle_and_shot_have_their_moments_and_independent_channels():
    """On mid-grey, 28,224 values: a standard deviation is known to 0.4 %, a mean to 0.006 of it."""
    c = IMAGE_LEVELS["shot"][1]
    expected = {
        ("gaussian", 2): 0.08,
        ("uniform", 3): 0.21 / 3**0.5,
        ("speckle", 3): 0.3 * 0.5,
        ("shot", 2): (0.5 / c) ** 0.5,
    }
    for (kind, level), std in expected.items():
        difference = noisy(kind, level, GREY) - 0.5
        agrees(difference.std(), std, rtol=0.03, name=kind)
        assert abs(difference.mean()) < 0.03 * std, kind
        assert abs(np.corrcoef(difference[..., 0].ravel(), difference[..., 1].ravel())[0, 1]) < 0.05, kind
    uniform = noisy("uniform", 3, GREY) - 0.5
    assert 0.2 < np.abs(uniform).max() <= 0.21 + 1e-6
    quanta = noisy("shot", 2, GREY) * c
    np.testing.assert_allclose(quanta, quanta.round(), atol=1e-4)
    for kind in ("speckle", "shot"):
        assert not noisy(kind, 5, np.zeros_like(GREY)).any(), f"{kind} on black"


def test_salt_and_pepper_changes_its_share():
    images = noisy("salt_and_pepper", 4, GREY)
    for value in (0, 1):
        agrees((images == value).mean(), 0.17 / 2, rtol=0.1, name="salt_and_pepper")
    assert set(np.unique(images)) == {0, 0.5, 1}


@pytest.mark.parametrize("level", range(1, 6))
def test_blur_is_scipys_and_keeps_the_mean(level):
    sigma = IMAGE_LEVELS["blur"][level - 1]
    images = np.random.default_rng(1).random(SMOOTH.shape, np.float32)
    expected = scipy.ndimage.gaussian_filter(images.astype(float), (0, sigma, sigma, 0), mode="reflect", truncate=4)
    found = noisy("blur", level, images)
    agrees(found, expected, atol=2e-6, name="blur")
    np.testing.assert_allclose(found.mean((1, 2), float), images.mean((1, 2), float), atol=1e-6)


@pytest.mark.parametrize("level", range(1, 6))
def test_occlusion_is_one_grey_square_anywhere(level):
    side = (6, 8, 11, 14, 17)[level - 1]  # 0.2, 0.3, 0.4, 0.5 and 0.6 of 28, rounded
    images = noisy("occlusion", level, np.ones((60, 28, 32, 3), np.float32))
    places = set()
    for image in images:
        rows, columns = np.nonzero((image == 0.5).all(-1))
        agrees((len(rows), (image != 1).any(-1).sum()), (side**2, side**2), name="occlusion")
        assert np.ptp(rows) == np.ptp(columns) == side - 1
        places.add((rows.min(), columns.min()))
    assert len(places) > 20
    assert max(top for top, _ in places) > 0.7 * (28 - side)
    assert max(left for _, left in places) > 0.7 * (32 - side)


def test_contrast_and_brightness_are_their_formulas():
    x = SMOOTH.astype(float)
    m = x.mean((1, 2), keepdims=True)
    agrees(noisy("contrast", 2, SMOOTH), m + 0.5 * (x - m), atol=1e-6, name="contrast")
    agrees(noisy("brightness", 3, SMOOTH), np.minimum(x + 0.3, 1), atol=1e-6, name="brightness")


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    image = SMOOTH[0, ..., :channels]
    pixels = np.round(image * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(), "L" if channels == 1 else "RGB").save(file, format="JPEG", quality=18)
    expected = np.array(Image.open(file)).reshape(pixels.shape)
    agrees(np.round(255 * noisy("jpeg", 3, image[None])[0]), expected, name="jpeg")
    assert (expected != pixels).any()


def test_wrong_noise_on_images_is_refused():
    with pytest.raises(InputError, match=r"'gausian' is unknown \(did you mean gaussian\?\)"):
        corrupt("gausian", 1, KEY, GREY)
    for level in (6, -1, 1.0):
        with pytest.raises(InputError, match=re.escape(f"level={level!r}")):
            corrupt("gaussian", level, KEY, GREY)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="uint8"):
        corrupt("gaussian", 1, KEY, np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(InputError, match=r"index has shape \(3,\)"):
        corrupt("gaussian", 1, KEY, GREY, np.arange(3))
    with pytest.raises(InputError, match="2 channels"):
        corrupt("jpeg", 1, KEY, GREY[..., :2])


# Between the layers

T = 4
SHAPE = (8, 8, 1)
NEURON = Neuron(decay_input=False, v_threshold=0.3)
SNN = build("convnet", 5, neuron=NEURON, num_steps=2, width=0.25)
ANN = build("convnet", 5, width=0.25)
VARIABLES = {network: network.init(jax.random.key(1), SHAPE) for network in (SNN, ANN)}
BYTES = np.random.default_rng(2).integers(0, 256, (40, *SHAPE), np.uint8)
NORMALISATION = Normalisation((0.4,), (0.3,))
INPUTS = NORMALISATION(BYTES)
INDEX = jnp.arange(40)


# Jitted functions of all of their arguments: XLA would take its time to evaluate what depends on constants.
_disturbed = jax.jit(apply_disturbed, static_argnums=(0, 3))
_noisy_weights = jax.jit(noisy_weights)
_apply = jax.jit(lambda network, variables, images: network.apply(variables, images), static_argnums=0)


def disturbed(kind, strength, images=INPUTS, index=INDEX, network=SNN, key=KEY):
    return _disturbed(network, VARIABLES[network], images, kind, strength, key, index)


CURRENT = jnp.where(jax.random.bernoulli(KEY, 0.5, (32, 1, 20, 20)), 9.0, 0.0)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _spikes(kind, strength, key, index, current, neuron):
    with disturbed_neurons(kind, strength, key, index):
        return Spike(neuron, T).apply({}, current)


def spikes_of(kind, strength, current=CURRENT, neuron=NEURON, index=None):
    index = jnp.arange(len(current)) if index is None else index
    return np.asarray(_spikes(kind, strength, KEY, index, current, neuron))


def test_neurons_and_weights_are_untouched_at_strength_0():
    for kind in NEURON_KINDS:
        assert spikes_of(kind, 0.0).tobytes() == np.asarray(Spike(NEURON, T).apply({}, CURRENT)).tobytes()
    jax.tree.map(np.testing.assert_array_equal, _noisy_weights(VARIABLES[ANN], 0.0, KEY), VARIABLES[ANN])
    plain = _apply(SNN, VARIABLES[SNN], INPUTS)[0]
    np.testing.assert_allclose(disturbed("spike_deletion", 0.0)[0], plain, atol=1e-5)
    assert np.abs(disturbed("spike_deletion", 0.3)[0] - plain).max() > 1e-2


@pytest.mark.parametrize("kind", NEURON_KINDS)
def test_the_spikes_of_an_image_are_disturbed_by_its_index(kind):
    whole = spikes_of(kind, 0.3)
    order = np.random.default_rng(0).permutation(32)
    np.testing.assert_array_equal(spikes_of(kind, 0.3, CURRENT[order], index=order), whole[order])
    spread = jax.device_put((CURRENT, jnp.arange(32)), split(MESH))
    np.testing.assert_array_equal(spikes_of(kind, 0.3, spread[0], index=spread[1]), whole)


def test_spikes_are_lost_and_inserted_at_their_rates():
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
        if neuron.kind == "if":
            h = v + x[:, t]
        else:
            h = v - (v - v_rest) / neuron.tau + x[:, t] / (neuron.tau if neuron.decay_input else 1)
        s = h >= threshold
        v = np.where(s, h - threshold if neuron.v_reset is None else v_rest, h)
        spikes.append(s)
    return np.stack(spikes, axis=1)


@pytest.mark.parametrize(
    "neuron",
    [
        Neuron("lif", 2.0, 1.0, v_reset, decay_input)
        for v_reset in (0.0, -0.4, 0.3, None)
        for decay_input in (True, False)
    ]
    + [Neuron("if", v_reset=None), Neuron("if", v_reset=0.2)],
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
    neuron = Neuron("plif", 3.0, v_reset=None)
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


def test_noisy_weights_are_multiplied_kernels():
    """The factors that `noisy_weights` used are read off, and the network applied with kernels multiplied by hand."""
    variables = VARIABLES[ANN]
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
    for kind in DISTURBANCES[:3]:
        with pytest.raises(InputError, match=f"kind='{kind}' disturbs spiking neurons; an ordinary network has none"):
            disturbed(kind, 0.1, network=ANN)
    with pytest.raises(InputError, match=r"'spike_delation' is unknown \(did you mean spike_deletion\?\)"):
        disturbed("spike_delation", 0.1)
    with pytest.raises(InputError, match=r"index has shape \(3,\)"):
        disturbed("spike_deletion", 0.1, INPUTS, INDEX[:3])
    with pytest.raises(InputError, match="unknown"), disturbed_neurons("weight_noise", 0.1, KEY, INDEX):
        pass


# Reports and records

ONE = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])


def trained(network):
    config = default_config("digits")
    return Trained(network, VARIABLES[network], NORMALISATION, SHAPE, tuple("abcde"), "digits", config)


def logits_of(network, images):
    logits = _apply(network, VARIABLES[network], images)[0]
    return logits if network is ANN else logits.mean(1)


LABELS = {network: np.asarray(logits_of(network, INPUTS).argmax(-1), np.int32) for network in (SNN, ANN)}


def test_report_is_of_the_networks_own_answers(monkeypatch):
    """Labels are the answers without noise, so that the accuracy is the share of answers that noise leaves.

    Then once more: the images in another order, in smaller batches, on four devices.
    """
    traced = []
    apply = Network.apply
    monkeypatch.setattr(Network, "apply", lambda *args: traced.append(0) or apply(*args))
    kinds = ("gaussian", "jpeg", "spike_deletion")
    measure = functools.partial(evaluate_noise, trained(SNN), seed=3, kinds=kinds)
    report = measure(BYTES, LABELS[SNN], batch_size=40, mesh=ONE)
    assert len(traced) == 2, "a program for images, noisy or not, and one for each disturbance, whatever the level"
    monkeypatch.undo()
    assert report["clean"] == 1
    images = BYTES.astype(np.float32) / 255
    for kind in kinds[:2]:
        answers = logits_of(SNN, NORMALISATION(255 * corrupt(kind, 4, jax.random.key(3), images))).argmax(-1)
        assert report["kinds"][kind]["accuracy"][4] == pytest.approx((answers == LABELS[SNN]).mean())
    strength, key = LEVELS["spike_deletion"][4], noise_key(jax.random.key(3), "spike_deletion", 5)
    logits = disturbed("spike_deletion", strength, key=key)[0]
    expected = (logits.mean(1).argmax(-1) == LABELS[SNN]).mean()
    assert report["kinds"]["spike_deletion"]["accuracy"][5] == pytest.approx(expected)
    for entry in report["kinds"].values():
        assert entry["accuracy"][0] == 1
        assert len(set(entry["accuracy"])) >= 3, "the case is too easy"
        assert entry["mean"] == pytest.approx(np.mean(entry["accuracy"][1:]))
        assert entry["drop"] == pytest.approx(1 - entry["mean"])
    assert report["mean"] == {"image": None, "layer": None, "all": None}
    assert json.loads(json.dumps(report)) == report
    order = np.random.default_rng(0).permutation(40)
    assert measure(BYTES[order], LABELS[SNN][order], batch_size=16, mesh=MESH, index=order) == report


def test_an_ordinary_network_has_no_spikes_to_lose(monkeypatch):
    """Of the groups of kinds, it has the mean over those on images only."""

    def darker(kind, _level, _key, images, _index):
        return images * list(IMAGE_LEVELS).index(kind) / 10

    monkeypatch.setattr("snnkd_jax.robustness.corrupt", darker)
    report = evaluate_noise(trained(ANN), BYTES, LABELS[ANN], 0, levels=[1], batch_size=40, mesh=ONE)
    assert tuple(report["kinds"]) == KINDS
    undefined = [kind for kind, entry in report["kinds"].items() if entry is None]
    assert undefined == ["spike_deletion", "spike_insertion", "threshold_mismatch"]
    assert report["mean"]["layer"] is report["mean"]["all"] is None
    means = [report["kinds"][kind]["mean"] for kind in IMAGE_LEVELS]
    assert len(set(means)) > 2
    assert report["mean"]["image"] == pytest.approx(np.mean(means))


def test_wrong_arguments_of_a_report_are_named():
    network, labels = trained(SNN), LABELS[SNN]
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
    with pytest.raises(InputError, match="40 images, 39 labels"):
        evaluate_noise(network, BYTES, labels[:39], 0)
    with pytest.raises(InputError, match="batch_size=7"):
        evaluate_noise(network, BYTES, labels, 0, batch_size=7)


def report_of(clean, means, undefined=()):
    """A report whose accuracy is the same at all levels of a kind."""
    kinds = {
        kind: None if kind in undefined else {"accuracy": [clean, *[mean] * 5], "mean": mean, "drop": clean - mean}
        for kind, mean in means.items()
    }
    whole = None if undefined else statistics.fmean(means.values())
    return {"clean": clean, "kinds": kinds, "mean": {"image": 0.5, "layer": None, "all": whole}}


REPORTS = {
    "teacher": [report_of(0.95, {"blur": 0.6, "spike_deletion": 0.0}, ["spike_deletion"])] * 2,
    "student_baseline": [report_of(0.90, {"blur": a, "spike_deletion": 0.4}) for a in (0.50, 0.52)],
    "student": [report_of(0.92, {"blur": a, "spike_deletion": 0.3}) for a in (0.56, 0.60)],
}


def test_summary_over_seeds_by_hand():
    """Blur gains 0.06 and 0.08, deletion loses 0.1: the seeds' mean gains are -0.02 and -0.01."""
    found = summarise(REPORTS)
    blur = found["networks"]["student"]["kinds"]["blur"]
    assert blur["mean"]["values"] == [0.56, 0.60]
    assert blur["mean"]["std"] == pytest.approx(0.04 / 2**0.5)
    assert blur["accuracy"][0]["mean"] == pytest.approx(0.92)
    assert blur["drop"]["mean"] == pytest.approx(0.34)
    assert found["networks"]["teacher"]["kinds"]["spike_deletion"] is None
    assert found["comparison"]["better"] == ["blur"]
    assert found["comparison"]["kinds"] == ["blur", "spike_deletion"]
    assert found["comparison"]["gain"]["values"] == pytest.approx([-0.02, -0.01])
    assert found["comparison"]["clean_gain"]["mean"] == pytest.approx(0.02)
    assert summarise({"student": REPORTS["student"]})["comparison"] is None


def test_table_has_a_row_a_kind_and_the_gain():
    record = summarise(REPORTS)
    rows = noise_table(record).splitlines()
    assert rows[0] == "| noise | teacher | student without KD | student with KD | gain by KD |"
    assert rows[2:5] == [
        "| none | 95.00 ± 0.00 | 90.00 ± 0.00 | 92.00 ± 0.00 | +2.00 ± 0.00 |",
        "| blur | 60.00 ± 0.00 | 51.00 ± 1.41 | 58.00 ± 2.83 | +7.00 ± 1.00 |",
        "| spike deletion | – | 40.00 ± 0.00 | 30.00 ± 0.00 | -10.00 ± 0.00 |",
    ]
    assert rows[5].startswith("| **mean of the 10 on images** |")
    assert "| **mean of all 14** | – | 45.50 ± 0.71 |" in rows[6]
    assert in_words(record) == (
        "With KD the student is better in 1 of 2 kinds. Averaged over all of them it gains -1.50 ± 0.50 points, "
        "without noise +2.00 ± 0.00."
    )
    alone = noise_table(summarise({"student": REPORTS["student"][:1]}))
    assert alone.splitlines()[:3] == ["| noise | student with KD |", "| --- | --- |", "| none | 92.00 |"]
    assert noise_section([]) == ""


@pytest.fixture
def script(monkeypatch, tmp_path):
    """`experiments/robustness.py`, writing to a folder of its own and with networks that are measured at once."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    module = importlib.import_module("robustness")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "load_trained", lambda run, role: f"{run.name}/{role}")
    return module


def make_run(directory, roles, **changes):
    config = dataclasses.replace(default_config("digits"), run_dir=str(directory), **changes)
    for role in roles:
        (directory / role).mkdir(parents=True)
        (directory / role / "network.json").write_text("{}")
    (directory / "config.json").write_text(json.dumps({"config": dataclasses.asdict(config)}))
    return directory


def test_script_pairs_the_seeds_and_writes_a_record(script, monkeypatch, tmp_path, capsys):
    """Two distilled students, given in the wrong order, two of other runs without, one teacher for both."""
    measured = []

    def measure(name, images, labels, seed, *, batch_size, index):
        measured.append(name)
        assert index.tolist() == [0, 90, 180, 270]  # of 360
        assert (seed, batch_size, len(images), len(labels)) == (5, 8, 4, 4)
        role = {"t": "teacher", "n": "student_baseline", "k": "student"}[name[0]]
        return REPORTS[role][0 if name[1] == "0" else 1]

    monkeypatch.setattr(script, "evaluate_noise", measure)
    teacher = make_run(tmp_path / "t0", ["teacher"])
    runs = [
        make_run(tmp_path / f"k{s}", ["student"], seed=s, teacher_checkpoint=str(teacher), baseline=False)
        for s in (1, 0)
    ]
    others = [make_run(tmp_path / f"n{s}", ["student"], seed=s, preset="none") for s in (0, 1)]
    script.main(runs, tuple(others), images=4, seed=5, batch_size=8, record="x", dataset="the digits")
    assert sorted(measured) == ["k0/student", "k1/student", "n0/student", "n1/student", "t0/teacher"]
    record = json.loads((tmp_path / "results" / "x.json").read_text())
    assert record["seeds"] == [0, 1]
    assert record["networks"]["student"]["kinds"]["blur"]["mean"]["values"] == [0.56, 0.60]
    assert record["comparison"] == summarise(REPORTS)["comparison"]
    script_command = "python experiments/robustness.py RUN ... --baseline RUN ..."
    assert record["command"] == f"{script_command} --images 4 --seed 5 --batch-size 8"
    assert record["networks"]["teacher"]["kinds"]["blur"]["mean"] == {"values": [0.6], "mean": 0.6, "std": None}
    assert {"kind", "versions", "hardware", "commit", "date", "levels", "config"} <= record.keys()
    assert record["levels"]["jpeg"] == list(IMAGE_LEVELS["jpeg"])
    assert str(tmp_path) not in json.dumps(record)
    assert noise_table(record) in capsys.readouterr().out
    kept = [json.loads((tmp_path / name / "noise.json").read_text())["networks"] for name in ("k0", "k1")]
    assert [n["student"]["kinds"]["blur"]["mean"]["values"] for n in kept] == [[0.56], [0.60]]
    section = noise_section([record])
    assert noise_table(record) in section
    run = "python experiments/cifar_distill.py --dataset digits"
    taught = f"{run} --seed 0 --no-baseline --teacher-checkpoint runs/digits-convnet-temporal-t2-seed0"
    assert f"RUN of `{run} --seed 0 && {taught}`" in section
    assert f"baseline of `{run} --preset none --seed 0`, on" in section
    assert "[x](experiments/results/noise/x.json): the digits, convnet, width 0.25, T = 2, temporal;" in section


def test_script_refuses_runs_that_cannot_be_compared(script, tmp_path):
    a = make_run(tmp_path / "a", ["student"])
    networks = script.find_networks([a], [])[1]
    assert list(networks) == ["student"]
    alone = make_run(tmp_path / "alone", ["student"], preset="none")
    assert list(script.find_networks([alone], [])[1]) == ["student_baseline"]
    cases = {
        "runs are missing": ([], []),
        "repeat a seed": ([a, a], []),
        "differ in tau": ([a, make_run(tmp_path / "b", ["student"], seed=1, tau=3.0)], []),
        "only some of them have a teacher": ([a, make_run(tmp_path / "c", ["student", "teacher"], seed=1)], []),
        "a student_baseline of their own": ([make_run(tmp_path / "d", ["student", "student_baseline"])], [alone]),
        "must have the seeds of the runs": ([a], [make_run(tmp_path / "e", ["student"], preset="none", seed=1)]),
        "differ in epochs": ([a], [make_run(tmp_path / "f", ["student"], preset="none", epochs=1)]),
        "has more than the labels": ([a], [make_run(tmp_path / "g", ["student"])]),
        "leave baseline out": ([alone], [a]),
        "no network that was trained to its end": ([make_run(tmp_path / "h", [".hidden"])], []),
    }
    for message, arguments in cases.items():
        with pytest.raises(InputError, match=message):
            script.find_networks(*arguments)
    with pytest.raises(InputError, match="images=0"):
        script.main([a], images=0)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments/results/noise").glob("*.json")), ids=lambda path: path.stem
)
def test_committed_record_of_noise(path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
    assert record["levels"] == {kind: list(strengths) for kind, strengths in LEVELS.items()}
    for role, network in record["networks"].items():
        for entry in filter(None, network["kinds"].values()):
            by_level = [level["values"] for level in entry["accuracy"]]
            assert entry["mean"]["values"] == pytest.approx(np.mean(by_level[1:], axis=0).tolist())
            assert entry["mean"]["mean"] == pytest.approx(np.mean(by_level[1:]))
            of_one = role == "teacher" and len(entry["mean"]["values"]) == 1  # one teacher for all seeds
            assert of_one or len(entry["mean"]["values"]) == len(record["seeds"])
