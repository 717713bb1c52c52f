"""Optimisers against loops written in NumPy, and schedules against values worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from comparison import agrees
from representative import slow

from snnkd_jax.errors import InputError
from snnkd_jax.runs.config import default_config
from snnkd_jax.training.optim import decays, make_optimizer

NAN, INF = float("nan"), float("inf")
PARAMS = {
    "network": {
        "conv": {"kernel": np.array([[1.0, -2.0]]), "bias": np.array([0.5])},
        "norm": {"scale": np.array([1.5]), "bias": np.array([-0.5])},
        "dense": {"kernel": np.array([0.25, 4.0]), "bias": np.array([2.0])},
        "act": {"w": np.array(-1.0)},
    },
    "connectors": {"conv": {"kernel": np.array([3.0])}},
}
DECAYED = {
    "network": {
        "conv": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "dense": {"kernel": True, "bias": False},
        "act": {"w": False},
    },
    "connectors": {"conv": {"kernel": True}},
}


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax's schedules divide an int32 count by a float, which strict promotion forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def gradients(steps: int) -> list:
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda p: rng.normal(size=p.shape), PARAMS) for _ in range(steps)]


def single(tree) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def train(optimizer: optax.GradientTransformation, grads: list) -> Any:
    """The parameters after a step with each of the gradients."""
    params = single(PARAMS)
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(single(g), state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_close(found, expected, rtol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), found, expected)


def learning_rates(steps: int, **arguments) -> list[float]:
    """What plain SGD subtracts for a gradient of 1."""
    optimizer = make_optimizer("sgd", momentum=0.0, **arguments)
    params, gradient = {"bias": jnp.zeros(())}, {"bias": jnp.ones(())}
    state = optimizer.init(params)
    rates = []
    for _ in range(steps):
        updates, state = optimizer.update(gradient, state, params)
        rates.append(-float(single(updates)["bias"]))
    return rates


HALF_COSINE = [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0.0]  # at 0, 1/4, 1/2, 3/4 and 1


def test_schedule_without_warm_up_is_a_half_cosine_to_zero_at_the_end():
    rates = learning_rates(5, learning_rate=0.4, num_steps=4)
    np.testing.assert_allclose(rates, 0.4 * np.array(HALF_COSINE), rtol=1e-5, atol=1e-8)


def test_schedule_with_warm_up_is_linear_then_a_half_cosine_to_zero_at_the_end():
    rates = learning_rates(9, learning_rate=0.4, num_steps=8, warmup_steps=4)
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, *0.4 * np.array(HALF_COSINE)], rtol=1e-5, atol=1e-8)


def test_sgd_is_nesterov_momentum_with_decay_in_the_gradient():
    mu, weight_decay, rates = 0.9, 0.1, [0.0, 0.25, 0.5, 0.5 * HALF_COSINE[2]]
    grads = gradients(4)
    expected = jax.tree.map(np.copy, PARAMS)
    momentum = jax.tree.map(np.zeros_like, PARAMS)
    for g, rate in zip(grads, rates, strict=True):
        g = jax.tree.map(lambda g, p, decay: g + weight_decay * p if decay else g, g, expected, DECAYED)
        momentum = jax.tree.map(lambda m, g: mu * m + g, momentum, g)
        expected = jax.tree.map(lambda p, m, g, rate=rate: p - rate * (g + mu * m), expected, momentum, g)
    optimizer = make_optimizer(
        "sgd", learning_rate=0.5, num_steps=4, warmup_steps=2, momentum=mu, weight_decay=weight_decay
    )
    assert_close(train(optimizer, grads), expected)


def test_first_adamw_step_by_hand():
    # Both moments are unbiased by their first value, so the step is lr (sign(g) + weight_decay p).
    optimizer = make_optimizer("adamw", learning_rate=0.5, num_steps=10, weight_decay=0.1)
    grads = jax.tree.map(lambda p: np.where(p > 0, 0.3, -7.0), PARAMS)
    found = train(optimizer, [grads])["network"]
    expected = [
        (found["dense"]["kernel"], [0.25 - 0.5 * 1.025, 4 - 0.5 * 1.4]),
        (found["conv"]["kernel"], [[1 - 0.5 * 1.1, -2 + 0.5 * 1.2]]),
        (found["dense"]["bias"], [1.5]),
        (found["act"]["w"], -0.5),
    ]
    for a, b in expected:  # 1 - 0.999 has a relative error of 6e-5 in float32, its root half of that
        np.testing.assert_allclose(a, b, rtol=3e-5)


def test_adamw_is_adam_with_decoupled_decay():
    b1, b2, eps, weight_decay, rates = 0.9, 0.999, 1e-8, 0.1, 0.02 * np.array(HALF_COSINE[:4])
    grads = gradients(4)
    expected = jax.tree.map(np.copy, PARAMS)
    m = v = jax.tree.map(np.zeros_like, PARAMS)
    for t, (g, rate) in enumerate(zip(grads, rates, strict=True), 1):

        def step(p, m, v, decay, t=t, rate=rate):
            adam = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
            return p - rate * (adam + (weight_decay * p if decay else 0))

        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, v, g)
        expected = jax.tree.map(step, expected, m, v, DECAYED)
    optimizer = make_optimizer("adamw", learning_rate=0.02, num_steps=4, weight_decay=weight_decay)
    assert_close(train(optimizer, grads), expected)


def test_only_kernels_decay():
    assert decays(PARAMS) == DECAYED


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_without_a_gradient_only_kernels_shrink(name):
    optimizer = make_optimizer(name, learning_rate=0.5, num_steps=10, momentum=0.0, weight_decay=0.1)
    found = train(optimizer, [jax.tree.map(np.zeros_like, PARAMS)])
    assert_close(found, jax.tree.map(lambda p, decay: 0.95 * p if decay else p, PARAMS, DECAYED))


@pytest.mark.parametrize(("clip_norm", "factor"), [(1.0, 0.2), slow(2.5, 0.5), (5.1, 1.0), slow(None, 1.0)])
def test_clipping_scales_the_whole_gradient_to_the_norm(clip_norm, factor):
    # The norm, 5, is over all arrays together; weight decay comes after it and is not clipped.
    grads = jax.tree.map(np.zeros_like, PARAMS)
    grads["network"]["conv"]["bias"][...] = 3
    grads["network"]["dense"]["kernel"][...] = [0, -4]
    optimizer = make_optimizer(
        "sgd", learning_rate=0.5, num_steps=10, momentum=0.0, weight_decay=0.2, clip_norm=clip_norm
    )
    expected = jax.tree.map(
        lambda p, g, decay: p - 0.5 * (factor * g + (0.2 * p if decay else 0)), PARAMS, grads, DECAYED
    )
    assert_close(train(optimizer, [grads]), expected)


def test_triangle_by_hand():
    """Of 100 steps: up from 0.2 in 23, down to 0.07 in 77."""
    rates = learning_rates(101, learning_rate=2.0, num_steps=100, schedule="triangle")
    expected = {0: 0.4, 10: 2 * (0.2 + 0.8 * 10 / 23), 23: 2.0, 61: 2 * (1 - 0.93 * 38 / 77), 100: 0.14}
    agrees([rates[i] for i in expected], list(expected.values()), rtol=1e-5, name="triangular schedule")
    assert max(rates) == rates[23]


WHITENED = {
    "whitening": {"conv": {"kernel": np.array([[1.0, -2.0]]), "bias": np.array([0.5])}},
    "norm1": {"bias": np.array([-0.5])},
    "conv1": {"conv": {"kernel": np.array([[0.25, 4.0]])}},
}


@pytest.mark.parametrize(("name", "scale"), [("sgd", 64.0), ("adamw", 64.0)])
def test_norm_biases_have_a_learning_rate_of_their_own(name, scale):
    """Without a decay their change is `scale` times as large, and that of all others the same."""
    grads = jax.tree.map(lambda p: 0.1 * p + 0.01, WHITENED)
    plain, scaled = (
        moved_by(WHITENED, [grads] * 3, make_optimizer(name, learning_rate=0.1, num_steps=9, norm_bias_scale=s))
        for s in (1.0, scale)
    )
    np.testing.assert_allclose(scaled["norm1"]["bias"], scale * plain["norm1"]["bias"], rtol=1e-5)
    for other in ("whitening", "conv1"):
        assert_close(scaled[other], plain[other])


def moved_by(start, grads, optimizer):
    """The change of parameters by steps with these gradients."""
    params: Any = single(start)
    state = optimizer.init(params)
    for g in grads:
        updates, state = optimizer.update(single(g), state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(lambda a, b: np.asarray(a) - b, params, start)


def test_the_published_update_of_airbench_by_a_loop():
    """As its code has it: a learning rate per group, decay divided by that, a sum over the batch instead of a mean."""
    batch, steps = 1024, 7
    kilostep = 1024 * (1 + 1 / (1 - 0.85))
    lr, wd = 11.5 / kilostep, 0.0153 * batch / kilostep
    groups = {"whitening": lr, "norm1": 64 * lr, "conv1": lr}
    rates = [0.2 + 0.8 * i / 1 if i < 1 else 1 - 0.93 * (i - 1) / 6 for i in range(steps)]
    rng = np.random.default_rng(0)
    grads = [jax.tree.map(lambda p: 0.01 * rng.normal(size=p.shape), WHITENED) for _ in range(steps)]
    expected = jax.tree.map(np.copy, WHITENED)
    momentum = jax.tree.map(np.zeros_like, WHITENED)
    for i, g in enumerate(grads):
        g["whitening"]["conv"]["kernel"][...] = 0  # fixed
        for layer, rate in groups.items():

            def step(p, m, g, rate=rate, i=i, layer=layer):
                if layer == "whitening" and (p.ndim == 2 or i >= 3):
                    return  # the filters, and their bias after 3 steps
                g = batch * g + wd / rate * p
                m[...] = 0.85 * m + g
                p -= rate * rates[i] * (g + 0.85 * m)

            jax.tree.map(step, expected[layer], momentum[layer], g[layer])
    config = default_config("cifar10", "airbench").optimisation
    found = moved_by(WHITENED, grads, config.build(steps, 1))
    expected = jax.tree.map(lambda a, b: a - b, expected, WHITENED)
    jax.tree.map(lambda a, b: agrees(a, b, rtol=1e-5, atol=1e-6, name="the update of airbench"), found, expected)
    assert not np.any(found["whitening"]["conv"]["kernel"])


def newton_schulz(g: np.ndarray) -> np.ndarray:
    """Five steps, in float64."""
    x = g / np.linalg.norm(g)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x


def test_muon_against_newton_schulz_in_numpy():
    """Two steps of a convolution and a dense layer; the classifier, norms and biases are Adam's."""
    rng = np.random.default_rng(0)
    start = {
        "conv": {"conv": {"kernel": rng.normal(size=(3, 3, 2, 5))}},
        "hidden": {"kernel": rng.normal(size=(4, 6)), "bias": rng.normal(size=6)},
        "head": {"kernel": rng.normal(size=(6, 3))},
        "whitening": {"conv": {"kernel": np.arange(32.0).reshape(2, 2, 1, 8)}},
    }
    grads = [jax.tree.map(lambda p: rng.normal(size=p.shape), start) for _ in range(2)]
    for g in grads:
        g["whitening"]["conv"]["kernel"][...] = 0
    mu, rates = 0.6, 0.1 * np.array([1, (1 + np.cos(np.pi / 4)) / 2])
    optimizer = make_optimizer("muon", learning_rate=0.1, num_steps=4, momentum=mu, weight_decay=0.01)
    found = moved_by(start, grads, optimizer)

    def looped(w, gs):
        first, m = w, 0.0
        for t, (g, rate) in enumerate(zip(gs, rates, strict=True), 1):
            m = mu * m + (1 - mu) * g
            nesterov = mu * m / (1 - mu ** (t + 1)) + (1 - mu) * g / (1 - mu**t)
            w = w - rate * (0.2 * max(g.shape) ** 0.5 * newton_schulz(nesterov) + 0.01 * w)
        return w - first

    kernel = looped(
        start["conv"]["conv"]["kernel"].reshape(18, 5), [g["conv"]["conv"]["kernel"].reshape(18, 5) for g in grads]
    )
    agrees(found["conv"]["conv"]["kernel"].reshape(18, 5), kernel, rtol=1e-4, atol=1e-5, name="muon")
    kernel = looped(start["hidden"]["kernel"], [g["hidden"]["kernel"] for g in grads])
    agrees(found["hidden"]["kernel"], kernel, rtol=1e-4, atol=1e-5, name="muon")
    adamw = moved_by(start, grads, make_optimizer("adamw", learning_rate=0.1, num_steps=4, weight_decay=0.01))
    assert_close(found["head"], adamw["head"])
    assert_close(found["hidden"]["bias"], adamw["hidden"]["bias"])
    assert not np.any(found["whitening"]["conv"]["kernel"])


