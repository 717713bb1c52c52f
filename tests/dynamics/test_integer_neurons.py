"""Integer neurons against a float64 loop with a backward pass by hand, against numbers, and with one level."""

import dataclasses
import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from representative import representatives, slow

from snnkd_jax.dynamics import surrogate
from snnkd_jax.dynamics.integration import integrate, integrate_with_slopes
from snnkd_jax.dynamics.neurons import ILIF, integer_lif
from snnkd_jax.dynamics.surrogate import spike_count
from snnkd_jax.errors import InputError


def reference(neuron: ILIF, x, v, ds, dv):
    """Counts, last potential, distance to the next tie or end, and the derivatives of sum(ds s) + sum(dv v)."""
    decay, threshold, top = 1 - 1 / neuron.tau, neuron.v_threshold, neuron.levels
    h, s, slope = [], [], []
    for t in range(x.shape[1]):
        h.append(decay * v + x[:, t])
        ratio = h[t] / threshold
        s.append(sum((ratio >= k - 0.5).astype(float) for k in range(1, top + 1)))
        slope.append(((ratio >= 0) & (ratio <= top)) / threshold)
        v = h[t] - s[t] * threshold
    dx = np.zeros_like(x)
    for t in reversed(range(x.shape[1])):
        through = 0.0 if neuron.detach_reset else -threshold * dv
        dx[:, t] = dv + (ds[:, t] + through) * slope[t]
        dv = decay * dx[:, t]
    ratios = np.stack(h) / threshold
    kinks = [0.0, top, *(k + 0.5 for k in range(top))]
    return np.stack(s, axis=1), v, min(np.abs(ratios - kink).min() for kink in kinks), dx, dv


CONSTANTS = [*itertools.product((4 / 3, 1.0, 2.0), (0.4, 1.0), (False, True))]  # tau, v_threshold, detach_reset
CASES = [
    (ILIF(levels, *CONSTANTS[i % len(CONSTANTS)]), num_steps)
    for i, (levels, num_steps) in enumerate(itertools.product((1, 2, 3, 4, 8), (1, 2, 5, 8)))
]


@pytest.mark.parametrize(
    ("neuron", "num_steps"),
    [
        *representatives(CASES, CASES[14].__eq__),
        pytest.param(*CASES[14], marks=[pytest.mark.slow, pytest.mark.optimised]),
    ],
)
def test_counts_potential_and_gradients_agree_with_a_float64_loop(neuron, num_steps):
    rng = np.random.default_rng(3)
    shape = (3, num_steps, 60)
    scale = neuron.v_threshold * neuron.levels
    x, v, ds, dv = (
        rng.normal(mean, 1, s).astype(np.float32).astype(np.float64)
        for mean, s in [(0.4 * scale, shape), (0.2, (3, 60)), (0, shape), (0, (3, 60))]
    )
    s, last, distance, dx, dv0 = reference(neuron, x, v, ds, dv)
    assert distance > 1e-6  # rounding does not decide
    assert 0 < s.mean() < neuron.levels

    def loss(x, v):
        found, after = integrate(neuron, x, v)
        return (ds.astype(np.float32) * found).sum() + (dv.astype(np.float32) * after).sum(), (found, after)

    arrays = jnp.asarray(x, jnp.float32), jnp.asarray(v, jnp.float32)
    gradients, (found, after) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(*arrays)
    agrees(found, s, name="spikes")
    np.testing.assert_allclose(after, last, atol=1e-5 * max(1, scale))
    for a, b in zip(gradients, (dx, dv0), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_trajectory_by_hand():
    """h = 3.2, 0.05 + 0, 0.0125 + 5.8 and 4.8 / 4 ... with tau = 4/3; the first are in SpikingJelly's own tests."""
    found, v = integer_lif(jnp.array([[[3.2], [0.0], [5.8], [-0.4]]]), tau=4 / 3, return_v=True)
    np.testing.assert_array_equal(found[0, :, 0], [3, 0, 4, 0])
    # 0.2 -> 0.05 -> 5.8125 - 4 = 1.8125 -> 0.453125 - 0.4
    np.testing.assert_allclose(v, [[0.053125]], atol=1e-6)


def test_halves_round_up_and_the_ends_have_a_derivative():
    x = jnp.array([-0.5, -0.0, 0.0, 0.49999997, 0.5, 1.5, 2.5, 3.4999998, 3.5, 4.0, 4.5, 1e9, -1e9])
    np.testing.assert_array_equal(spike_count(x, 4), [0, 0, 0, 0, 1, 2, 3, 3, 4, 4, 4, 4, 0])
    np.testing.assert_array_equal(
        jax.grad(lambda x: jnp.sum(spike_count(x, 4)))(x), [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    )
    assert np.isnan(spike_count(jnp.nan, 4))  # a divergence is not hidden


@dataclasses.dataclass(frozen=True)
class FiresFromHalf:
    """A neuron that fires from v_threshold / 2 and subtracts v_threshold, with the rectangle as surrogate."""

    v_threshold: float
    tau: float
    parameters: ClassVar[dict] = {}

    def init(self, shape):
        return jnp.zeros(shape)

    def step(self, v, x, parameters):
        del parameters
        h = v - v / self.tau + x
        s = surrogate.rectangle(1 / self.v_threshold)(h - self.v_threshold / 2)
        return h - s * self.v_threshold, s


@pytest.mark.slow
@pytest.mark.parametrize("v_threshold", [0.25, slow(1.0)])
def test_one_level_is_a_neuron_that_fires_from_half_the_threshold(v_threshold):
    x = jax.random.normal(jax.random.key(0), (4, 6, 200))

    def outputs(neuron):
        def loss(x):
            spikes, v = integrate(neuron, x)
            return (jnp.sin(jnp.arange(200.0)) * spikes).sum() + jnp.square(v).sum(), (spikes, v)

        return jax.value_and_grad(loss, has_aux=True)(x)

    (_, (spikes, v)), gradient = outputs(ILIF(1, 3.0, v_threshold))
    (_, (expected, last)), slope = outputs(FiresFromHalf(v_threshold, 3.0))
    np.testing.assert_array_equal(spikes, expected)
    assert set(np.unique(spikes)) == {0, 1}
    np.testing.assert_allclose(v, last, atol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-5)


def test_slopes_of_one_step_are_the_derivative():
    neuron, x = ILIF(3, v_threshold=0.5), jax.random.normal(jax.random.key(1), (2, 1, 50))
    _, kappa, slopes = integrate_with_slopes(neuron, x)
    np.testing.assert_array_equal(kappa, jax.grad(lambda x: integrate(neuron, x)[0].sum())(x)[:, 0])
    assert slopes == {}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_counts_are_exact_in_half_precision(dtype):
    spikes, v = integrate(ILIF(256), jnp.asarray([[[255.0, 256.0, 3.0]]], dtype))
    assert (spikes.dtype, v.dtype) == (dtype, jnp.float32)
    np.testing.assert_array_equal(spikes[0, 0].astype(jnp.float32), [255, 256, 3])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"levels": 0}, "levels=0"),
        ({"levels": 2.5}, "levels=2.5"),
        ({"levels": True}, "levels=True"),
        ({"levels": 257}, "levels=257"),
        ({"tau": 0.5}, "tau=0.5"),
        ({"tau": math.nan}, "tau=nan"),
        ({"v_threshold": 0.0}, "v_threshold=0.0"),
        ({"v_threshold": math.inf}, "v_threshold=inf"),
    ],
)
def test_bad_constants_are_named(arguments, named):
    with pytest.raises(InputError, match=named):
        ILIF(**arguments)
