"""Rate-based backpropagation against backpropagation through time, where the two must agree, and what it costs."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from network_checks import IMAGES, assert_trees_close, train_outputs
from representative import slow

from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.dynamics.neurons import LIF, PLIF
from snnkd_jax.dynamics.surrogate import fast_sigmoid
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, build
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.layers import AvgPool, BatchNorm, MaxPool
from snnkd_jax.models.rate import Rate, RateBatchNorm, RateMaxPool, linearise
from snnkd_jax.models.vgg import VGG


def both(neuron: Neuron, num_steps: int, pools=(MaxPool, RateMaxPool), **options) -> tuple[Network, Network]:
    """One VGG, differentiated through time and through rates."""
    spiking = VGG(5, functools.partial(Spike, neuron, num_steps), BatchNorm, pool=pools[0], **options)
    rates = VGG(5, functools.partial(Rate, neuron), RateBatchNorm, pool=pools[1], **options)
    return Network(spiking, num_steps), Network(spiking, num_steps, rates)


@pytest.mark.parametrize("name", ["convnet", slow("resnet19")])
def test_one_step_is_backpropagation_through_time(name):
    """Every architecture but deeper ones and those of test_imagenet_models.py: learnable tau, tdBN and soft reset."""
    kind = {"neuron": PLIF(v_reset=None), "num_steps": 1, "width": 0.1, "tdbn": True}
    pool = "max" if name.startswith(("vgg", "convnet", "airbench")) else "avg"
    networks = [build(name, 5, backprop=backprop, pool=pool, **kind) for backprop in ("bptt", "rate")]
    variables = networks[0].init(jax.random.key(0), (16, 16, 3))
    expected, found = (train_outputs(network, variables) for network in networks)
    np.testing.assert_array_equal(found[0], expected[0])
    assert_trees_close(found[2:], expected[2:], 2e-5, "rates, one step")
    gradients = jax.tree.leaves(expected[3])
    assert sum(np.abs(x).max() > 1e-6 for x in gradients) > 0.6 * len(gradients)


@pytest.mark.parametrize("v_reset", [0.0, slow(None)])
def test_one_layer_with_a_linear_read_out_is_exact_for_any_number_of_steps(v_reset):
    """A static image gives the layer one current at all steps, and mean logits send one cotangent to all of them."""
    neuron = PLIF(v_reset=v_reset, decay_input=False)
    networks = both(neuron, 5, (AvgPool, AvgPool), stage_sizes=(1,), width=0.2)
    variables = networks[0].init(jax.random.key(0), (16, 16, 3))
    expected, found = (train_outputs(network, variables) for network in networks)
    assert 0.1 < expected[1]["firing_rates"]["act1_1"].mean() < 0.9
    np.testing.assert_array_equal(found[0], expected[0])
    assert_trees_close(found[2:], expected[2:], name="rates, one layer")


@pytest.mark.slow
def test_neurons_without_memory_are_exact_at_any_depth():
    """tau = 1 forgets within a step, so that all steps of a static image are alike; max pooling included."""
    networks = both(LIF(tau=1.0), 3, stage_sizes=(1, 2, 1), width=0.2)
    variables = networks[0].init(jax.random.key(0), (16, 16, 3))
    expected, found = (train_outputs(network, variables) for network in networks)
    assert_trees_close(found[2:], expected[2:], 2e-5, "rates, neurons without memory")


@pytest.mark.slow
def test_neurons_far_above_threshold_are_exact_at_any_depth():
    """They fire and reset at every step, so that the next layer sees a constant; the surrogate's tail still passes."""
    neuron = LIF(detach_reset=True, surrogate=fast_sigmoid(1.0))
    networks = both(neuron, 4, stage_sizes=(1, 1), width=0.1)
    variables = networks[0].init(jax.random.key(0), (16, 16, 3))
    high = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 8 if path[-1].key == "bias" and "norm" in str(path) else x, variables["params"]
    )
    expected, found = (train_outputs(network, variables | {"params": high}) for network in networks)
    assert all(rate.min() > 0.99 for rate in expected[1]["firing_rates"].values())
    # Maps are constant but for their borders: norms amplify rounding.
    assert_trees_close(found[2:], expected[2:], 2e-3, "rates, neurons that always fire")
    assert np.abs(expected[3]["conv1_1"]["conv"]["kernel"]).max() > 1e-6


@pytest.mark.slow
def test_elsewhere_it_points_the_same_way():
    """Several layers of neurons near threshold: not equal, but a descent direction."""
    neuron = LIF(decay_input=False, v_reset=None, detach_reset=True)
    networks = [build("vgg11", 5, neuron=neuron, num_steps=4, width=0.5, backprop=b) for b in ("bptt", "rate")]
    variables = networks[0].init(jax.random.key(0), (16, 16, 3))
    expected, found = (train_outputs(network, variables) for network in networks)
    np.testing.assert_array_equal(found[0], expected[0])
    a, b = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(out[3])]) for out in (expected, found))
    cosine = a @ b / jnp.linalg.norm(a) / jnp.linalg.norm(b)
    assert 0.5 < cosine < 0.999


