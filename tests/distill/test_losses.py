"""Loss terms against SciPy, analytic gradients and a second implementation in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from loss_examples import (
    FEATURES,
    LABELS,
    LOGITS,
    TEACHER_LOGITS,
    B,
    K,
    T,
    close,
    loop_margin_distance,
    loop_negative_mean,
)
from scipy.special import log_softmax, rel_entr, softmax

from snnkd_jax.distill.losses import cross_entropy, kd_divergence, margin_distance, negative_mean
from snnkd_jax.errors import InputError

# --- single terms


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.9])
def test_cross_entropy_is_that_of_the_smoothed_label(eps):
    expected = np.empty((B, T))
    for b in range(B):
        for t in range(T):
            log_p = log_softmax(LOGITS[b, t].astype(np.float64))
            expected[b, t] = -(1 - eps) * log_p[LABELS[b]] - eps * log_p.mean()
    close(cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS)[:, None], eps), expected, "cross-entropy")


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([0.25, 0.75]))
    close(cross_entropy(logits, jnp.array(0)), np.log(4))
    close(cross_entropy(logits, jnp.array(1), 0.5), 0.75 * np.log(4 / 3) + 0.25 * np.log(4))


def test_cross_entropy_of_huge_logits_does_not_overflow():
    np.testing.assert_allclose(cross_entropy(jnp.array([1e4, 0.0]), jnp.array(1)), 1e4, rtol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 3.0, 20.0])
def test_kd_divergence_is_the_relative_entropy_of_the_softened_labels(tau):
    p = softmax(TEACHER_LOGITS[:, None].astype(np.float64) / tau, axis=-1)
    q = softmax(LOGITS.astype(np.float64) / tau, axis=-1)
    found = kd_divergence(jnp.asarray(LOGITS), jnp.asarray(TEACHER_LOGITS)[:, None], tau)
    close(found, tau**2 * rel_entr(p, q).sum(axis=-1), "KD")


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_kd_divergence_has_the_gradient_tau_q_minus_p_and_none_for_the_teacher(tau):
    p, q = (softmax(x.astype(np.float64) / tau, axis=-1) for x in (TEACHER_LOGITS, LOGITS[:, 0]))
    student, teacher = jax.grad(lambda s, t: kd_divergence(s, t, tau).sum(), argnums=(0, 1))(
        jnp.asarray(LOGITS[:, 0]), jnp.asarray(TEACHER_LOGITS)
    )
    close(student, tau * (q - p), "KD, gradient")
    np.testing.assert_array_equal(teacher, np.zeros((B, K)))


def test_kd_divergence_is_zero_only_for_logits_that_differ_by_a_constant():
    z = jnp.asarray(TEACHER_LOGITS)
    np.testing.assert_array_equal(kd_divergence(z, z, 3.0), np.zeros(B))
    np.testing.assert_allclose(kd_divergence(z + 10, z, 3.0), 0, atol=1e-5)
    assert np.all(kd_divergence(jnp.asarray(LOGITS[:, 0]), z, 3.0) > 0.01)


def test_negative_mean_is_over_the_negative_values_of_a_channel():
    channels = [[-1.0, -3.0, 5.0, 0.0], [1.0, 2.0, 0.0, 7.0], [-0.5, -0.5, -0.5, -2.5]]
    x = jnp.array(channels).T.reshape(2, 2, 1, 3)
    agrees(negative_mean(x), [-2.0, 0.0, -1.0], rtol=1e-6, name="negative mean")


@pytest.mark.parametrize(
    ("s", "t", "m", "d"),
    [
        (1.0, 3.0, -1.0, 4.0),  # positive target, student below
        (5.0, 3.0, -1.0, 4.0),  # positive target, student above
        (-2.0, 3.0, -1.0, 25.0),
        (0.5, -0.5, -1.0, 1.0),  # negative target, student above
        (-0.7, -0.5, -1.0, 0.0),  # negative target, student below: no loss
        (0.0, -4.0, -1.0, 1.0),  # the target is the margin
        (-3.0, -4.0, -1.0, 0.0),  # below the margin: no loss
        (-1.0, -4.0, -1.0, 0.0),
        (-1.0, 0.0, -1.0, 0.0),  # a target of 0 is not positive
        (1.0, 0.0, -1.0, 1.0),
    ],
)
def test_margin_distance_at_points_worked_out_by_hand(s, t, m, d):
    student, teacher = jnp.full((1, 1, 1, 1), s), jnp.full((1, 1, 1, 1), t)
    agrees(margin_distance(student, teacher, jnp.array([m])), [d], rtol=1e-6, name="margin distance by hand")


def test_margin_distance_is_summed_over_the_map_of_each_example():
    student, teacher = FEATURES[0]
    margin = np.array([-0.5, -2.0], np.float32)
    found = margin_distance(jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(margin))
    close(found, loop_margin_distance(student, teacher, margin), "margin distance")


def test_margin_distance_has_no_gradient_for_the_teacher_and_its_margin():
    def loss(student, teacher):
        return margin_distance(student, teacher, negative_mean(teacher)).sum()

    student, teacher = FEATURES[0]
    ds, dt = jax.grad(loss, argnums=(0, 1))(jnp.asarray(student), jnp.asarray(teacher))
    target = np.maximum(teacher.astype(np.float64), loop_negative_mean(teacher))
    close(ds, np.where((student > target) | (target > 0), 2 * (student - target), 0), "margin distance, gradient")
    np.testing.assert_array_equal(dt, np.zeros_like(teacher))


def test_margin_of_bfloat16_features_is_computed_in_float32():
    """The count of negatives would saturate at 256 in bfloat16."""
    x = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    low = jnp.asarray(x, jnp.bfloat16)
    np.testing.assert_allclose(negative_mean(low), negative_mean(jnp.asarray(x)), rtol=1e-2)
    assert margin_distance(low[None, :, None], low[None, :, None], negative_mean(low)).dtype == jnp.float32
    with pytest.raises(InputError, match=r"student's map has shape \(1, 20000, 1, 1\)"):
        margin_distance(low[None, :, None, :1], low[None, :, None], negative_mean(low))
