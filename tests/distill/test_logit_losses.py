"""Published logit terms against float64 loops, points worked out by hand and gradients."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from representative import representatives
from scipy.special import entr, log_softmax, rel_entr, softmax

from snnkd_jax.distill.losses import (
    classifier_divergence,
    cross_entropy,
    error_aware_divergence,
    head_tail_divergence,
    inter_class_distance,
    intra_class_distance,
    kd_divergence,
    logit_deviation,
    negative_entropy,
    noise_smoothed_divergence,
    reliable_sharing,
    similar_steps_divergence,
    strong_to_weak,
    temporal_sharing,
)
from snnkd_jax.errors import InputError

B, T, K, C = 4, 3, 5, 6
TAU = 2.0

rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 2, (B, T, K)).astype(np.float32)
LOGITS[2, :, 3] += 10
TEACHER_LOGITS = rng.normal(0, 2, (B, K)).astype(np.float32)
FEATURE = rng.normal(0, 1, (B, C)).astype(np.float32)
NOISE = np.random.default_rng(1).normal(size=(B, T, K)).astype(np.float32)
KERNEL, BIAS = rng.normal(0, 1, (C, K)).astype(np.float32), rng.normal(0, 1, K).astype(np.float32)

# Example 0 has no right step, examples 1 and 3 have some, all steps of example 2 are right.
PREDICTED = LOGITS.argmax(axis=-1)
LABELS = np.array([min(set(range(K)) - set(PREDICTED[0])), PREDICTED[1, 0], 3, PREDICTED[3, 1]], np.int32)


def kl(teacher, student, tau=TAU):
    return tau**2 * rel_entr(softmax(teacher / tau), softmax(student / tau)).sum()


def by_row(loop):
    """Applies a loop's body to every (logits, teacher logits) of [..., K]."""

    def over(logits, teacher):
        found = np.empty(logits.shape[:-1])
        for index in np.ndindex(found.shape):
            found[index] = loop(logits[index], teacher[index[0]])
        return found

    return over


def loop_head_tail(z, teacher):
    p, q = softmax(teacher / TAU), softmax(z / TAU)
    mass, gaps = 0.0, [0.0, 0.0]
    for k in sorted(range(K), key=lambda k: -p[k]):
        crosses = mass + p[k] > 0.5
        gaps[int(crosses and mass > 0)] += abs(p[k] - q[k])
        mass += p[k]
    return (gaps[0] * kl(teacher, z) + gaps[1] * kl(z, teacher)) / sum(gaps)


def loop_intra(logits, teacher):
    found = np.empty(logits.shape[1:])
    p, q = softmax(teacher / TAU, axis=-1), softmax(logits / TAU, axis=-1)
    for index in np.ndindex(found.shape):
        found[index] = TAU**2 * (1 - np.corrcoef(p[:, index[-1]], q[:, *index])[0, 1])
    return found


def loop_sharing(logits):
    found = np.empty((B, T))
    for b in range(B):
        right = [z for z in logits[b] if z.argmax() == LABELS[b]]
        target = sum(right) / len(right) if right else np.zeros(K)
        found[b] = [kl(target, z) for z in logits[b]]
    return found


def loop_reliable(logits):
    found = loop_sharing(logits)
    reliable = [any(z.argmax() == LABELS[b] for z in logits[b]) for b in range(B)]
    found[np.logical_not(reliable)] = 0
    return found * B / sum(reliable)


def loop_error_aware(logits, teacher):
    found = np.empty((B, T))
    for b, t in np.ndindex(B, T):
        z, a, y = logits[b, t].copy(), teacher[b].copy(), LABELS[b]
        w = int(z.argmax())
        if w != y:
            z[w], a[w], a[y] = z[y], min(a[w], a[y]), min(a[w], a[y])
        found[b, t] = kl(a, z)
    return found


