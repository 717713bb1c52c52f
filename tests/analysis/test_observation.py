"""What is recorded of a student: against the network's own rates, potentials and logits, and as a file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnkd_jax.analysis.observation import (
    MAX_NEURONS,
    MAX_VALUES,
    Layer,
    Observation,
    load_observation,
    observe,
    save_observation,
)
from snnkd_jax.analysis.recording import record
from snnkd_jax.data.batches import eval_batches
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError
from snnkd_jax.models.recorder import spiking_layers
from snnkd_jax.runs.config import Config, default_config

SHAPE = (8, 8, 1)
IDENTITY = Normalisation((0.0,), (1.0,))


def student(**changes):
    """A small student whose neurons fire, with its variables."""
    config = default_config("digits").replace(**({"width": 0.1, "num_steps": 3, "tau": 1.5} | changes))
    network = config.build_student(10)
    variables = network.init(jax.random.key(1), SHAPE)
    variables["params"] = jax.tree.map(lambda x: 1.5 * x + 0.3, variables["params"])
    return network, variables


def test_recorded_layers_are_those_of_the_network_step_by_step():
    """Rates, logits and the potentials that `apply_from` passes on, for a potential at rest that is not 0."""
    network, variables = student(v_reset=-0.2, neuron="plif")
    images = jax.random.uniform(jax.random.key(0), (2, *SHAPE))

    def both(variables, images):
        state, by_step = None, []
        for _ in range(3):
            _, state = network.with_steps(1).apply_from(variables, images, state)
            by_step.append(state)
        return record(network, variables, images), network.apply(variables, images), by_step

    (logits, layers), (expected, features), by_step = jax.jit(both)(variables, images)
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert list(layers) == ["act1", "act2", "act_hidden"]
    rates = [float(spikes.mean()) for spikes, _ in layers.values()]
    assert min(rates) > 0
    np.testing.assert_allclose(rates, [features["firing_rates"][name][0] for name in layers], rtol=1e-6)
    for t, state in enumerate(by_step):
        for name, (_, v) in layers.items():
            np.testing.assert_allclose(v[t], state[name]["neurons"][0], atol=1e-5)


def test_layers_are_named_in_the_order_of_the_network():
    """In the order of the alphabet, the last activation would come first."""
    network = Config().replace(student="pyramidnet18", width=0.1).build_student(10)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))
    names = list(spiking_layers(network, variables, (32, 32, 3)))
    assert names[0] == "block1_1/act"
    assert names[-1] == "act_final"
    with pytest.raises(InputError, match="no time steps"):
        record(Config().build_teacher(10), {}, jnp.zeros((1, 32, 32, 3)))


@pytest.mark.slow
def test_observed_confusions_image_and_neurons(tmp_path, monkeypatch):
    """110 images, more than a batch; a budget of values that leaves 5 neurons a layer; the file gives it all again."""
    network, variables = student()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (110, *SHAPE), np.uint8)
    labels = rng.integers(0, 10, 110).astype(np.int32)
    monkeypatch.setattr("snnkd_jax.analysis.observation.MAX_VALUES", 5 * 3 * 3 + 1)
    seen = observe(network, variables, IDENTITY, eval_batches({"images": images, "labels": labels}, 100))
    logits, _ = jax.jit(network.apply)(variables, IDENTITY(images))
    answers = np.asarray(logits).mean(axis=1).argmax(axis=-1)
    expected = np.zeros((10, 10), int)
    for label, answer in zip(labels, answers, strict=True):
        expected[label, answer] += 1
    np.testing.assert_array_equal(seen.confusion, expected)
    np.testing.assert_array_equal(seen.image, images[0])
    assert seen.label == labels[0]
    np.testing.assert_allclose(seen.logits, logits[0], atol=1e-4)
    assert [(layer.name, layer.size, layer.spikes.shape) for layer in seen.layers] == [
        ("act1", 8 * 8 * 3, (3, 5)),
        ("act2", 4 * 4 * 6, (3, 5)),
        ("act_hidden", 13, (3, 5)),
    ]
    assert {(layer.v_start, layer.v_threshold) for layer in seen.layers} == {(0.0, 1.0)}
    save_observation(tmp_path / "o.npz", seen)
    again = load_observation(tmp_path / "o.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["o.npz"]
    for a, b in zip(jax.tree.leaves(_plain(seen)), jax.tree.leaves(_plain(again)), strict=True):
        np.testing.assert_array_equal(a, b)


def _plain(observation):
    return {k: [vars(layer) for layer in v] if k == "layers" else v for k, v in vars(observation).items()}


def test_the_file_stays_small(tmp_path):
    """Random potentials of the most neurons that are kept, and a confusion matrix of 100 classes."""
    rng = np.random.default_rng(0)
    t = MAX_VALUES // MAX_NEURONS
    layer = Layer("act", 10**6, rng.random((t, MAX_NEURONS)) < 0.5, rng.random((t, MAX_NEURONS), np.float32))
    counts = rng.integers(0, 100, (100, 100)).astype(np.int32)
    logits = rng.random((t, 100), np.float32)
    save_observation(tmp_path / "o.npz", Observation(counts, np.zeros(SHAPE, np.uint8), 3, logits, (layer,)))
    assert (tmp_path / "o.npz").stat().st_size < 1_100_000


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}"], ids=["empty", "cut short", "other"])
def test_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "o.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"o\.npz cannot be read"):
        load_observation(tmp_path / "o.npz")