def test_biases_decay_if_they_are_asked_to():
    biased = jax.tree.map_with_path(lambda path, _: path[-1].key in ("kernel", "bias"), PARAMS)
    assert decays(PARAMS, biases=True) == biased
    assert not decays(WHITENED, biases=True)["whitening"]["conv"]["kernel"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "lamb"}, "lamb.*sgd.*adamw"),
        *(({"learning_rate": value}, "learning_rate") for value in (0.0, -0.1, NAN, INF)),
        *(({"weight_decay": value}, "weight_decay") for value in (-0.1, NAN, INF)),
        *(({"momentum": value}, "momentum") for value in (-0.1, 1.0, NAN)),
        *(({"clip_norm": value}, "clip_norm") for value in (0.0, -1.0, NAN)),
        *(({"norm_bias_scale": value}, "norm_bias_scale") for value in (0.0, -1.0, NAN, INF)),
        ({"schedule": "linear"}, "linear.*cosine.*triangle"),
        ({"schedule": "triangle", "warmup_steps": 3}, "warmup_steps=3.*triangle"),
        *(({"warmup_steps": value}, "warm-up") for value in (-1, 10, 11)),
        ({"num_steps": 0}, "steps"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, named):
    with pytest.raises(InputError, match=named):
        make_optimizer(**{"name": "sgd", "learning_rate": 0.1, "num_steps": 10} | arguments)
