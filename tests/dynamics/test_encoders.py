"""Encoders: images to currents or spikes, `[B, ...]` to `[B, T, ...]`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees

from snnkd_jax.dynamics.encoders import direct, latency, poisson
from snnkd_jax.errors import InputError

KEY = jax.random.key(7)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_direct_repeats_the_image_at_every_step(dtype):
    images = np.arange(24).reshape(2, 3, 4, 1).astype(dtype)
    current = direct(jnp.asarray(images), 5)
    assert current.shape == (2, 5, 3, 4, 1)
    assert current.dtype == dtype
    for t in range(5):
        agrees(current[:, t], images, name="direct code")


def assert_rates(spikes, rates):
    """Over the time axis, within four standard errors of the binomial."""
    num_steps = spikes.shape[1]
    standard_error = np.sqrt(rates * (1 - rates) / num_steps)
    found = np.asarray(spikes, np.float64).mean(axis=1)
    # A pixel of 0 or 1 has no error: it fires never or always.
    agrees((found - rates) / np.maximum(standard_error, 1e-9), 0 * rates, atol=4, name="Poisson code")


def test_poisson_rate_is_the_pixel_value():
    images = np.array([[0.0, 0.03, 0.25, 0.5], [0.75, 0.9, 0.99, 1.0]])
    spikes = poisson(KEY, jnp.asarray(images, jnp.float32), 4000)
    assert spikes.shape == (2, 4000, 4)
    assert spikes.dtype == jnp.float32
    assert set(np.unique(spikes)) == {0.0, 1.0}
    assert_rates(spikes, images)


def test_poisson_rate_of_a_dark_pixel_is_right_in_bfloat16():
    images = jnp.array([[0.01, 0.02]], jnp.bfloat16)  # a bfloat16 uniform would fire at 0.0156 and 0.0234
    spikes = poisson(KEY, images, 20000)
    assert spikes.dtype == jnp.bfloat16
    assert_rates(spikes.astype(jnp.float32), np.asarray(images, np.float64))


def test_poisson_spikes_are_independent_over_time_and_pixels():
    spikes = np.asarray(poisson(KEY, jnp.full((2, 2), 0.5), 4000), np.float64).transpose(0, 2, 1).reshape(4, 4000)
    signs = 2 * spikes - 1
    pairs = [signs[i] * signs[j] for i in range(4) for j in range(i)] + [s[1:] * s[:-1] for s in signs]
    for product in pairs:
        assert abs(product.mean()) <= 4 / np.sqrt(product.size)


def test_poisson_pixels_out_of_range_act_as_0_and_1():
    spikes = poisson(KEY, jnp.array([[-0.5, 0.0, 1.0, 1.5]]), 200)
    np.testing.assert_array_equal(spikes[0], np.tile([0.0, 0.0, 1.0, 1.0], (200, 1)))


def test_poisson_spikes_are_a_function_of_the_key():
    images = jnp.full((2, 10), 0.5)
    np.testing.assert_array_equal(poisson(KEY, images, 8), poisson(KEY, images, 8))
    assert np.any(poisson(KEY, images, 8) != poisson(jax.random.key(8), images, 8))


@pytest.mark.parametrize(
    ("num_steps", "steps"),
    [
        (1, [0, 0, 0, 0, 0, 0, 0]),
        (2, [0, 0, 0, 0, 1, 1, 1]),
        (5, [0, 0, 0, 1, 3, 4, 4]),  # 4 (1 - x) is 0, 0, 0.4, 1, 2.8, 4, 4
        (11, [0, 0, 1, 2, 7, 10, 10]),  # 10 (1 - x) is 0, 0, 1, 2.5 -> 2 (ties to even), 7, 10, 10
    ],
)
def test_latency_fires_once_and_the_brighter_the_earlier(num_steps, steps):
    pixels = jnp.array([1.5, 1.0, 0.9, 0.75, 0.3, 0.0, -2.0])
    expected = np.zeros((num_steps, 7), np.float32)
    expected[steps, np.arange(7)] = 1
    spikes = latency(jnp.stack([pixels, pixels[::-1]]), num_steps)
    assert spikes.dtype == jnp.float32
    agrees(spikes, np.stack([expected, expected[:, ::-1]]), name="latency code")


def test_latency_keeps_the_axes_of_an_image_and_its_dtype():
    images = jnp.linspace(0, 1, 24).reshape(2, 3, 4, 1).astype(jnp.bfloat16)
    spikes = latency(images, 6)
    assert spikes.shape == (2, 6, 3, 4, 1)
    assert spikes.dtype == jnp.bfloat16
    np.testing.assert_array_equal(spikes.astype(jnp.float32).sum(axis=1), np.ones((2, 3, 4, 1)))


@pytest.mark.parametrize(
    "encode", [direct, lambda x, n: poisson(KEY, x, n), latency], ids=["direct", "poisson", "latency"]
)
@pytest.mark.parametrize("num_steps", [0, -1])
def test_at_least_one_step_is_required(encode, num_steps):
    with pytest.raises(InputError, match="num_steps"):
        encode(jnp.zeros((2, 3)), num_steps)