def similar_targets(logits):
    """z'[t] of every step, from softmax weights that are worked out one by one."""
    found = np.zeros(logits.shape)
    for b, z in enumerate(logits):
        for t in range(len(z)):
            scores = {
                s: (1 - entr(softmax(z[s])).sum() / np.log(K)) * (z[t] @ z[s]) / np.sqrt((z[t] @ z[t]) * (z[s] @ z[s]))
                for s in range(len(z))
                if s != t
            }
            total = sum(np.exp(score) for score in scores.values())
            found[b, t] = sum(np.exp(score) / total * z[s] for s, score in scores.items())
    return found


def loop_similar(logits):
    targets = similar_targets(logits)
    return np.array([[kl(targets[b, t], logits[b, t]) for t in range(T)] for b in range(B)])


def loop_noise_smoothed(logits, teacher):
    found = np.empty((B, T))
    for b, t in np.ndindex(B, T):
        z = logits[b, t]
        mean = z.sum() / K
        noisy = mean + ((z - mean) ** 2).sum() / (K - 1) * NOISE[b, t].astype(float)
        q = 0.9 * softmax(z / TAU) + 0.1 * softmax(noisy / TAU)
        found[b, t] = TAU**2 * rel_entr(softmax(teacher[b] / TAU), q).sum()
    return found


def loop_strong_and_weak(logits):
    means = [np.mean([softmax(z).max() for z in logits[:, t]]) for t in range(logits.shape[1])]
    return int(np.argmax(means)), int(np.argmin(means))


def loop_strong_to_weak(logits):
    s, w = loop_strong_and_weak(logits)
    return np.array([kl(z[s], z[w]) for z in logits])


# name: (term of (logits, teacher logits), its loop)
TERMS = {
    "deviation": (lambda z, _: logit_deviation(z, 0.7), by_row(lambda z, _: ((z - 0.7) ** 2).sum() / K)),
    "entropy": (lambda z, _: negative_entropy(z, TAU), by_row(lambda z, _: -entr(softmax(z / TAU)).sum())),
    "head and tail": (lambda z, a: head_tail_divergence(z, a[:, None], TAU), by_row(loop_head_tail)),
    "inter": (
        lambda z, a: inter_class_distance(z, a[:, None], TAU),
        by_row(lambda z, a: TAU**2 * (1 - np.corrcoef(softmax(a / TAU), softmax(z / TAU))[0, 1])),
    ),
    "intra": (lambda z, a: intra_class_distance(z, a[:, None], TAU), loop_intra),
    "sharing": (
        lambda z, _: temporal_sharing(z, jnp.asarray(LABELS)[: len(z)], TAU),
        lambda z, _: loop_sharing(z),
    ),
    "strong to weak": (lambda z, _: strong_to_weak(z, TAU), lambda z, _: loop_strong_to_weak(z)),
    "reliable sharing": (
        lambda z, _: reliable_sharing(z, jnp.asarray(LABELS)[: len(z)], TAU),
        lambda z, _: loop_reliable(z),
    ),
    "error aware": (
        lambda z, a: error_aware_divergence(z, a[:, None], jnp.asarray(LABELS)[: len(z)], TAU),
        loop_error_aware,
    ),
    "similar steps": (lambda z, _: similar_steps_divergence(z, TAU), lambda z, _: loop_similar(z)),
    "noise smoothed": (
        lambda z, a: noise_smoothed_divergence(z, a[:, None], jnp.asarray(NOISE)[: len(z), : z.shape[1]], TAU),
        loop_noise_smoothed,
    ),
}
SHAPES = {"intra": (T, K), "strong to weak": (B,)}


def gradients(name, logits=LOGITS, teacher_logits=TEACHER_LOGITS):
    function = TERMS[name][0]
    return jax.jit(jax.grad(lambda z, a: function(z, a).sum(), argnums=(0, 1)))(logits, teacher_logits)


