"""Loss terms and distillation objectives against SciPy, analytic gradients and a second implementation in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from scipy.special import log_softmax, rel_entr, softmax

from snnkd_jax.distill.losses import cross_entropy, kd_divergence, margin_distance, negative_mean
from snnkd_jax.distill.objective import PRESETS, Guidance, Objective, StagePair, loss_terms, pair_stages, weighted_sum
from snnkd_jax.errors import InputError

B, T, K = 4, 3, 5
NAN, INF = float("nan"), float("inf")

rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 2, (B, T, K)).astype(np.float32)
TEACHER_LOGITS = rng.normal(0, 2, (B, K)).astype(np.float32)
LABELS = np.array([0, 4, 2, 2], np.int32)
FEATURES = [
    tuple(rng.normal(0, 3, shape).astype(np.float32) for _ in range(2))
    for shape in [(B, 4, 4, 2), (B, 2, 3, 3), (B, 1, 1, 6)]
]


def close(found, expected, name=None, rtol=1e-5):
    agrees(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max(), name=name)


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
        (-0.7, -0.5, -1.0, 0.0),  # negative target, student below: left in peace
        (0.0, -4.0, -1.0, 1.0),  # the target is the margin
        (-3.0, -4.0, -1.0, 0.0),  # below the margin: left in peace
        (-1.0, -4.0, -1.0, 0.0),
        (-1.0, 0.0, -1.0, 0.0),  # a target of 0 is not positive
        (1.0, 0.0, -1.0, 1.0),
    ],
)
def test_margin_distance_at_points_worked_out_by_hand(s, t, m, d):
    student, teacher = jnp.full((1, 1, 1, 1), s), jnp.full((1, 1, 1, 1), t)
    agrees(margin_distance(student, teacher, jnp.array([m])), [d], rtol=1e-6, name="margin distance by hand")


def loop_margin_distance(student, teacher, margin):
    d = np.zeros(len(student))
    for (b, i, j, c), s in np.ndenumerate(student.astype(np.float64)):
        target = max(float(teacher[b, i, j, c]), float(margin[c]))
        if s > target or target > 0:
            d[b] += (s - target) ** 2
    return d


def loop_negative_mean(x):
    by_channel = x.astype(np.float64).reshape(-1, x.shape[-1]).T
    return np.array([values[values < 0].mean() if (values < 0).any() else 0.0 for values in by_channel])


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


# --- objectives


def terms_of(objective, logits=LOGITS, labels=LABELS, teacher_logits=TEACHER_LOGITS, features=FEATURES):
    return loss_terms(
        objective, jnp.asarray(logits), jnp.asarray(labels), guidance(objective, teacher_logits, features)
    )


def guidance(objective, teacher_logits, features) -> Guidance:
    """The teacher's current is its feature, its output the rectified one; the student is connected as it is."""
    pairs = [(jnp.asarray(s), jnp.asarray(t)) for s, t in features]
    output = (lambda t: t) if objective.teacher_features == "pre_activations" else (lambda t: jnp.maximum(t, 0))
    return Guidance(jnp.asarray(teacher_logits), tuple(StagePair(s, s, output(t)) for s, t in pairs))


def loop_terms(objective: Objective) -> dict[str, np.ndarray]:
    """The terms of every example, one at a time, from the table of the module's docstring."""
    tau, eps = objective.temperature, objective.label_smoothing

    def ce(z, y):
        q = np.full(K, eps / K)
        q[y] += 1 - eps
        return -(q * log_softmax(z)).sum()

    def kl(teacher, student):
        return tau**2 * rel_entr(softmax(teacher / tau), softmax(student / tau)).sum()

    terms = {name: np.zeros(B) for name in ("ce", "kd", "steps", "feature")}
    for b, (steps, teacher, y) in enumerate(
        zip(LOGITS.astype(float), TEACHER_LOGITS.astype(float), LABELS, strict=True)
    ):
        mean = steps.sum(axis=0) / T
        read_outs = steps if objective.per_step else [mean]
        terms["ce"][b] = np.mean([ce(z, y) for z in read_outs])
        terms["kd"][b] = np.mean([kl(teacher, z) for z in read_outs])
        terms["steps"][b] = np.mean([kl(mean, z) for z in steps])
    for weight, (student, teacher) in zip((1 / 4, 1 / 2, 1), FEATURES, strict=True):
        terms["feature"] += weight * loop_margin_distance(student, teacher, loop_negative_mean(teacher)) / 1000
    return {name: term for name, term in terms.items() if objective.weights[name] > 0}


