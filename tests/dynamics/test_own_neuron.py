"""A neuron of one's own, an adaptive-threshold LIF, in every use: against loops of its equations, and in a network."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from network_checks import IMAGES, assert_trees_close, train_outputs
from representative import slow

from snnkd_jax.analysis.disturbance import apply_disturbed
from snnkd_jax.analysis.energy import count
from snnkd_jax.analysis.observation import load_observation, observe, save_observation
from snnkd_jax.analysis.robustness import evaluate_noise
from snnkd_jax.data.batches import eval_batches
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.integration import initial_state, integrate, integrate_with_slopes
from snnkd_jax.dynamics.neurons import ATAN, IF, PLIF
from snnkd_jax.errors import InputError
from snnkd_jax.inference.convert import convert
from snnkd_jax.inference.trained import Trained
from snnkd_jax.interop.nir import write_nir
from snnkd_jax.models import Network, build
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.rate import Rate
from snnkd_jax.report.figures import potentials


@dataclasses.dataclass(frozen=True)
class AdaptiveLIF:
    """A LIF neuron whose threshold rises by a learnable beta with each of its spikes, and comes back.

        h[t] = v[t-1] + (x[t] - v[t-1]) / tau
        s[t] = 1[h[t] >= v_threshold + beta a[t-1]]
        v[t] = (1 - s[t]) h[t]
        a[t] = rho a[t-1] + s[t]

    Reference: Bellec et al., NeurIPS 2018, arXiv 1803.09574.
    """

    tau: float = 2.0
    v_threshold: float = 1.0
    rho: float = 0.9
    beta: float = 0.2
    surrogate: Any = ATAN

    @property
    def parameters(self):
        return {"beta": self.beta}

    def init(self, shape):
        return {"v": jnp.zeros(shape), "a": jnp.zeros(shape)}

    def step(self, state, current, parameters):
        h = state["v"] + (current - state["v"]) / self.tau
        s = self.surrogate(h - self.v_threshold - parameters["beta"] * state["a"])
        return {"v": (1 - s) * h, "a": self.rho * state["a"] + s}, s


NEURON = AdaptiveLIF()


def currents(shape, dtype: Any = jnp.float32):
    return jnp.asarray(np.random.default_rng(0).normal(1.5, 1, shape), dtype)


def looped(current, beta, state, spike) -> Any:
    """The equations above, step by step, with NumPy or with JAX: spikes `[B, T, n]`, v and a."""
    v, a = state
    spikes = []
    for t in range(current.shape[1]):
        h = v + (current[:, t] - v) / 2.0
        s = spike(h - (1.0 + beta * a))
        v, a = (1 - s) * h, 0.9 * a + s
        spikes.append(s)
    return spikes, v, a


@pytest.mark.optimised
@pytest.mark.parametrize("num_steps", [slow(5), 20])
def test_spikes_and_state_are_those_of_a_float64_loop(num_steps):
    x = currents((3, num_steps, 50))
    spikes, state = integrate(NEURON, x)
    zero = np.zeros((3, 50))
    expected, v, a = looped(np.asarray(x, np.float64), 0.2, (zero, zero), lambda d: (d >= 0).astype(np.float64))
    np.testing.assert_array_equal(spikes, np.stack(expected, axis=1))
    assert 0.2 < spikes.mean() < 0.8
    assert a.max() > 1.5
    np.testing.assert_allclose(state["v"], v, atol=1e-5)
    np.testing.assert_allclose(state["a"], a, rtol=1e-5)
    half, state = integrate(NEURON, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("num_steps", [slow(5), 18])
def test_gradients_are_those_of_jax_through_a_plain_loop(num_steps):
    """By the current, the parameter and the first state, of a sum over all spikes and the last state."""
    x, rng = currents((3, num_steps, 7)), np.random.default_rng(1)
    bars = [jnp.asarray(rng.normal(0, 1, shape), jnp.float32) for shape in (x.shape, (3, 7), (3, 7))]
    start = jnp.full((3, 7), 0.3), jnp.full((3, 7), 0.5)

    def loss(spikes, v, a):
        return sum((bar * y).sum() for bar, y in zip(bars, (spikes, v, a), strict=True))

    def ours(x, beta, v, a):
        spikes, state = integrate(NEURON, x, {"v": v, "a": a}, {"beta": beta})
        return loss(spikes, state["v"], state["a"])

    def theirs(x, beta, v, a):
        spikes, v, a = looped(x, beta, (v, a), ATAN)
        return loss(jnp.stack(spikes, axis=1), v, a)

    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1, 2, 3)))(x, 0.2, *start) for f in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    assert np.abs(found[1]) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [5, slow(18)])
def test_slopes_are_the_derivatives_of_the_mean_spike_count(num_steps):
    """By backpropagation through a loop, a neuron at a time; and of a smooth neuron, by differences in float64."""
    x = currents((2, num_steps, 3))

    def mean(shift, beta, i, j, spike):
        zero = jnp.zeros((1, 1), x.dtype)
        return jnp.mean(jnp.stack(looped(x[i : i + 1, :, j : j + 1] + shift, beta, (zero, zero), spike)[0]))

    spikes, kappa, slopes = jax.jit(functools.partial(integrate_with_slopes, NEURON))(x)
    np.testing.assert_array_equal(spikes, integrate(NEURON, x)[0])
    gradient = jax.jit(jax.grad(mean, argnums=(0, 1)), static_argnums=(2, 3, 4))
    for i, j in np.ndindex(2, 3):
        found = kappa[i, j], slopes["beta"][i, j]
        np.testing.assert_allclose(found, gradient(0.0, 0.2, i, j, ATAN), rtol=1e-4, atol=1e-6)
    with jax.enable_x64(True):
        x = x.astype(jnp.float64)
        _, kappa, slopes = integrate_with_slopes(AdaptiveLIF(surrogate=ATAN.primitive), x)
        e = 1e-5
        for i, j in np.ndindex(2, 3):
            by_shift, by_beta = (
                (mean(e * a, 0.2 + e * b, i, j, ATAN.primitive) - mean(-e * a, 0.2 - e * b, i, j, ATAN.primitive))
                / 2
                / e
                for a, b in ((1, 0), (0, 1))
            )
            np.testing.assert_allclose((kappa[i, j], slopes["beta"][i, j]), (by_shift, by_beta), rtol=1e-6, atol=1e-8)


@pytest.mark.optimised
def test_a_stream_in_pieces_is_the_whole():
    x = currents((2, 9, 30))
    whole, last = integrate(NEURON, x)
    state, pieces = None, []
    for part in jnp.split(x, [1, 5], axis=1):
        spikes, state = integrate(NEURON, part, state)
        pieces.append(spikes)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    jax.tree.map(np.testing.assert_array_equal, state, last)


SHAPE = (8, 8, 1)
NETWORK = build("convnet", 5, neuron=NEURON, num_steps=4, width=0.25)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)


@functools.cache
def trained() -> Trained:
    """A network whose neurons fire, each layer with another beta."""
    variables = NETWORK.init(jax.random.key(1), SHAPE)
    variables["params"] = jax.tree.map(lambda x: 1.5 * x + 0.3, variables["params"])
    for i, name in enumerate(("act1", "act2", "act_hidden")):
        variables["params"][name]["beta"] = jnp.float32(0.1 * (i + 1))
    return Trained(NETWORK, variables, Normalisation((0.5,), (0.5,)), SHAPE, tuple("abcde"), "digits")


def normalised() -> Array:
    return jnp.asarray(trained().normalisation(PIXELS))


@pytest.mark.slow
@pytest.mark.parametrize("backprop", ["bptt", "rate"])
def test_training_moves_the_parameter(backprop):
    network = build("convnet", 5, neuron=NEURON, num_steps=4, width=0.25, backprop=backprop)
    variables = network.init(jax.random.key(0), (16, 16, 3))
    assert variables["params"]["act1"]["beta"] == np.float32(0.2)
    gradients = train_outputs(network, variables)[3]
    for name in ("act1", "act2", "act_hidden"):
        assert 1e-6 < np.abs(gradients[name]["beta"]) < np.inf
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_one_layer_through_rates_is_backpropagation_through_time():
    """With a linear read-out, as the neurons see one current at all steps, and the read-out their mean alone."""
    spike: Any = Spike(NEURON, 5)
    rate: Any = Rate(NEURON)
    current = 1.5 + jax.random.normal(jax.random.key(0), (4, 1, 6))
    weights = jax.random.normal(jax.random.key(2), (4, 6))
    variables = spike.init(jax.random.key(0), current)

    def through_time(params, current):
        return (weights * spike.apply({"params": params}, current).mean(axis=1)).sum()

    _, recorded = spike.apply(variables, current, mutable=["rates"])

    def through_rates(params, current):
        return (weights * rate.apply({"params": params, **recorded}, current)[:, 0]).sum()

    expected, found = (
        jax.value_and_grad(f, (0, 1))(variables["params"], current) for f in (through_time, through_rates)
    )
    assert_trees_close(found, expected)
    assert np.abs(expected[1][0]["beta"]) > 0.1


@pytest.mark.slow
def test_one_step_of_a_network_through_rates_is_backpropagation_through_time():
    neuron = AdaptiveLIF(v_threshold=0.5)
    networks = [build("convnet", 5, neuron=neuron, num_steps=1, width=0.2, backprop=b) for b in ("bptt", "rate")]
    variables = networks[0].init(jax.random.key(0), (16, 16, 3))
    expected, found = (train_outputs(network, variables, IMAGES) for network in networks)
    np.testing.assert_array_equal(found[0], expected[0])
    assert_trees_close(found[2:], expected[2:], 2e-5)


@pytest.mark.slow
def test_a_network_streams():
    """By `apply_from`, and by `start` and `step` of a trained one, bit for bit with the sequence."""
    one, state, steps = NETWORK.with_steps(1), None, []
    for _ in range(4):
        (logits, _), state = jax.jit(one.apply_from)(trained().variables, normalised(), state)
        steps.append(logits)
    assert state is not None
    assert state["act1"]["neurons"].keys() == {"v", "a"}
    whole = jax.jit(NETWORK.apply)(trained().variables, normalised())[0]
    np.testing.assert_allclose(np.concatenate(steps, axis=1), whole, atol=1e-5)
    state = trained().start(6)
    for _ in range(4):
        state, prediction = trained().step(state, PIXELS)
    np.testing.assert_array_equal(prediction.logits, trained().predict(PIXELS).logits)


@pytest.mark.slow
def test_noise_is_measured_but_for_the_thresholds():
    labels = trained().predict(PIXELS).classes
    kinds = ("spike_deletion", "spike_insertion", "threshold_mismatch", "weight_noise")
    report = evaluate_noise(trained(), PIXELS, labels, 0, kinds=kinds, levels=[5], batch_size=8)
    assert [kind for kind, entry in report["kinds"].items() if entry is None] == ["threshold_mismatch"]
    with pytest.raises(InputError, match=r"threshold_mismatch.*not for AdaptiveLIF"):
        apply_disturbed(
            NETWORK, trained().variables, normalised(), "threshold_mismatch", 0.1, jax.random.key(0), jnp.arange(6)
        )


@pytest.mark.slow
def test_energy_and_summary():
    cost = count(NETWORK, trained().variables, normalised())
    _, features = NETWORK.apply(trained().variables, normalised())
    for name, rates in features["firing_rates"].items():
        assert cost.activations[name].rate == pytest.approx(float(rates.mean()), rel=1e-6)
    assert cost.estimate[1] > 0
    lines = trained().summary().splitlines()
    assert f"neurons: {NEURON}" in lines
    (line,) = (line for line in lines if line.startswith("act2 "))
    assert [cell.strip() for cell in line.split("  ") if cell] == ["act2", "neurons, beta = 0.2", "4 x 4 x 16", "1"]


@pytest.mark.slow
def test_observed_potentials_are_v(tmp_path):
    """Against the state that a stream hands on; the file and the figure keep them."""
    batches = eval_batches({"images": PIXELS, "labels": np.arange(6, dtype=np.int32) % 5}, 6)
    save_observation(tmp_path / "o.npz", observe(NETWORK, trained().variables, trained().normalisation, batches))
    layers = load_observation(tmp_path / "o.npz").layers
    state = None
    for t in range(4):
        _, state = NETWORK.with_steps(1).apply_from(trained().variables, normalised(), state)
        for layer in layers:
            v = np.asarray(state[layer.name]["neurons"]["v"][0]).ravel()
            chosen = np.arange(layer.v.shape[1]) * layer.size // layer.v.shape[1]
            np.testing.assert_allclose(layer.v[t], v[chosen], atol=1e-5)
    assert [(layer.name, layer.v_start, layer.v_threshold) for layer in layers] == [
        (name, 0.0, 1.0) for name in ("act1", "act2", "act_hidden")
    ]
    assert "potential" in str(potentials("potentials", layers))


def test_what_other_tools_cannot_say_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="act1: AdaptiveLIF is no neuron of a graph"):
        write_nir(tmp_path / "net.nir", NETWORK, trained().variables, SHAPE)
    with pytest.raises(InputError, match=r"spiking already.*AdaptiveLIF"):
        convert(trained(), PIXELS, 4)
    with pytest.raises(InputError, match=r"tdbn=True needs v_threshold and v_rest of the neuron.*AdaptiveLIF"):
        build("convnet", 5, neuron=NEURON, tdbn=True)


@dataclasses.dataclass(frozen=True)
class Stateless:
    """A binary activation: no state, no threshold that others know of."""

    @property
    def parameters(self):
        return {}

    def init(self, _):
        return ()

    def step(self, state, current, _):
        return state, ATAN(current - 1)


@pytest.mark.slow
def test_neurons_need_neither_a_state_nor_a_threshold(tmp_path):
    network = build("convnet", 5, neuron=Stateless(), num_steps=2, width=0.1)
    variables = network.init(jax.random.key(0), SHAPE)
    x = currents((2, 20, 5))
    np.testing.assert_array_equal(integrate(Stateless(), x)[0], x >= 1)
    gradient = jax.grad(lambda x: integrate(Stateless(), x)[0].sum())(x)
    np.testing.assert_allclose(gradient, ATAN.derivative(x - 1), rtol=1e-6)
    batches = eval_batches({"images": PIXELS, "labels": np.zeros(6, np.int32)}, 6)
    save_observation(tmp_path / "o.npz", observe(network, variables, trained().normalisation, batches))
    layers = load_observation(tmp_path / "o.npz").layers
    assert all(np.isnan(layer.v_threshold) and not layer.v.any() for layer in layers)
    assert "potential" in str(potentials("potentials", layers))


@dataclasses.dataclass(frozen=True)
class Delayed(Stateless):
    """The spikes of three steps ago: a state with an axis of its own."""

    def init(self, shape):
        return jnp.zeros((*shape, 3))

    def step(self, state, current, _):
        return jnp.concatenate([state[..., 1:], ATAN(current - 1)[..., None]], axis=-1), state[..., 0]


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [6, 19])
def test_a_state_may_have_axes_of_its_own(num_steps):
    x = currents((2, num_steps, 5))
    spikes, gradient = jax.value_and_grad(lambda x: integrate(Delayed(), x)[0][:, -1].sum())(x)
    assert spikes == (x[:, -4] >= 1).sum()
    expected = jnp.zeros_like(x).at[:, -4].set(ATAN.derivative(x[:, -4] - 1))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_steps_are_as_many_as_those_of_the_input():
    x = currents((2, 3, 5))
    np.testing.assert_array_equal(Spike(IF()).apply({}, x), integrate(IF(), x)[0])
    constant = Spike(IF(), num_steps=4).apply({}, x[:, :1])
    np.testing.assert_array_equal(constant, integrate(IF(), jnp.repeat(x[:, :1], 4, axis=1))[0])
    with pytest.raises(InputError, match="num_steps=4, but the input has 3 steps"):
        Spike(IF(), num_steps=4).apply({}, x)


def changed(**methods: Any):
    """`Stateless` with other methods."""
    return type("Mine", (Stateless,), methods)()


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        ("lif", "neuron='lif' must have parameters, init and step"),
        (PLIF, "must have parameters, init and step"),
        (type("Mine", (), {"init": 1, "step": 2})(), "must have parameters, init and step"),
        (dataclasses.make_dataclass("Mine", ["x"], bases=(Stateless,), eq=True, frozen=True)([1]), "cannot be hashed"),
        (changed(step=lambda *a: a[2]), "Mine.step must return a state and spikes"),
        (changed(step=lambda *a: (a[1], a[2][:1])), "Mine.step must return a state and spikes"),
        (changed(step=lambda *a: (a[2], a[2])), "Mine.step must return a state and spikes"),
        (changed(step=lambda *a: (a[1], a[2] >= 1)), "dtype bool, which have no gradient"),
        (changed(init=lambda *a: jnp.zeros(a[1][1:])), r"Mine.init\(\(2, 5\)\) has an array of shape \(5,\)"),
        (changed(init=lambda *a: jnp.zeros(a[1], int)), r"Mine.init.*dtype int32"),
    ],
)
def test_what_is_no_neuron_is_refused(neuron, message):
    with pytest.raises(InputError, match=message):
        integrate(neuron, currents((2, 3, 5)))


def test_a_state_of_another_neuron_is_refused():
    x = currents((2, 3, 5))
    with pytest.raises(InputError, match=r"state \['a'\] has shape \(2, 4\)"):
        integrate(NEURON, x, {"v": jnp.zeros((2, 5)), "a": jnp.zeros((2, 4))})
    with pytest.raises(InputError, match="that of AdaptiveLIF is"):
        integrate(NEURON, x, jnp.zeros((2, 5)))
    assert initial_state(NEURON, x)["a"].shape == (2, 5)


def test_a_module_of_ones_own_takes_it():
    import flax.linen as nn

    class Mine(nn.Module):
        @nn.compact
        def __call__(self, images, train):
            del train
            x = images.reshape(*images.shape[:2], -1)
            return nn.Dense(5)(nn.remat(Spike)(NEURON, name="spike")(nn.Dense(12)(x)))

    network = Network(Mine(), num_steps=3)
    variables = network.init(jax.random.key(0), SHAPE)
    assert variables["params"]["spike"]["beta"] == np.float32(0.2)
    batches = eval_batches({"images": PIXELS, "labels": np.zeros(6, np.int32)}, 6)
    (layer,) = observe(network, variables, trained().normalisation, batches).layers
    assert (layer.name, layer.v.shape) == ("spike", (3, 12))
    assert count(network, variables, normalised()).images == 6