@pytest.mark.parametrize("name", TERMS)
def test_agrees_with_a_float64_loop(name):
    function, loop = TERMS[name]
    found = jax.jit(function)(LOGITS, TEACHER_LOGITS)
    assert found.shape == SHAPES.get(name, (B, T))
    expected = loop(LOGITS.astype(np.float64), TEACHER_LOGITS.astype(np.float64))
    agrees(found, expected, rtol=2e-5, atol=1e-6, name=name)


@pytest.mark.parametrize("name", ["deviation", "entropy", "inter", "intra", "error aware", "noise smoothed"])
def test_gradient_is_the_difference_quotient(name):
    z, teacher, h = LOGITS.astype(np.float64), TEACHER_LOGITS.astype(np.float64), 1e-5
    expected = np.empty(z.shape)
    for index in np.ndindex(z.shape):
        step = np.zeros(z.shape)
        step[index] = h
        up, down = (TERMS[name][1](z + sign * step, teacher).sum() for sign in (1, -1))
        expected[index] = (up - down) / (2 * h)
    agrees(gradients(name)[0], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max(), name=f"{name}, gradient")


@pytest.mark.parametrize("name", ["head and tail", "inter", "intra", "error aware", "noise smoothed"])
def test_the_teacher_gets_no_gradient(name):
    student, teacher = gradients(name)
    assert np.all(np.abs(student).max(axis=-1) > 1e-6)
    np.testing.assert_array_equal(teacher, np.zeros((B, K)))


# Rows of logits: constant, a one-hot soft label of either sign, and a label that is all of one class.
EXTREMES = {
    "constant": np.zeros(K),
    "large and constant": np.full(K, 1e4),
    "one hot": np.array([1e4, 0, 0, 0, 0]),
    "one cold": np.array([-1e4, 0, 0, 0, 0]),
    "both": np.array([0, -1e4, 1e4, 0, 0]),
}


CORNERS = [(*pair, *size) for pair in itertools.product(EXTREMES, EXTREMES) for size in ((1, 1), (1, 2), (2, 1))]


@jax.jit
def values_and_gradients(z, a):
    """Of the sum of each term; one program, as there are many terms."""
    terms = {name: lambda z, function=function: function(z, a).sum() for name, (function, _) in TERMS.items()}
    return {name: jax.value_and_grad(term)(z) for name, term in terms.items()}


@pytest.mark.parametrize(("teacher", "student", "batch", "steps"), representatives(CORNERS, CORNERS[:1].__contains__))
def test_extreme_logits_a_batch_of_one_and_one_step_are_finite(student, teacher, batch, steps):
    z = jnp.zeros((batch, steps, K)).at[0, 0].set(EXTREMES[student])
    a = jnp.tile(jnp.asarray(EXTREMES[teacher], jnp.float32), (batch, 1))
    for name, (value, gradient) in values_and_gradients(z, a).items():
        assert np.isfinite(value), name
        assert np.all(np.isfinite(gradient)), name


def test_a_class_without_probability_counts_for_nothing():
    """Against SciPy, whose relative entropy is 0 log 0 = 0."""
    masked, z = np.array([0.5, -np.inf, 0.2]), np.array([0.0, 1.0, -1.0])
    expected = rel_entr(softmax(masked), softmax(z)).sum()
    found, gradient = jax.value_and_grad(lambda z: kd_divergence(z, jnp.asarray(masked), 1.0))(jnp.asarray(z))
    agrees(found, expected, rtol=1e-6)
    agrees(gradient, softmax(z) - softmax(masked), rtol=1e-5, name="KD, gradient")
    agrees(negative_entropy(jnp.asarray(masked), 1.0), -entr(softmax(masked)).sum(), rtol=1e-6)


def test_divergences_of_bfloat16_logits_are_computed_in_float32():
    """Of 1000 classes: log p, about -7, has steps of 1/32 in bfloat16."""
    z, a = (jnp.asarray(np.random.default_rng(i).normal(size=1000), jnp.bfloat16) for i in (0, 1))
    found = kd_divergence(z, a, 2.0)
    assert found.dtype == jnp.float32
    agrees(found, kl(np.asarray(a, np.float64), np.asarray(z, np.float64)), rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -2.0, float("nan"), float("inf")])