@pytest.mark.slow
def test_values_are_those_of_the_spiking_network():
    """Logits of every step, firing rates, batch statistics and the means over time of all stage outputs."""
    networks = [build("wrn-16-2", 5, neuron=LIF(), num_steps=3, width=0.5, backprop=b) for b in ("bptt", "rate")]
    variables = networks[0].init(jax.random.key(0), (16, 16, 3))
    (logits, features, statistics, _), (z, means, new_statistics, _) = (train_outputs(n, variables) for n in networks)
    np.testing.assert_array_equal(z, logits)
    assert_trees_close(new_statistics, statistics, 1e-6)
    assert_trees_close(means["firing_rates"], features["firing_rates"], 1e-6)
    for kind in ("stages", "pre_activations"):
        for name, x in features[kind].items():
            np.testing.assert_allclose(means[kind][name], x.mean(1, keepdims=True), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_loss_on_single_steps_sends_the_sum_of_its_gradients():
    neuron = LIF(decay_input=False)
    network = both(neuron, 3, stage_sizes=(1, 1), width=0.1)[1]
    variables = network.init(jax.random.key(0), (16, 16, 3))
    weights = jax.random.normal(jax.random.key(2), (6, 3, 5))

    def gradient(weights):
        def loss(params):
            return (weights * network.apply_train(variables | {"params": params}, IMAGES)[0][0]).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    mean = jnp.broadcast_to(weights.mean(1, keepdims=True), weights.shape)
    assert_trees_close(gradient(weights), gradient(mean), 1e-4, "rates, a loss on single steps")


@pytest.mark.slow
def test_frames_reach_the_stem_as_their_mean():
    """One frame a step: equal ones are a static image, and ones of mean 0 leave the stem without a gradient."""
    network = both(LIF(decay_input=False), 3, stage_sizes=(1,), width=0.1)[1]
    variables = network.init(jax.random.key(0), (16, 16, 3))
    frames = jnp.repeat(IMAGES[:, None], 3, axis=1)
    expected = train_outputs(network, variables)[3]
    assert_trees_close(train_outputs(network, variables, frames)[3], expected, 1e-4)
    opposite = frames * jnp.array([1.0, -1.0, 0.0])[:, None, None, None]
    found = train_outputs(network, variables, opposite)[3]
    np.testing.assert_array_equal(found["conv1_1"]["conv"]["kernel"], 0 * expected["conv1_1"]["conv"]["kernel"])
    assert np.abs(found["head"]["kernel"]).max() > 1e-3


@pytest.mark.slow
def test_half_precision_convolutions_keep_float32_gradients():
    options = {"width": 0.1, "pool": "max", "backprop": "rate", "dtype": "bfloat16"}
    network = build("vgg11", 5, neuron=PLIF(), num_steps=2, **options)
    variables = network.init(jax.random.key(0), (16, 16, 3))
    gradients = jax.tree.leaves(train_outputs(network, variables)[3])
    assert {x.dtype for x in gradients} == {np.dtype(np.float32)}
    assert all(np.isfinite(x).all() for x in gradients)


@functools.cache
def compiled(backprop, num_steps):
    # A published architecture takes a minute to compile. Of four convolutions, the layer at hand is a quarter of all
    # that backpropagation through time keeps; of eight it is little.
    through_time, rates = both(LIF(), num_steps, stage_sizes=(4, 4), width=0.5)
    network = rates if backprop == "rate" else through_time
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))
    images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)

    def loss(params, rest, images):
        return jnp.square(network.apply_train(rest | {"params": params}, images)[0][0].mean(1)).sum()

    return jax.jit(jax.grad(loss)).lower(variables["params"], variables, images).compile()


@pytest.mark.slow
@pytest.mark.optimised
def test_memory_of_a_further_step_is_a_fraction_of_that_through_time():
    """Nothing is kept of a step but what the layer at hand computes; through time every layer keeps its current."""
    memory = {}
    for backprop, t in itertools.product(("bptt", "rate"), (4, 8)):
        analysis = compiled(backprop, t).memory_analysis()
        assert analysis is not None, "this backend does not tell"
        memory[backprop, t] = analysis.temp_size_in_bytes
    growth = {backprop: memory[backprop, 8] - memory[backprop, 4] for backprop in ("bptt", "rate")}
    assert growth["rate"] < 0.2 * growth["bptt"]


@pytest.mark.slow
def test_flops_are_those_of_t_plus_two_passes():
    """Against 3 T through time; norms, neurons and the stem, which is computed once, blur it."""
    rate, bptt = (dict(compiled(backprop, 4).cost_analysis() or {})["flops"] for backprop in ("rate", "bptt"))
    assert rate / bptt == pytest.approx(6 / 12, rel=0.1)


def test_linearise_has_the_value_and_the_slope_it_is_given():
    value, (dvalue, dx) = (
        linearise(jnp.array(3.0), jnp.array(9.0), 0.25),
        jax.grad(linearise, argnums=(0, 1))(jnp.array(3.0), jnp.array(9.0), 0.25),
    )
    assert (value, dvalue, dx) == (3.0, 1.0, 0.25)


def test_wrong_choices_are_refused():
    with pytest.raises(InputError, match="backprop 'rtrl'"):
        build("vgg11", 5, neuron=LIF(), backprop="rtrl")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"pool='max'.*resnet18"):
        build("resnet18", 5, pool="max")
    assert isinstance(build("vgg11", 5, pool="max").module, nn.Module)
