"""The layers with gradients or formulations of their own, against the plain ones that they replace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from jax import lax
from representative import representatives, slow

from snnkd_jax.models.layers import Conv, avg_pool, convolve, max_pool, normalise


def plain_normalise(x, gamma, beta, eps):
    mu = x.mean(range(x.ndim - 1))
    var = jnp.square(x - mu).mean(range(x.ndim - 1))
    return gamma * (x - mu) / jnp.sqrt(var + eps) + beta


def reduce_window_max(x, window, stride, padding):
    dimensions, strides = ((1,) * (x.ndim - 3) + (n, n, 1) for n in (window, stride))
    padded = [(0, 0)] * (x.ndim - 3) + [(padding, padding)] * 2 + [(0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, dimensions, strides, padded)


def value_and_gradients(f, cotangent, *arguments):
    def both(cotangent, *arguments):
        value, pullback = jax.vjp(f, *arguments)
        return value, *pullback(cotangent)

    return jax.jit(both)(cotangent, *arguments)


def close(found, expected, name, rtol=1e-5):
    for a, b in zip(found, expected, strict=True):
        agrees(a / np.abs(b).max(), b / np.abs(b).max(), atol=rtol, name=name)


@pytest.mark.parametrize("shape", [slow((4, 3, 5, 6, 8)), (64, 3)], ids=str)
def test_batch_norm_value_and_gradients_agree_with_automatic_differentiation(shape):
    x, cotangent = jax.random.normal(jax.random.key(0), (2, *shape)) * 3 + 2
    gamma, beta = jnp.linspace(0.5, 2, shape[-1]), jnp.linspace(-1, 1, shape[-1])

    def with_moments(x, gamma, beta):
        y = lax.stop_gradient(x)
        mu = y.mean(range(y.ndim - 1))
        return normalise(x, mu, jnp.square(y - mu).mean(range(y.ndim - 1)) + 1e-5, gamma, beta)

    found = jax.jit(functools.partial(value_and_gradients, with_moments))(cotangent, x, gamma, beta)
    expected = jax.jit(functools.partial(value_and_gradients, functools.partial(plain_normalise, eps=1e-5)))(
        cotangent, x, gamma, beta
    )
    close(found, expected, "batch norm, gradients")


def test_batch_norm_keeps_half_precision_and_computes_in_float32():
    x = jnp.full((8, 4), 300.0, jnp.bfloat16).at[0].set(302.0)  # neighbours in bfloat16
    zeros = jnp.zeros(4)
    y = normalise(x, x.astype(jnp.float32).mean(0), zeros + 1.0, zeros + 1, zeros)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y[:2, 0].astype(jnp.float32), [1.75, -0.25])


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1)])
@pytest.mark.parametrize("binary", [True, False], ids=["spikes", "reals"])
def test_max_pooling_is_reduce_window_bit_for_bit_ties_included(window, stride, padding, binary):
    """Odd sizes, whose last rows may be in no window, and spikes, which tie in most windows, all below 0 in some."""
    pool = {"window": window, "stride": stride, "padding": padding}
    x = jax.random.normal(jax.random.key(1), (2, 3, 7, 8, 5))
    x = (x > 0).astype(jnp.float32) if binary else x - 1
    shape = jax.eval_shape(functools.partial(reduce_window_max, **pool), x).shape
    # whole numbers, whose sums do not depend on their order: overlapping windows share a maximum
    cotangent = jax.random.randint(jax.random.key(2), shape, -99, 99).astype(jnp.float32)
    found = value_and_gradients(functools.partial(max_pool, **pool), cotangent, x)
    expected = value_and_gradients(functools.partial(reduce_window_max, **pool), cotangent, x)
    for a, b in zip(found, expected, strict=True):
        agrees(a, b, name="max pooling")


def test_the_gradient_of_a_tie_goes_to_the_first_maximum():
    x = jnp.array([[0.0, 1.0], [1.0, 1.0]])[None, :, :, None]
    (gradient,) = jax.vjp(max_pool, x)[1](jnp.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1], [0, 0]])


def test_pooling_by_hand():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[5, 7], [13, 15]])
    np.testing.assert_array_equal(avg_pool(x)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


SIZES = [((1, 1), 1), ((2, 2), 1), ((2, 1), 2), ((1, 5), 2), ((2, 4), 1)]


@pytest.mark.parametrize(("size", "stride"), representatives(SIZES, lambda case: case == ((2, 1), 2)), ids=str)
def test_convolution_of_a_map_smaller_than_the_kernel(size, stride):
    """Value and both gradients of the library's convolution."""
    x = jax.random.normal(jax.random.key(3), (6, *size, 7))
    kernel = jax.random.normal(jax.random.key(4), (3, 3, 7, 9))
    run = functools.partial(
        lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    cotangent = jax.random.normal(jax.random.key(5), run(x, kernel).shape)

    def ours(x, kernel):
        return convolve(x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert "conv_general_dilated" not in str(jax.make_jaxpr(ours)(x, kernel))
    expected = value_and_gradients(run, cotangent, x, kernel)
    close(value_and_gradients(ours, cotangent, x, kernel), expected, "convolution of a small map")


@pytest.mark.slow
def test_only_tiny_maps_leave_the_library_convolution():
    conv = Conv(4)

    def primitives(size):
        variables = conv.init(jax.random.key(0), jnp.zeros((1, size, size, 3)))
        return str(jax.make_jaxpr(conv.apply)(variables, jnp.zeros((2, 5, size, size, 3))))

    assert "conv_general_dilated" in primitives(3)
    assert "conv_general_dilated" not in primitives(2)
