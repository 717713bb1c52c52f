"""Early exit: the same answers as at fixed T, in a batch into which the next images move up."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from representative import slow

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.errors import InputError
from snnkd_jax.inference import predict
from snnkd_jax.inference.predict import accuracy_by_step, accuracy_with_exit, choose_threshold
from snnkd_jax.inference.stepper import Stepper
from snnkd_jax.inference.trained import Trained
from snnkd_jax.models import Frames, build

T = 4
PIXELS = jax.random.normal(jax.random.key(1), (13, 8, 8, 1)) * jnp.linspace(0.2, 3, 13)[:, None, None, None]
IMAGES = np.asarray(jnp.clip(128 + 40 * PIXELS, 0, 255).astype(jnp.uint8))
NORMALISATION = Normalisation((128 / 255,), (40 / 255,))
NEURON = LIF(decay_input=False, v_threshold=0.3)
WHOLE, ONE = (build("convnet", 5, neuron=NEURON, num_steps=t, width=0.25) for t in (T, 1))


@functools.cache
def variables():
    found = WHOLE.init(jax.random.key(0), (8, 8, 1))
    found["params"]["head"]["kernel"] *= 12  # confident, as after training
    return found


@functools.cache
def student() -> Trained:
    return Trained(WHOLE, variables(), NORMALISATION, (8, 8, 1), tuple("abcde"), "digits")


def logits_of(images):
    return np.asarray(jax.jit(WHOLE.apply)(variables(), images)[0])


def test_steps_in_pieces_are_the_whole():
    """`apply_from`, one step at a time and one frame a step, against the network that makes all of them."""
    frames = jax.random.normal(jax.random.key(2), (5, T, 8, 8, 1))
    state, pieces = None, []
    for t in range(T):
        (logits, features), state = jax.jit(ONE.apply_from)(variables(), frames[:, t], state)
        pieces.append(logits)
        assert features["firing_rates"].keys() == state.keys()
    np.testing.assert_allclose(jnp.concatenate(pieces, axis=1), logits_of(frames), rtol=1e-5, atol=1e-5)


@pytest.fixture(params=[slow(128), 4, slow(3)])
def batch_size(request, monkeypatch):
    """At once, or in batches into which images move up as others leave."""
    monkeypatch.setattr(predict, "PREDICTION_BATCH_SIZE", request.param)


@pytest.mark.usefixtures("batch_size")
@pytest.mark.parametrize("threshold", [slow(0.0), 0.5, slow(0.7), slow(None)])
def test_every_image_gets_the_mean_of_the_steps_that_it_took(threshold):
    """Compared with the logits of all steps, from which the exit step of each image follows."""
    logits = logits_of(NORMALISATION(IMAGES))
    means = np.cumsum(logits, axis=1) / np.arange(1, T + 1)[:, None]
    p = np.exp(means) / np.exp(means).sum(-1, keepdims=True)
    sure = p.max(-1) >= (2 if threshold is None else threshold)
    sure[:, -1] = True
    expected = sure.argmax(1) + 1
    found = student().predict(IMAGES, threshold=threshold)
    np.testing.assert_array_equal(found.steps, expected)
    at_exit = np.arange(13), expected - 1
    agrees(found.logits, means[at_exit], rtol=1e-5, atol=1e-5, name="early exit")
    np.testing.assert_allclose(found.confidence, p.max(-1)[at_exit], rtol=1e-5)
    if threshold == 0.7:
        assert len(set(expected)) >= 3, "the case does not test leaving at different steps"


@pytest.mark.usefixtures("batch_size")
def test_frames_are_taken_one_a_step():
    """Also by images that stay after others have left, or come after them."""
    frames = np.stack([IMAGES[(np.arange(13) + t) % 13] for t in range(T)], axis=1)
    means = np.cumsum(logits_of(NORMALISATION(frames)), axis=1) / np.arange(1, T + 1)[:, None]
    found = student().predict(frames, threshold=0.7)
    assert len(set(found.steps)) >= 3, "the case does not test leaving at different steps"
    np.testing.assert_allclose(found.logits, means[np.arange(13), found.steps - 1], rtol=1e-5, atol=1e-5)


def test_the_batch_stays_full_while_images_wait(monkeypatch):
    """Of 13 images in batches of 4, exactly the steps that they need are computed, four at a time until none waits."""
    calls = []
    call = Stepper.__call__
    monkeypatch.setattr(predict, "PREDICTION_BATCH_SIZE", 4)
    monkeypatch.setattr(Stepper, "__call__", lambda self, state, x: calls.append(len(x)) or call(self, state, x))
    steps = student().predict(IMAGES, threshold=0.7).steps
    assert sum(calls) == steps.sum()
    assert calls == sorted(calls, reverse=True)
    assert sum(n < 4 for n in calls) < T


def test_whole_sequences_are_compiled_once(monkeypatch):
    """Those of an ANN on frames, which has no steps to take one by one."""
    traced, apply = [], type(ONE).apply
    network = build("convnet", 5, width=0.25, frames=Frames("mean", T))
    ann = dataclasses.replace(student(), network=network, variables=network.init(jax.random.key(0), (8, 8, 1)))
    monkeypatch.setattr(type(ONE), "apply", lambda *arguments: traced.append(1) or apply(*arguments))
    sequences = np.stack([IMAGES] * T, axis=1)
    first, second = ann.predict(sequences), ann.predict(sequences[:5])
    assert traced == [1]
    np.testing.assert_array_equal(first.logits[:5], second.logits)


def test_the_batch_shrinks(monkeypatch):
    """To the next of 16, 8, 4, ... that holds the remaining images; each size is traced once."""
    seen = []
    apply_from = type(ONE).apply_from

    def spy(network, variables, images, state):
        seen.append(images.shape[0])
        return apply_from(network, variables, images, state)

    monkeypatch.setattr(type(ONE), "apply_from", spy)
    fresh = dataclasses.replace(student())
    steps = fresh.predict(np.concatenate([IMAGES, IMAGES[:3]]), threshold=0.5).steps
    left = [int((steps > t).sum()) for t in range(T) if (steps > t).any()]
    sizes = [min(size for size in (1, 2, 4, 8, 16) if size >= n) for n in left]
    assert seen == sorted(set(sizes), reverse=True)
    assert min(seen) < 16


def test_threshold_is_the_lowest_that_keeps_the_accuracy():
    """Two classes, two steps: the first is right when it is sure (p = 0.9), wrong when it is not (0.6)."""
    sure, unsure = np.log([0.9, 0.1]), np.log([0.4, 0.6])
    logits = np.stack([np.stack([sure, sure]), np.stack([unsure, 3 * sure])])
    labels = np.zeros(2, int)
    threshold, steps = choose_threshold(logits, labels, 0.0)
    assert threshold == pytest.approx(0.601)
    assert steps == 1.5
    assert choose_threshold(logits, labels, 0.5) == (0.0, 1.0)


def test_no_threshold_is_one_that_nobody_reaches():
    """The first step is wrong with a probability that rounds to 1."""
    logits, labels = np.array([[[0.0, 40.0], [100.0, 0.0]]]), np.zeros(1, int)
    assert choose_threshold(logits, labels, 0.0) == (None, 2.0)
    assert accuracy_with_exit(logits, labels, None) == (1.0, 2.0)
    found = student().predict(IMAGES, threshold=choose_threshold(logits, labels, 0.0)[0])
    np.testing.assert_array_equal(found.steps, T)


def test_a_loss_of_just_the_tolerance_is_allowed():
    """8 of 10 images right by two steps, 7 by one: 0.8 - 0.1 is above 0.7 in binary."""
    right, wrong = np.log([0.6, 0.4]), np.log([0.4, 0.6])
    logits = np.stack([np.stack([right, right])] * 7 + [np.stack([wrong, 3 * right])] + [np.stack([wrong, wrong])] * 2)
    assert choose_threshold(logits, np.zeros(10, int), 0.1) == (0.0, 1.0)


@pytest.mark.parametrize("at_a_time", [slow(1), 2, slow(4)])
def test_any_number_of_steps_and_of_images(at_a_time):
    """Six steps, computed one or two at a time, and a last batch that is not full."""
    images = np.random.default_rng(0).integers(0, 256, (103, 8, 8, 1), np.uint8)
    normalisation = Normalisation((0.5,), (0.1,))
    network = build("convnet", 5, neuron=NEURON, num_steps=at_a_time, width=0.25)
    found = dataclasses.replace(student(), network=network, normalisation=normalisation).logits_by_step(images, 6)
    six = build("convnet", 5, neuron=NEURON, num_steps=6, width=0.25)
    expected = jax.jit(six.apply)(variables(), (images / 255 - 0.5) / np.float32(0.1))[0]
    assert found.shape == (103, 6, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_logits_by_step_are_compiled_once():
    network = student()
    first = network.logits_by_step(IMAGES, T)
    with mock.patch.object(jax, "jit", side_effect=AssertionError("compiled again")):
        np.testing.assert_array_equal(network.logits_by_step(IMAGES, T), first)


def test_accuracies_worked_out_by_hand():
    """The first image is right at once and sure; the second is right by two steps only, the third by one only."""
    sure, unsure, wrong = np.log([0.95, 0.05]), np.log([0.6, 0.4]), np.log([0.45, 0.55])
    logits = np.stack([np.stack([sure, sure]), np.stack([wrong, sure]), np.stack([unsure, np.log([0.01, 0.99])])])
    labels = np.zeros(3, int)
    np.testing.assert_allclose(accuracy_by_step(logits, labels), [2 / 3, 2 / 3])
    assert accuracy_with_exit(logits, labels, 0.9) == pytest.approx((2 / 3, 5 / 3))
    assert accuracy_with_exit(logits, labels, 0.58) == pytest.approx((1.0, 4 / 3))
    assert accuracy_with_exit(logits, labels, 0.0) == pytest.approx((2 / 3, 1.0))


def test_wrong_arguments_are_named():
    for num_steps in (0, 1.5):
        with pytest.raises(InputError, match=f"num_steps={num_steps} must be a whole number of at least 1"):
            student().logits_by_step(IMAGES, num_steps)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"images have shape \(0, 8, 8, 1\); at least one is needed"):
        student().logits_by_step(IMAGES[:0], T)
    with pytest.raises(InputError, match=r"images are from .*; floats must be in"):
        student().logits_by_step(IMAGES.astype(np.float32), T)
    logits, labels = np.zeros((4, T, 5)), np.zeros(4, int)
    with_exit = functools.partial(accuracy_with_exit, threshold=0.5)
    for call in (accuracy_by_step, with_exit, functools.partial(choose_threshold, tolerance=0.1)):
        for wrong in (labels[:, None], labels[:3]):
            with pytest.raises(InputError, match=r"labels have shape .*; 4 images need \(4,\)"):
                call(logits, wrong)
    for tolerance in (-0.1, 2):
        with pytest.raises(InputError, match=f"tolerance={tolerance}"):
            choose_threshold(logits, labels, tolerance)


@pytest.mark.slow
def test_floats_are_the_same_images():
    found = student().logits_by_step(IMAGES.astype(np.float32) / 255, T)
    np.testing.assert_array_equal(found, student().logits_by_step(IMAGES, T))