def test_temperatures_that_are_none_are_refused(temperature):
    z, a = jnp.asarray(LOGITS[:, 0]), jnp.asarray(TEACHER_LOGITS)
    for term in (kd_divergence, head_tail_divergence, inter_class_distance):
        with pytest.raises(InputError, match="temperature="):
            term(z, a, temperature)
    with pytest.raises(InputError, match="temperature="):
        negative_entropy(z, temperature)


@pytest.mark.slow
def test_constants_may_be_arrays_and_traced():
    z, a = jnp.asarray(LOGITS[:, 0]), jnp.asarray(TEACHER_LOGITS)
    constants: Any = [(jnp.float32(1), jnp.float32(0.5)), (jnp.float32(3), jnp.float32(1))]
    found = jax.vmap(lambda tau, mass: head_tail_divergence(z, a, tau, mass))(
        *map(jnp.array, zip(*constants, strict=True))
    )
    for traced, (tau, mass) in zip(found, constants, strict=True):
        expected = head_tail_divergence(z, a, float(tau), float(mass))
        np.testing.assert_allclose(traced, expected, rtol=1e-5)
        captured = jax.jit(lambda z, tau=tau, mass=mass: head_tail_divergence(z, a, tau, mass))
        np.testing.assert_allclose(captured(z), expected, rtol=1e-5)


def test_other_constants_out_of_range_are_refused():
    z, a = jnp.asarray(LOGITS[:, 0]), jnp.asarray(TEACHER_LOGITS)
    for head_mass in (0.0, 1.5):
        with pytest.raises(InputError, match=f"head_mass={head_mass}"):
            head_tail_divergence(z, a, 1.0, head_mass)
    for eps in (-0.1, 1.0):
        with pytest.raises(InputError, match=f"label_smoothing={eps}"):
            cross_entropy(z, jnp.asarray(LABELS), eps)


# --- EnOF


def test_classifier_divergence_reads_the_feature_with_the_teachers_classifier():
    found = classifier_divergence(*map(jnp.asarray, (FEATURE, KERNEL, BIAS, TEACHER_LOGITS)), temperature=TAU)
    feature = FEATURE.astype(np.float64)
    expected = [
        kl(TEACHER_LOGITS[b].astype(np.float64), [feature[b] @ KERNEL[:, k] + BIAS[k] for k in range(K)] / np.ones(K))
        for b in range(B)
    ]
    agrees(found, expected, rtol=2e-5, name="classifier")


def test_classifier_divergence_by_hand():
    # z = (log 3, 0), q = (3/4, 1/4), p = (1/2, 1/2)
    arguments = [jnp.array(x) for x in ([[1.0]], [[np.log(3), 1.0]], [0.0, -1.0], [[5.0, 5.0]])]
    np.testing.assert_allclose(classifier_divergence(*arguments, temperature=1.0), [np.log(4 / 3) / 2], rtol=1e-5)


def test_only_the_feature_gets_a_gradient_through_the_teachers_classifier():
    arguments = [jnp.asarray(x) for x in (FEATURE, KERNEL, BIAS, TEACHER_LOGITS)]
    feature, *others = jax.grad(lambda *x: classifier_divergence(*x, temperature=TAU).sum(), argnums=(0, 1, 2, 3))(
        *arguments
    )
    q = softmax((FEATURE.astype(np.float64) @ KERNEL + BIAS) / TAU, axis=-1)
    p = softmax(TEACHER_LOGITS.astype(np.float64) / TAU, axis=-1)
    agrees(feature, TAU * (q - p) @ KERNEL.T, rtol=1e-4, atol=1e-5, name="classifier, gradient")
    for gradient in others:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


# --- TET, TSER


