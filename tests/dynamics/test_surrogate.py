"""Surrogates: a step forward, and backward the exact derivative of a smooth primitive."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from numpy.typing import ArrayLike

from snnkd_jax.dynamics.surrogate import Surrogate, atan, fast_sigmoid, rectangle, sigmoid, triangle
from snnkd_jax.errors import InputError

ALL = (atan, sigmoid, triangle, rectangle, fast_sigmoid)
STEP_LIKE = (atan, sigmoid, triangle, rectangle)
ALPHAS = (0.5, 1.0, 2.0, 4.0, 25.0)

# In units of 1/alpha; the kinks, at 0, 1/2 and 1, lie at least 0.02 away.
GRID = (np.arange(-40, 40) + 0.3) / 10

all_surrogates = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
all_alphas = pytest.mark.parametrize("alpha", ALPHAS)


def slope(surrogate: Surrogate, x: np.ndarray, step: float) -> np.ndarray:
    """Central difference of the primitive; to be called with 64-bit types enabled."""
    high, low = surrogate.primitive(jnp.asarray(x + step)), surrogate.primitive(jnp.asarray(x - step))
    assert high.dtype == jnp.float64
    return (np.asarray(high) - np.asarray(low)) / (2 * step)


def gradient(surrogate: Surrogate, x: ArrayLike, cotangent: ArrayLike = 1.0) -> np.ndarray:
    x = jnp.asarray(x)
    return np.asarray(jax.grad(lambda x: (jnp.asarray(cotangent, x.dtype) * surrogate(x)).sum())(x))


@all_alphas
@all_surrogates
def test_derivative_is_the_slope_of_the_primitive(make, alpha):
    with jax.enable_x64(True):
        expected = slope(make(alpha), GRID / alpha, 1e-5 / alpha)
        derivative = np.asarray(make(alpha).derivative(jnp.asarray(GRID / alpha)))
    agrees(derivative, expected, rtol=1e-7, atol=1e-10 * alpha, name=make.__name__)


@all_alphas
@all_surrogates
def test_gradient_of_the_spike_is_the_slope_of_the_primitive_times_the_cotangent(make, alpha):
    cotangent = np.linspace(-1, 3, GRID.size)
    with jax.enable_x64(True):
        expected = cotangent * slope(make(alpha), GRID / alpha, 1e-5 / alpha)
        found = gradient(make(alpha), GRID / alpha, cotangent)
    agrees(found, expected, rtol=1e-7, atol=1e-9 * alpha, name=f"{make.__name__}, gradient of the spike")


@all_surrogates
def test_gradient_of_the_spike_is_the_derivative_in_single_precision_too(make):
    x = jnp.asarray(GRID, jnp.float32)
    np.testing.assert_array_equal(gradient(make(), x), make().derivative(x))


@pytest.mark.parametrize(
    ("surrogate", "x", "expected"),
    [
        (atan(2.0), 0.0, 1.0),
        (atan(2.0), 1 / np.pi, 0.5),
        (sigmoid(4.0), 0.0, 1.0),
        (sigmoid(4.0), np.log(3) / 4, 0.75),  # sigma = 3/4
        (triangle(1.0), 0.0, 1.0),
        (triangle(1.0), 0.5, 0.5),
        (triangle(1.0), -0.5, 0.5),
        (triangle(1.0), 1.5, 0.0),
        (triangle(2.0), 0.25, 1.0),
        (rectangle(1.0), 0.49, 1.0),
        (rectangle(1.0), -0.49, 1.0),
        (rectangle(1.0), 0.51, 0.0),
        (rectangle(1.0), -0.51, 0.0),
        (rectangle(4.0), 0.12, 4.0),
        (rectangle(4.0), 0.13, 0.0),
        (fast_sigmoid(25.0), 0.0, 1.0),
        (fast_sigmoid(25.0), 0.04, 0.25),
        (fast_sigmoid(25.0), -0.04, 0.25),
    ],
)
def test_gradient_at_points_computed_by_hand(surrogate, x, expected):
    agrees(gradient(surrogate, x), expected, rtol=1e-6, name="surrogates by hand")


def test_default_sharpness_is_that_of_the_literature():
    assert [make().alpha for make in ALL] == [2.0, 4.0, 1.0, 1.0, 25.0]


@all_alphas
def test_primitives_rise_from_0_to_1_and_that_of_fast_sigmoid_to_1_over_alpha(alpha):
    ends = jnp.array([-1e9, 0.0, 1e9])
    for make in STEP_LIKE:
        np.testing.assert_allclose(make(alpha).primitive(ends), [0, 0.5, 1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fast_sigmoid(alpha).primitive(ends), [-1 / alpha, 0, 1 / alpha], rtol=1e-6)


@all_surrogates
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_spike_is_the_step_and_is_fired_at_exactly_zero(make, dtype):
    x = jnp.array([[-2.0, -1e-30, -0.0], [0.0, 1e-30, 3.0]], dtype)
    spikes = make()(x)
    assert spikes.dtype == dtype
    np.testing.assert_array_equal(spikes.astype(jnp.float32), [[0, 0, 1], [1, 1, 1]])


@all_surrogates
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_sharpness_must_be_positive_and_finite(make, alpha):
    with pytest.raises(InputError, match="alpha"):
        make(alpha)


def test_equal_surrogates_are_one_static_argument():
    assert atan(2.0) == atan(2.0)
    assert hash(atan(2.0)) == hash(atan(2.0))
    assert len({atan(2.0), atan(3.0), sigmoid(2.0)}) == 3