OLDER = ("none", "kdsnn-response", "kdsnn-feature", "kdsnn", "temporal")
OBJECTIVES = {name: PRESETS[name] for name in OLDER} | {
    "everything, per step": Objective(0.3, 0.7, 0.2, 0.4, 2.0, per_step=True, label_smoothing=0.1),
    "everything, by the mean": Objective(0.3, 0.7, 0.2, 0.4, 2.0, label_smoothing=0.1),
    "no labels": Objective(ce_weight=0.0, kd_weight=1.0),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_and_loss_agree_with_a_float64_loop(name):
    objective = OBJECTIVES[name]
    terms, expected = terms_of(objective), loop_terms(objective)
    assert terms.keys() == expected.keys()
    for term in terms:
        assert terms[term].shape == (B,)
        close(terms[term], expected[term], "objectives")
    weights = {
        "ce": objective.ce_weight,
        "kd": objective.kd_weight,
        "steps": objective.steps_weight,
        "feature": objective.feature_weight,
    }
    close(weighted_sum(objective, terms), sum(weights[term] * expected[term].sum() / B for term in expected))


def test_weighted_sum_by_hand():
    objective = Objective(ce_weight=0.5, kd_weight=2.0)
    terms = {"ce": jnp.array([1.0, 3.0]), "kd": jnp.array([0.0, 5.0])}
    np.testing.assert_allclose(weighted_sum(objective, terms), 0.5 * 2 + 2 * 2.5, rtol=1e-6)


def attention(x):
    q = np.square(x.astype(float)).sum(-1)
    return q / np.sqrt(np.square(q).sum((1, 2), keepdims=True))


def test_feature_kinds_take_the_stages_they_say():
    """Each by its formula in NumPy; `connected` and the teacher's output stand in for the two sides."""
    rectified = [(s.astype(float), np.maximum(t, 0).astype(float)) for s, t in FEATURES]
    expected = {
        "last": np.square(rectified[-1][0] - rectified[-1][1]).sum((1, 2, 3)),
        "blur": np.square(rectified[-1][0] - rectified[-1][1]).sum((1, 2, 3)),
        "stages": sum(np.square(s - t).mean((1, 2, 3)) for s, t in rectified),
        "attention": sum(np.square(attention(s) - attention(t)).mean((1, 2)) for s, t in rectified),
    }
    for kind, value in expected.items():
        objective = Objective(ce_weight=0.0, feature=kind, feature_weight=1.0)  # pyright: ignore[reportArgumentType]
        close(terms_of(objective)["feature"], value, "objectives")


def test_classifier_kind_reads_the_last_stage_averaged_over_the_map():
    last = np.abs(FEATURES[-1][0])
    head = np.random.default_rng(5).normal(size=(last.shape[-1], K)).astype(np.float32), np.ones(K, np.float32)
    given = Guidance(jnp.asarray(TEACHER_LOGITS), (), jnp.asarray(last), (jnp.asarray(head[0]), jnp.asarray(head[1])))
    objective = Objective(ce_weight=0.0, feature="classifier", feature_weight=1.0, temperature=2.0)
    found = loss_terms(objective, jnp.asarray(LOGITS), jnp.asarray(LABELS), given)["feature"]
    read = last.mean((1, 2)).astype(float) @ head[0] + head[1]
    expected = [4 * rel_entr(softmax(t / 2), softmax(z / 2)).sum() for t, z in zip(TEACHER_LOGITS, read, strict=True)]
    close(found, np.array(expected), "objectives")


@pytest.mark.parametrize("per_step", [True, False])
def test_dist_kind_is_the_sum_of_its_two_correlations(per_step):
    p = softmax(TEACHER_LOGITS.astype(float) / 4, axis=-1)
    read_outs = [LOGITS[:, t] for t in range(T)] if per_step else [LOGITS.mean(1)]
    total = 0.0
    for z in read_outs:
        q = softmax(z.astype(float) / 4, axis=-1)
        rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
        columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
        total += 16 * (rows + columns) / len(read_outs)
    objective = Objective(ce_weight=0.0, kd="dist", kd_weight=1.0, temperature=4.0, per_step=per_step)
    np.testing.assert_allclose(terms_of(objective)["kd"].mean(), total, rtol=1e-4)


def test_steps_kinds_by_their_formulas():
    z = LOGITS.astype(float)
    log_q = z / 4 - np.log(np.exp(z / 4).sum(-1, keepdims=True))
    expected = {
        "entropy": (np.exp(log_q) * log_q).sum(-1).mean(1),
        "deviation": np.square(z - 1).mean((1, 2)),
    }
    for kind, value in expected.items():
        objective = Objective(steps=kind, steps_weight=1.0)  # pyright: ignore[reportArgumentType]
        close(terms_of(objective)["steps"], value, "objectives")
    sure = z.copy()
    sure[:, 0], sure[:, -1] = 5 * z[:, 0], 0.1 * z[:, -1]
    p, q = softmax(sure[:, 0] / 2, axis=-1), softmax(sure[:, -1] / 2, axis=-1)
    for kind, value in (("strong2weak", rel_entr(p, q)), ("weak2strong", rel_entr(q, p))):
        objective = Objective(steps=kind, steps_weight=1.0, temperature=2.0)  # pyright: ignore[reportArgumentType]
        close(terms_of(objective, logits=sure.astype(np.float32))["steps"], 4 * value.sum(-1), "objectives")


@pytest.mark.parametrize("name", PRESETS)
def test_every_term_of_a_preset_moves_the_student(name):
    """Logits for `ce`, `kd` and `steps`; for `feature` the students' stages, here scaled by powers of one number."""
    objective = PRESETS[name]
    head = jnp.ones((FEATURES[-1][0].shape[-1], K)).at[0].set(jnp.arange(K)), jnp.zeros(K)

    def term(logits, power, which):
        stages = [jnp.abs(jnp.asarray(student)) ** power for student, _ in FEATURES]
        given = guidance(objective, TEACHER_LOGITS, [(s, t) for s, (_, t) in zip(stages, FEATURES, strict=True)])
        given = dataclasses.replace(given, last=stages[-1], head=head)
        return loss_terms(objective, logits, jnp.asarray(LABELS), given)[which].mean()

    for which in (which for which, weight in objective.weights.items() if weight):
        slope = jax.grad(term, argnums=1 if which == "feature" else 0)(jnp.asarray(LOGITS), 1.5, which)
        assert np.all(np.isfinite(slope))
        assert np.abs(slope).max() > 1e-6, which


@pytest.mark.parametrize("name", ["everything, per step", "everything, by the mean"])
def test_terms_of_an_example_do_not_depend_on_the_others(name):
    before = terms_of(OBJECTIVES[name])
    logits, labels, teacher_logits = LOGITS.copy(), LABELS.copy(), TEACHER_LOGITS.copy()
    logits[1], teacher_logits[1], labels[1] = 2 * LOGITS[1], -TEACHER_LOGITS[1], 0
    features = [(student.copy(), teacher) for student, teacher in FEATURES]
    for student, _ in features:
        student[1] += 2.0
    after = terms_of(OBJECTIVES[name], logits, labels, teacher_logits, features)
    assert len(before) == 4
    others = np.array([0, 2, 3])
    for term in before:
        np.testing.assert_array_equal(before[term][others], after[term][others])
        assert abs(before[term][1] / after[term][1] - 1) > 1e-3


def test_a_teachers_feature_reaches_other_examples_only_through_the_margin():
    def distances(change: float):
        features = [(student, teacher.copy()) for student, teacher in FEATURES]
        for _, teacher in features:
            positive = teacher[1] > 0 if change > 0 else teacher[1] < 0
            teacher[1][positive] += change
        return np.asarray(terms_of(Objective(feature_weight=1.0), features=features)["feature"])

    others = np.array([0, 2, 3])
    np.testing.assert_array_equal(distances(1.0)[others], distances(2.0)[others])  # the positive part sets no margin
    assert np.all(distances(-1.0)[others] != distances(-2.0)[others])


def test_the_ensemble_term_has_the_gradient_of_a_constant_target():
    # Stopped or not: the mean of the logits minimises mean_t KL(. || z[t]), so what would flow through it is 0.
    tau = 3.0
    objective = Objective(ce_weight=0.0, steps_weight=1.0, temperature=tau)
    found = jax.grad(lambda z: loss_terms(objective, z, jnp.asarray(LABELS))["steps"].sum())(jnp.asarray(LOGITS))
    z = LOGITS.astype(np.float64)
    target = softmax(z.mean(axis=1, keepdims=True) / tau, axis=-1)
    close(found, tau * (softmax(z / tau, axis=-1) - target) / T)


def test_the_teacher_gets_no_gradient():
    objective = OBJECTIVES["everything, per step"]

    def loss(teacher_logits, teacher_features):
        features = [(student, t) for (student, _), t in zip(FEATURES, teacher_features, strict=True)]
        return weighted_sum(objective, terms_of(objective, teacher_logits=teacher_logits, features=features))

    teacher = (jnp.asarray(TEACHER_LOGITS), [jnp.asarray(teacher) for _, teacher in FEATURES])
    for gradient in jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(*teacher)):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_no_teacher_is_needed_where_no_term_compares_with_one():
    needs = {name: objective.needs_teacher for name, objective in PRESETS.items()}
    assert {name for name, needed in needs.items() if not needed} == {"none", "tet", "tks", "strong2weak"}
    assert not Objective(steps_weight=1.0).needs_teacher
    terms = loss_terms(Objective(steps_weight=1.0), jnp.asarray(LOGITS), jnp.asarray(LABELS))
    assert terms.keys() == {"ce", "steps"}