def test_deviation_and_entropy_by_hand():
    np.testing.assert_allclose(logit_deviation(jnp.array([[1.0, 3.0]]), 1.0), [(0 + 4) / 2], rtol=1e-6)
    quarter = jnp.log(jnp.array([1.0, 9.0]))  # at tau 2 the odds are 1 to 3
    np.testing.assert_allclose(negative_entropy(quarter, 2.0), np.log(0.25) / 4 + 3 * np.log(0.75) / 4, rtol=1e-6)
    np.testing.assert_allclose(negative_entropy(jnp.zeros(8), 2.0), -np.log(8), rtol=1e-6)
    np.testing.assert_allclose(negative_entropy(jnp.array([1e4, 0.0]), 2.0), 0, atol=1e-6)


# --- TKS


def test_labels_of_the_tests_cover_no_right_step_some_and_all():
    right = (LABELS[:, None] == PREDICTED).sum(axis=1)
    assert right[0] == 0
    assert 0 < right[1] < T
    assert right[2] == T


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # p = (3/4, 1/4) is right; the other step has q = (1/4, 3/4)
        ([[np.log(3), 0.0], [0.0, np.log(3)]], [0, 0.75 * np.log(3) - 0.25 * np.log(3)]),
        # both are right, of q = (9/10, 1/10) and (1/2, 1/2): the mean of the logits is (log 3, 0), p = (3/4, 1/4)
        (
            [[2 * np.log(3), 0.0], [0.0, 0.0]],
            [0.75 * np.log(5 / 6) + 0.25 * np.log(5 / 2), 0.75 * np.log(3 / 2) + 0.25 * np.log(1 / 2)],
        ),
        # none is right: the target is uniform, q = (1/4, 3/4)
        ([[0.0, np.log(3)]], [np.log(4 / 3) / 2]),
    ],
)
def test_sharing_by_hand(steps, expected):
    found = temporal_sharing(jnp.array([steps]), jnp.array([0]), 1.0)
    np.testing.assert_allclose(found, [expected], rtol=1e-5, atol=1e-6)


def test_what_the_right_steps_teach_is_a_constant():
    z = LOGITS.astype(np.float64)
    right = (LABELS[:, None] == PREDICTED)[..., None]
    target = (z * right).sum(axis=1, keepdims=True) / np.maximum(right.sum(axis=1, keepdims=True), 1)
    expected = TAU * (softmax(z / TAU, axis=-1) - softmax(target / TAU, axis=-1))
    agrees(gradients("sharing")[0], expected, rtol=1e-4, atol=1e-5, name="sharing, gradient")


def test_sharing_without_a_correct_output_is_nothing():
    z = jnp.array([[[0.0, 1.0], [0.0, 2.0]]])
    value, gradient = jax.value_and_grad(lambda z: reliable_sharing(z, jnp.array([0]), TAU).sum())(z)
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, np.zeros(z.shape))


def test_reliable_sharing_has_the_gradient_of_a_constant_target():
    z = LOGITS.astype(np.float64)
    right = (LABELS[:, None] == PREDICTED)[..., None]
    target = (z * right).sum(axis=1, keepdims=True) / np.maximum(right.sum(axis=1, keepdims=True), 1)
    expected = TAU * (softmax(z / TAU, axis=-1) - softmax(target / TAU, axis=-1)) * B / 3
    expected[0] = 0  # without a right step; the other three share the mean
    agrees(gradients("reliable sharing")[0], expected, rtol=1e-4, atol=1e-5, name="reliable sharing, gradient")


# --- SeAl-KD


