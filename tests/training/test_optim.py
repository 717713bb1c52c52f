"""Optimisers against loops written in NumPy, and schedules against values worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from representative import slow

from snnkd_jax.errors import InputError
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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"name": "lamb"}, "lamb.*sgd.*adamw"),
        *(({"learning_rate": value}, "learning_rate") for value in (0.0, -0.1, NAN, INF)),
        *(({"weight_decay": value}, "weight_decay") for value in (-0.1, NAN, INF)),
        *(({"momentum": value}, "momentum") for value in (-0.1, 1.0, NAN)),
        *(({"clip_norm": value}, "clip_norm") for value in (0.0, -1.0, NAN)),
        *(({"warmup_steps": value}, "warm-up") for value in (-1, 10, 11)),
        ({"num_steps": 0}, "steps"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, named):
    with pytest.raises(InputError, match=named):
        make_optimizer(**{"name": "sgd", "learning_rate": 0.1, "num_steps": 10} | arguments)