def test_presets_have_the_published_weights():
    temporal = PRESETS["temporal"]
    assert (temporal.ce_weight, temporal.kd_weight, temporal.steps_weight) == (1.0, 0.2, 0.5)
    assert (temporal.feature_weight, temporal.temperature, temporal.per_step) == (0.0, 3.0, True)
    response, feature, both = (PRESETS[name] for name in ("kdsnn-response", "kdsnn-feature", "kdsnn"))
    assert response.ce_weight + response.kd_weight == 1.0  # (1 - w) CE + w KL
    assert (feature.ce_weight, feature.kd_weight) == (1.0, 0.0)
    assert both == dataclasses.replace(response, feature_weight=feature.feature_weight)
    assert not any(preset.per_step for preset in (response, feature, both))  # by the mean over time
    assert PRESETS["none"].weights == {"ce": 1.0, "kd": 0.0, "steps": 0.0, "feature": 0.0}


@pytest.mark.parametrize(
    ("name", "weights", "others"),
    [
        ("kdsnn-last", {"ce": 1, "feature": 7e-5}, {"feature": "last"}),  # BKDSNN's code, its comparison on ImageNet
        ("lasnn", {"ce": 1, "feature": 1e3}, {"feature": "attention"}),  # beta of Zagoruyko & Komodakis's code
        ("sakd", {"ce": 1, "feature": 100}, {"feature": "stages"}),  # feature_b of train_KD.py; logitc_c, its KL, is 0
        ("bkdsnn", {"ce": 1, "kd": 1, "feature": 2e-3}, {"feature": "blur", "temperature": 2}),  # its code, CIFAR-10
        ("tet", {"ce": 1 - 1e-3, "steps": 1e-3}, {"steps": "deviation", "per_step": True}),  # lamb of its code
        ("tks", {"ce": 1 - 0.7 / 2, "steps": 0.7 / 2}, {"steps": "sharing", "temperature": 3}),  # mean of 0 to 0.7
        ("dist", {"ce": 1, "kd": 2}, {"kd": "dist", "temperature": 4}),  # its code, CIFAR-100: beta 1, gamma 1, times 2
        ("strong2weak", {"ce": 1, "steps": 1}, {"steps": "strong2weak", "temperature": 2}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_presets_have_the_weights_of_their_codes(name, weights, others):
    preset = PRESETS[name]
    assert preset.weights == pytest.approx(dict.fromkeys(("ce", "kd", "steps", "feature"), 0) | weights)
    assert {key: getattr(preset, key) for key in others} == others


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({f"{term}_weight": value}, f"{term}_weight")
        for term in ("ce", "kd", "steps", "feature")
        for value in (-1, NAN, INF)
    ]
    + [({"temperature": value}, "temperature") for value in (0.0, -1.0, NAN, INF)]
    + [({"label_smoothing": value}, "label_smoothing") for value in (-0.1, 1.0, NAN)]
    + [({"ce_weight": 0.0}, "weight")],
)
def test_an_objective_refuses_values_out_of_range_by_name(arguments, named):
    with pytest.raises(InputError, match=named):
        Objective(**arguments)


def shapes(**stages):
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in stages.items()}


def test_stages_are_paired_by_the_size_of_their_maps():
    student = shapes(a=(2, 4, 32, 32, 8), b=(2, 4, 16, 16, 16), c=(2, 4, 8, 8, 32), d=(2, 4, 8, 16, 32))
    teacher = shapes(x=(2, 16, 16, 64), y=(2, 8, 8, 128), z=(2, 4, 4, 256), u=(2, 16, 8, 1))
    assert pair_stages(student, teacher) == {"b": "x", "c": "y"}
    with pytest.raises(InputError, match="stage"):
        pair_stages(shapes(a=(2, 32, 32, 8)), teacher)


def test_margin_of_bfloat16_features_is_computed_in_float32():
    """The count of negatives would saturate at 256 in bfloat16."""
    x = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    low = jnp.asarray(x, jnp.bfloat16)
    np.testing.assert_allclose(negative_mean(low), negative_mean(jnp.asarray(x)), rtol=1e-2)
    assert margin_distance(low[None, :, None], low[None, :, None], negative_mean(low)).dtype == jnp.float32
    with pytest.raises(InputError, match=r"student's map has shape \(1, 20000, 1, 1\)"):
        margin_distance(low[None, :, None, :1], low[None, :, None], negative_mean(low))