def test_error_aware_divergence_by_hand():
    """The step is wrong by class 1: of z' = (0, 0, 0) and zA' = (0, 0, log 2) p is (1/4, 1/4, 1/2)."""
    z, a = jnp.array([[[0.0, 3.0, 0.0]]]), jnp.array([[[5.0, 0.0, np.log(2)]]])
    function = lambda z, y: error_aware_divergence(z, a, jnp.array([y]), 1.0).sum()  # noqa: E731
    value, gradient = jax.value_and_grad(function)(z, 0)
    np.testing.assert_allclose(value, np.log(3 / 4) / 2 + np.log(3 / 2) / 2, rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 0], [2 / 3 - 1 / 2, 0, 1 / 3 - 1 / 2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(function(z, 1), kd_divergence(z, a, 1.0)[0, 0], rtol=1e-6)  # a right step: all classes


def test_similar_steps_by_hand():
    """Of two steps each is taught by the other, whatever the weights; of one, by none."""
    z = jnp.asarray(LOGITS[:, :2])
    np.testing.assert_allclose(similar_steps_divergence(z, TAU), kd_divergence(z, z[:, ::-1], TAU), rtol=1e-5)
    value, gradient = jax.value_and_grad(lambda z: similar_steps_divergence(z, TAU).sum())(z[:, :1])
    np.testing.assert_array_equal(value, 0)
    np.testing.assert_array_equal(gradient, np.zeros((B, 1, K)))


def test_what_similar_steps_teach_is_a_constant():
    z = LOGITS.astype(np.float64)
    expected = TAU * (softmax(z / TAU, axis=-1) - softmax(similar_targets(z) / TAU, axis=-1))
    agrees(gradients("similar steps")[0], expected, rtol=1e-4, atol=1e-5, name="similar steps, gradient")


# --- HTA-KL


@pytest.mark.parametrize(
    ("head_mass", "expected"),
    [
        (0.5, 0.2 * np.log(3 * 5)),  # head {1}, gap 0.4 of 0.8: half the sum of both divergences
        (0.92, 0.2 * np.log(3 * 5)),  # head {1, 0}: class 0 has no gap
        (0.95, 0.2 * np.log(3 * 5)),  # head {1, 0}: class 2 crosses the mass, and is in the tail
        (0.05, 0.2 * np.log(3 * 5)),  # the first class is in the head, though it is above the mass
        (1.0, 0.6 * np.log(3) - 0.1 * np.log(5)),  # all is head: the forward divergence
    ],
)
def test_head_and_tail_by_hand(head_mass, expected):
    teacher, student = (jnp.log(jnp.array(x)) for x in ([0.3, 0.6, 0.1], [0.3, 0.2, 0.5]))
    np.testing.assert_allclose(head_tail_divergence(student, teacher, 1.0, head_mass), expected, rtol=1e-5)


def test_a_head_of_all_the_mass_has_the_classes_that_rounding_leaves_nothing_for():
    """p = (1, 1e-13): the forward divergence alone, log 2, where the reverse one is 14.3."""
    found = head_tail_divergence(jnp.zeros(2), jnp.array([0.0, -30.0]), 1.0, 1.0)
    np.testing.assert_allclose(found, np.log(2), rtol=1e-5)


def test_head_and_tail_of_the_teachers_own_logits_is_zero():
    z = jnp.asarray(TEACHER_LOGITS)
    value, gradient = jax.value_and_grad(lambda s: head_tail_divergence(s, z, TAU).sum())(z)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.slow
def test_the_weights_of_head_and_tail_are_constants_for_the_gradient():
    z, teacher = LOGITS[1, 0].astype(np.float64), TEACHER_LOGITS[1].astype(np.float64)
    forward, reverse = kl(teacher, z), kl(z, teacher)
    w = (loop_head_tail(z, teacher) - reverse) / (forward - reverse)
    assert 0.01 < w < 0.99
    p, q = softmax(teacher / TAU), softmax(z / TAU)
    log_ratio = log_softmax(z / TAU) - log_softmax(teacher / TAU)
    expected = TAU * (w * (q - p) + (1 - w) * q * (log_ratio - (q * log_ratio).sum()))
    found = jax.grad(lambda s: head_tail_divergence(s, jnp.asarray(TEACHER_LOGITS[1]), TAU))(jnp.asarray(LOGITS[1, 0]))
    agrees(found, expected, rtol=1e-4, atol=1e-6, name="head and tail, gradient")


# --- DIST


def test_correlations_by_hand():
    # (2, 1, 1) and (1, 2, 1), centred: (2, -1, -1) and (-1, 2, -1), a correlation of -3 / 6
    p, q = (jnp.log(jnp.array(x)) for x in ([2.0, 1.0, 1.0], [1.0, 2.0, 1.0]))
    np.testing.assert_allclose(inter_class_distance(q, p, 1.0), 1.5, rtol=1e-5)
    np.testing.assert_allclose(inter_class_distance(p, p, 3.0), 0, atol=1e-5)
    # the same numbers down the batch, the probabilities of class 0 of three examples
    p, q = (jnp.log(jnp.array([[x, 1 - x] for x in column])) for column in ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25]))
    np.testing.assert_allclose(intra_class_distance(q, p, 1.0), [1.5, 1.5], rtol=1e-5)


