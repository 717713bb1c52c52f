"""Feature terms against float64 loops, points worked out by hand and difference quotients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from scipy.special import rel_entr, softmax

from snnkd_jax.distill.losses import (
    attention_distance,
    mask_channels,
    mean_squared_distance,
    pooled_distance,
    saliency_divergence,
)
from snnkd_jax.errors import InputError

rng = np.random.default_rng(0)
STUDENT, TEACHER = (rng.normal(0, 2, (3, 2, 4, 5)).astype(np.float32) for _ in range(2))


def loop_pooled(student, teacher):
    d = np.zeros(len(student))
    for (b, _, _, c), _ in np.ndenumerate(student[:, :1, :1]):
        d[b] += (student[b, ..., c].astype(np.float64).mean() - teacher[b, ..., c].astype(np.float64).mean()) ** 2
    return d


def loop_mean_squared(student, teacher):
    d = np.zeros(len(student))
    for (b, *_), difference in np.ndenumerate(student.astype(np.float64) - teacher):
        d[b] += difference**2
    return d / (student.size / len(student))


def loop_attention(student, teacher):
    d = np.zeros(len(student))
    for b in range(len(student)):
        maps = []
        for x in (student[b], teacher[b]):
            q = np.array([sum(float(value) ** 2 for value in pixel) for pixel in x.reshape(-1, x.shape[-1])])
            maps.append(q / np.linalg.norm(q))
        d[b] = np.sum((maps[0] - maps[1]) ** 2)
    return d


KERNEL, BIAS = rng.normal(0, 1, (5, 4)), np.zeros(4)
TEACHER_LOGITS = rng.normal(0, 2, (3, 4)).astype(np.float32)


def loop_saliency(student, teacher):
    maps = [np.zeros(student.shape[:3]) for _ in range(2)]
    for index in np.ndindex(student.shape[:3]):
        weights = KERNEL[:, TEACHER_LOGITS[index[0]].argmax()]
        maps[0][index] = max(sum(float(a) * w for a, w in zip(teacher[index], weights, strict=True)), 0)
        maps[1][index] = sum(map(float, student[index]))
    scaled = [(x - x.min()) / (x.max() - x.min() + 1e-3) for x in maps]
    p, q = (np.stack([softmax(x.ravel() / 2) for x in xs]) for xs in scaled)
    return rel_entr(p, q).sum(-1)


TERMS = {
    "squared": (pooled_distance, loop_pooled),
    "mean squared": (mean_squared_distance, loop_mean_squared),
    "attention": (attention_distance, loop_attention),
    "saliency": (
        lambda s, t: saliency_divergence(s, t, jnp.asarray(KERNEL), jnp.asarray(TEACHER_LOGITS)[: len(t)], 2.0),
        loop_saliency,
    ),
}


@pytest.fixture(params=TERMS)
def name(request):
    return request.param


@pytest.fixture
def term(name):
    return TERMS[name]


def test_agrees_with_a_float64_loop(name, term):
    function, loop = term
    found = function(jnp.asarray(STUDENT), jnp.asarray(TEACHER))
    assert found.shape == (3,)
    agrees(found, loop(STUDENT, TEACHER), rtol=1e-5, name=name)


def test_gradient_is_the_difference_quotient_for_the_student_and_none_for_the_teacher(name, term):
    function, loop = term
    student, teacher = jax.jit(jax.grad(lambda s, t: function(s, t).sum(), argnums=(0, 1)))(STUDENT, TEACHER)
    expected, h = np.zeros(STUDENT.shape), 1e-5
    for index in np.ndindex(STUDENT.shape):
        step = np.zeros(STUDENT.shape)
        step[index] = h
        up, down = (loop(STUDENT + sign * step, TEACHER).sum() for sign in (1, -1))
        expected[index] = (up - down) / (2 * h)
    agrees(student, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(), name=f"{name}, gradient")
    np.testing.assert_array_equal(teacher, np.zeros(TEACHER.shape))


@pytest.mark.parametrize("teacher", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("student", [0.0, 1.0, -1e4])
def test_constant_and_extreme_maps_and_a_batch_of_one_are_finite(term, student, teacher):
    maps = [jnp.full((1, 2, 4, 5), value) for value in (student, teacher)]
    value, gradient = jax.jit(jax.value_and_grad(lambda s, t: term[0](s, t).sum()))(*maps)
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_is_zero_only_for_equal_maps_and_in_float32(name, term):
    if name == "saliency":
        pytest.skip("compares two different maps of activity")
    low = jnp.asarray(STUDENT, jnp.bfloat16)
    same = term[0](low, low)
    assert same.dtype == jnp.float32
    np.testing.assert_allclose(same, 0, atol=1e-12)
    assert np.all(term[0](low, jnp.asarray(TEACHER)) > 1e-3)


def test_maps_that_would_be_broadcast_are_refused(name, term):
    one_channel, one_pixel = jnp.ones((2, 4, 4, 1)), jnp.ones((2, 1, 1, 5))
    if name != "squared":  # which averages over maps of any size
        with pytest.raises(InputError, match=r"student's map has shape \(2, 1, 1.* and the teacher's \(2, 4, 4"):
            term[0](one_pixel, jnp.ones((2, 4, 4, 5)))
    if name not in ("attention", "saliency"):  # which sum over the channels
        with pytest.raises(InputError, match=r"\(2, .*1\)"):
            term[0](one_channel, jnp.ones((2, 4, 4, 5)))


def test_saliency_by_hand():
    """Two pixels: S = (1, 3), and M = relu(-2, 2) by the class of the larger logit; both are scaled to (0, 1)."""
    student = jnp.array([[1.0, 0.0], [1.0, 2.0]]).reshape(1, 1, 2, 2)
    teacher, kernel = jnp.array([-1.0, 1.0]).reshape(1, 1, 2, 1), jnp.array([[5.0, 2.0]])
    s, m = softmax([0, 2 / 2.001]), softmax([0, 2 / 2.001])
    found = saliency_divergence(student, teacher, kernel, jnp.array([[0.0, 1.0]]), 1.0)
    np.testing.assert_allclose(found, [rel_entr(m, s).sum()], atol=1e-6)
    other = saliency_divergence(student[:, :, ::-1], teacher, kernel, jnp.array([[0.0, 1.0]]), 1.0)
    np.testing.assert_allclose(other, [rel_entr(m, s[::-1]).sum()], rtol=1e-5)


def test_squared_distances_by_hand():
    student, teacher = jnp.array([1.0, 2.0]).reshape(1, 1, 2, 1), jnp.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(pooled_distance(student, teacher), [(1.5 - 2) ** 2], rtol=1e-6)
    np.testing.assert_allclose(mean_squared_distance(student, teacher), [2.5], rtol=1e-6)


def test_attention_by_hand():
    # Two pixels. Student: Q = (1 + 2, 0 + 4) = (3, 4), of norm 5; teacher, of one channel: Q = (0, 25), of norm 25.
    student = jnp.array([[1.0, 2**0.5], [0.0, 2.0]]).reshape(1, 1, 2, 2)
    teacher = jnp.array([0.0, -5.0]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(attention_distance(student, teacher), [0.6**2 + 0.2**2], rtol=1e-6)


def test_attention_does_not_depend_on_the_scale_of_a_map():
    student, teacher = jnp.asarray(STUDENT), jnp.asarray(TEACHER)
    scaled = attention_distance(student / 4, teacher * 3)  # sum over T = 4 steps or mean: the same
    np.testing.assert_allclose(scaled, attention_distance(student, teacher), rtol=1e-5)


def test_attention_of_a_map_of_zeros_has_the_value_of_the_other_and_no_gradient():
    value, gradient = jax.value_and_grad(lambda s: attention_distance(s, jnp.asarray(TEACHER)).sum())(
        jnp.zeros(STUDENT.shape)
    )
    np.testing.assert_allclose(value, 3, rtol=1e-6)  # the square of a unit vector, for each of 3 examples
    np.testing.assert_array_equal(gradient, np.zeros(STUDENT.shape))


def test_a_mask_zeroes_whole_channels_of_each_example_and_leaves_the_others():
    feature = jnp.asarray(rng.uniform(1, 2, (64, 2, 3, 50)).astype(np.float32))
    masked = np.asarray(mask_channels(jax.random.key(0), feature, 0.15))
    kept = (masked == feature).all(axis=(1, 2))
    dropped = (masked == 0).all(axis=(1, 2))
    assert np.all(kept ^ dropped)
    # 3200 draws: the share has a standard deviation of 0.0063
    agrees(dropped.mean(), 0.15, atol=0.03, name="masked channels")
    assert len({tuple(row) for row in dropped}) > 32  # each example has a mask of its own


def test_a_mask_is_of_the_key():
    feature = jnp.ones((8, 1, 1, 50))
    first, again, other = (mask_channels(jax.random.key(seed), feature, 0.5) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    np.testing.assert_array_equal(mask_channels(jax.random.key(0), feature, 0.0), feature)
    for ratio in (-0.1, 1.0):
        with pytest.raises(InputError, match=f"ratio={ratio}"):
            mask_channels(jax.random.key(0), feature, ratio)


def test_the_gradient_flows_through_what_the_mask_leaves():
    feature = jnp.asarray(STUDENT)
    gradient = jax.grad(lambda f: mask_channels(jax.random.key(3), f, 0.5).sum())(feature)
    np.testing.assert_array_equal(gradient, mask_channels(jax.random.key(3), jnp.ones(STUDENT.shape), 0.5))
    assert set(np.unique(gradient)) == {0.0, 1.0}