@pytest.mark.slow
def test_rows_and_columns_that_do_not_vary_have_no_correlation_and_no_gradient():
    z, varying = jnp.zeros((B, K)), jnp.asarray(TEACHER_LOGITS)
    for distance, size in [(inter_class_distance, B), (intra_class_distance, K)]:
        value, gradient = jax.value_and_grad(lambda s, distance=distance: distance(s, varying, 3.0).sum())(z)
        np.testing.assert_allclose(value, 9 * size, rtol=1e-6)
        np.testing.assert_array_equal(gradient, np.zeros((B, K)))
    alone = intra_class_distance(varying[:1], -varying[:1], 3.0)  # a batch of one
    np.testing.assert_allclose(alone, np.full(K, 9), rtol=1e-6)


def test_the_distance_between_examples_is_of_the_batch():
    z, teacher = jnp.asarray(LOGITS[:, 0]), jnp.asarray(TEACHER_LOGITS)
    assert intra_class_distance(z, teacher, TAU).shape == (K,)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        intra_class_distance(z[order], teacher[order], TAU), intra_class_distance(z, teacher, TAU), rtol=1e-5
    )


# --- the most and the least confident steps


def test_strong_and_weak_by_hand():
    # one example of two classes; step 1 is the most confident, step 2 the least
    z = jnp.log(jnp.array([[[3.0, 1.0], [9.0, 1.0], [2.0, 3.0]]]))
    np.testing.assert_allclose(strong_to_weak(z, 1.0), [0.9 * np.log(9 / 4) + 0.1 * np.log(1 / 6)], rtol=1e-5)


def test_strong_and_weak_are_chosen_by_the_mean_of_the_batch():
    # confidences by step: 0.9 0.8 0.6 and 0.5 0.8 0.7; the means 0.7, 0.8, 0.65 choose steps 1 and 2 for both
    z = jnp.log(jnp.array([[[c, 1 - c] for c in row] for row in ([0.9, 0.8, 0.6], [0.5, 0.8, 0.7])]))
    expected = [0.8 * np.log(0.8 / c) + 0.2 * np.log(0.2 / (1 - c)) for c in (0.6, 0.7)]
    np.testing.assert_allclose(strong_to_weak(z, 1.0), expected, rtol=1e-5)


def test_only_the_step_that_learns_gets_a_gradient():
    teacher, student = loop_strong_and_weak(LOGITS.astype(np.float64))
    assert teacher != student
    q = softmax(LOGITS.astype(np.float64) / TAU, axis=-1)
    expected = np.zeros((B, T, K))
    expected[:, student] = TAU * (q[:, student] - q[:, teacher])
    agrees(gradients("strong to weak")[0], expected, rtol=1e-4, atol=1e-5, name="strong to weak, gradient")


def test_one_step_has_nothing_to_teach_itself():
    z = jnp.asarray(LOGITS[:, :1])
    value, gradient = jax.value_and_grad(lambda z: strong_to_weak(z, TAU).sum())(z)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
