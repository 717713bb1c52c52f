"""Objectives and their terms against SciPy and loops over examples, in float64."""

import dataclasses
import functools
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
from representative import representatives, slow
from scipy.special import log_softmax, rel_entr, softmax

from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.guidance import pair_stages
from snnkd_jax.distill.objective import Objective, Term
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.terms import (
    KL,
    Attention,
    Classifier,
    CrossEntropy,
    Deviation,
    Dist,
    Ensemble,
    Entropy,
    ErrorAware,
    HeadTail,
    LastStage,
    Margin,
    NoiseSmoothed,
    Saliency,
    SelfDistillation,
    Sharing,
    SimilarSteps,
    StageMeans,
    StrongToWeak,
)
from snnkd_jax.errors import InputError

NAN, INF = float("nan"), float("inf")
STAGES = [f"stage{i}" for i in (1, 2, 3)]


def student_outputs(logits, stages: dict[str, Any] | None = None) -> StudentOutputs:
    return StudentOutputs.of(jnp.asarray(logits), {"stages": stages or {}})


def outputs(logits=LOGITS, teacher_logits=TEACHER_LOGITS, features=FEATURES) -> tuple[StudentOutputs, TeacherOutputs]:
    """The teacher's pre-activation is its feature, its stage the rectified one; the connector is the identity."""
    student, teacher = (
        {n: jnp.asarray(x) for n, x in zip(STAGES, xs, strict=True)} for xs in zip(*features, strict=True)
    )
    kernel = jnp.ones((FEATURES[-1][0].shape[-1], K)).at[0].set(jnp.arange(K))
    return (
        dataclasses.replace(
            student_outputs(logits, {n: x[:, None] for n, x in student.items()}),
            connected=student,
            key=jax.random.key(1),
        ),
        TeacherOutputs(
            jnp.asarray(teacher_logits),
            {n: jnp.maximum(x, 0) for n, x in teacher.items()},
            teacher,
            (kernel, jnp.zeros(K)),
        ),
    )


def values_of(objective: Objective, labels=LABELS, **changes) -> dict[str, Any]:
    compute = jax.jit(lambda *given: {term.name: term(*given) for term in objective.active})  # one program
    return compute(*outputs(**changes), jnp.asarray(labels))


def loop_values(objective: Objective) -> dict[str, np.ndarray]:
    """The terms of every example, one at a time, from the tables of the modules' docstrings."""
    constants = {"per_step": False, "label_smoothing": 0.0, "temperature": 4.0} | objective.constants
    tau, eps = constants["temperature"], constants["label_smoothing"]

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
        read_outs = steps if constants["per_step"] else [mean]
        terms["ce"][b] = np.mean([ce(z, y) for z in read_outs])
        terms["kd"][b] = np.mean([kl(teacher, z) for z in read_outs])
        terms["steps"][b] = np.mean([kl(mean, z) for z in steps])
    for weight, (student, teacher) in zip((1 / 4, 1 / 2, 1), FEATURES, strict=True):
        terms["feature"] += weight * loop_margin_distance(student, teacher, loop_negative_mean(teacher)) / 1000
    return {name: term for name, term in terms.items() if objective.weights.get(name, 0) > 0}


def everything(per_step: bool) -> Objective:
    weights = {"ce": 0.3, "kd": 0.7, "steps": 0.2, "feature": 0.4}
    objective = PRESETS["temporal" if per_step else "none"].with_weights(weights)
    return objective.with_constants(temperature=2.0, label_smoothing=0.1)


OBJECTIVES = {name: PRESETS[name] for name in ("none", "kdsnn-response", "kdsnn-feature", "kdsnn", "temporal")} | {
    "everything, per step": everything(per_step=True),
    "everything, by the mean": everything(per_step=False),
    "no labels": PRESETS["none"].with_weights({"ce": 0.0, "kd": 1.0}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_terms_and_loss_agree_with_a_float64_loop(name):
    objective = OBJECTIVES[name]
    values, expected = values_of(objective), loop_values(objective)
    assert values.keys() == expected.keys()
    for term in values:
        assert values[term].shape == (B,)
        close(values[term], expected[term], "objectives")
    weights = objective.weights
    close(objective.loss(values), sum(weights[term] * expected[term].sum() / B for term in expected))


def test_the_loss_by_hand():
    objective = PRESETS["none"].with_weights({"ce": 0.5, "kd": 2.0})
    values = {"ce": jnp.array([1.0, 3.0]), "kd": jnp.array([0.0, 5.0])}
    np.testing.assert_allclose(objective.loss(values), 0.5 * 2 + 2 * 2.5, rtol=1e-6)


def attention(x):
    q = np.square(x.astype(float)).sum(-1)
    return q / np.sqrt(np.square(q).sum((1, 2), keepdims=True))


def test_feature_terms_take_the_stages_they_say():
    """Each by its formula in NumPy."""
    rectified = [(s.astype(float), np.maximum(t, 0).astype(float)) for s, t in FEATURES]
    expected = {
        LastStage(): np.square(rectified[-1][0].mean((1, 2)) - rectified[-1][1].mean((1, 2))).sum(1),
        StageMeans(): 2 * sum(np.square(s - t).mean((1, 2, 3)) for s, t in rectified),  # the fewest channels are 2
        # The largest map has 16 pixels, so that what follows is 16 times the mean over a map.
        Attention(): 16 * sum(np.square(attention(s) - attention(t)).mean((1, 2)) for s, t in rectified),
    }
    for function, value in expected.items():
        close(function(*outputs(), jnp.asarray(LABELS)), value, "objectives")


def test_the_classifier_reads_the_last_stage_averaged_over_time_and_map():
    last = np.abs(np.random.default_rng(6).normal(size=(B, T, 2, 2, 6))).astype(np.float32)
    head = np.random.default_rng(5).normal(size=(last.shape[-1], K)).astype(np.float32), np.ones(K, np.float32)
    student = student_outputs(LOGITS, {"a": jnp.zeros((B, T, 4, 4, 2)), "b": jnp.asarray(last)})
    teacher = TeacherOutputs(jnp.asarray(TEACHER_LOGITS), head=(jnp.asarray(head[0]), jnp.asarray(head[1])))
    found = Classifier(temperature=2.0)(student, teacher, jnp.asarray(LABELS))
    read = last.mean((1, 2, 3)).astype(float) @ head[0] + head[1]
    expected = [4 * rel_entr(softmax(t / 2), softmax(z / 2)).sum() for t, z in zip(TEACHER_LOGITS, read, strict=True)]
    close(found, np.array(expected), "objectives")


@pytest.mark.parametrize("per_step", [True, False])
def test_dist_is_the_sum_of_its_two_correlations(per_step):
    p = softmax(TEACHER_LOGITS.astype(float) / 4, axis=-1)
    read_outs = [LOGITS[:, t] for t in range(T)] if per_step else [LOGITS.mean(1)]
    total = 0.0
    for z in read_outs:
        q = softmax(z.astype(float) / 4, axis=-1)
        rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
        columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
        total += 16 * (rows + columns) / len(read_outs)
    found = Dist(4.0, per_step)(*outputs(), jnp.asarray(LABELS))
    np.testing.assert_allclose(found.mean(), total, rtol=1e-4)


def test_terms_of_single_steps_by_their_formulas():
    z = LOGITS.astype(float)
    log_q = z / 4 - np.log(np.exp(z / 4).sum(-1, keepdims=True))
    close(Entropy()(*outputs(), jnp.asarray(LABELS)), (np.exp(log_q) * log_q).sum(-1).mean(1), "objectives")
    close(Deviation()(*outputs(), jnp.asarray(LABELS)), np.square(z - 1).mean((1, 2)), "objectives")
    sure = z.copy()
    sure[:, 0], sure[:, -1] = 5 * z[:, 0], 0.1 * z[:, -1]
    p, q = softmax(sure[:, 0] / 2, axis=-1), softmax(sure[:, -1] / 2, axis=-1)
    found = StrongToWeak(2.0)(*outputs(sure.astype(np.float32)), jnp.asarray(LABELS))
    close(found, 4 * rel_entr(p, q).sum(-1), "objectives")


@pytest.mark.parametrize("function", [CrossEntropy, slow(KL), slow(HeadTail), slow(Dist)])
@pytest.mark.parametrize("per_step", [True, False])
def test_terms_of_the_mean_read_one_array(function, per_step):
    """So that the gradients of several terms are summed before they are divided among the steps, in one rounding."""
    student, teacher = outputs()
    student = dataclasses.replace(student, key=None)  # it has no gradient
    term = function(per_step=per_step)
    gradient = jax.grad(lambda student: term(student, teacher, jnp.asarray(LABELS)).sum())(student)
    assert bool(np.any(gradient.logits)) == per_step
    assert bool(np.any(gradient.mean_logits)) != per_step


@pytest.mark.parametrize("name", representatives(PRESETS, {"kdsnn", "bkdsnn"}.__contains__))
def test_every_term_of_a_preset_moves_the_student(name):
    """Logits for `ce`, `kd` and `steps`; for `feature` the students' stages, here scaled by powers of one number."""

    def value(logits, power, term):
        features: Any = [(jnp.abs(jnp.asarray(student)) ** power, teacher) for student, teacher in FEATURES]
        if isinstance(term.function, Saliency):  # compares pixels, of which the last map has one
            features[-1] = tuple(jnp.concatenate([x, 2 * x], axis=1) for x in features[-1])
        return term(*outputs(logits, features=features), jnp.asarray(LABELS)).mean()

    for term in PRESETS[name].terms:
        if term.connector == Connector(branches=True):
            continue  # by logits of branches, in test_guidance.py
        slope = jax.grad(value, argnums=1 if term.name == "feature" else 0)(jnp.asarray(LOGITS), 1.5, term)
        assert np.all(np.isfinite(slope))
        assert np.abs(slope).max() > 1e-6, term


@pytest.mark.parametrize("name", ["everything, per step", "everything, by the mean"])
def test_terms_of_an_example_do_not_depend_on_the_others(name):
    before = values_of(OBJECTIVES[name])
    logits, labels, teacher_logits = LOGITS.copy(), LABELS.copy(), TEACHER_LOGITS.copy()
    logits[1], teacher_logits[1], labels[1] = 2 * LOGITS[1], -TEACHER_LOGITS[1], 0
    features = [(student.copy(), teacher) for student, teacher in FEATURES]
    for student, _ in features:
        student[1] += 2.0
    after = values_of(OBJECTIVES[name], labels, logits=logits, teacher_logits=teacher_logits, features=features)
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
        return np.asarray(Margin()(*outputs(features=features), jnp.asarray(LABELS)))

    others = np.array([0, 2, 3])
    np.testing.assert_array_equal(distances(1.0)[others], distances(2.0)[others])  # the positive part sets no margin
    assert np.all(distances(-1.0)[others] != distances(-2.0)[others])


def test_the_ensemble_term_has_the_gradient_of_a_constant_target():
    # Stopped or not: the mean of the logits minimises mean_t KL(. || z[t]), so what would flow through it is 0.
    tau = 3.0
    found = jax.grad(lambda z: Ensemble(tau)(student_outputs(z), None, LABELS).sum())(jnp.asarray(LOGITS))
    z = LOGITS.astype(np.float64)
    target = softmax(z.mean(axis=1, keepdims=True) / tau, axis=-1)
    close(found, tau * (softmax(z / tau, axis=-1) - target) / T)


def test_the_teacher_gets_no_gradient():
    objective = OBJECTIVES["everything, per step"]

    def loss(teacher_logits, teacher_features):
        features = [(student, t) for (student, _), t in zip(FEATURES, teacher_features, strict=True)]
        return objective.loss(values_of(objective, teacher_logits=teacher_logits, features=features))

    teacher = (jnp.asarray(TEACHER_LOGITS), [jnp.asarray(teacher) for _, teacher in FEATURES])
    for gradient in jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(*teacher)):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


# --- what an objective says of itself


def test_no_teacher_is_needed_where_no_term_reads_one():
    needs = {name: set(objective.needs) for name, objective in PRESETS.items()}
    assert {name for name, needed in needs.items() if not needed} == {"none", "tet", "tks", "strong2weak", "esd"}
    assert (needs["kdsnn"], needs["lasnn"]) == ({"teacher", "pre_activations"}, {"stages"})
    without = PRESETS["kdsnn"].with_weights({"kd": 0, "feature": 0})
    assert not without.needs_teacher
    assert not without.reads_teacher
    assert [term.name for term in without.active] == ["ce"]
    for name in ("none", "tet", "tks", "strong2weak"):
        student, _ = outputs()
        for term in PRESETS[name].terms:
            assert term(student, None, jnp.asarray(LABELS)).shape == (B,)


def test_presets_have_the_published_weights():
    response, feature, both = (PRESETS[name] for name in ("kdsnn-response", "kdsnn-feature", "kdsnn"))
    assert sum(response.weights.values()) == 1.0  # (1 - w) CE + w KL
    assert feature.weights == {"ce": 1.0, "feature": 0.03}
    assert both.weights == {**response.weights, "feature": 0.03}
    assert not any(preset.constants["per_step"] for preset in (response, feature, both))  # by the mean over time
    assert PRESETS["none"].weights == {"ce": 1.0}


@pytest.mark.parametrize(
    ("name", "weights", "functions"),
    [
        ("temporal", (1, 0.5, 0.2), (CrossEntropy(True), Ensemble(3.0), KL(3.0, True))),
        ("kdsnn-last", (1, 7e-5), (CrossEntropy(), LastStage())),  # BKDSNN's code, its comparison on ImageNet
        # beta of Zagoruyko & Komodakis's code over the pixels of their first map
        ("lasnn", (1, 1e3 / 32**2), (CrossEntropy(), Attention())),
        # feature_b of train_KD.py over the channels of its first stage; logitc_c, its KL, is 0
        ("sakd", (1, 100 / 64), (CrossEntropy(), StageMeans())),
        ("bkdsnn", (1, 1, 2e-3), (CrossEntropy(), KL(2.0), LastStage())),  # its code, CIFAR-10
        ("enof", (1, 1), (CrossEntropy(), Classifier(4.0))),
        ("tet", (1 - 1e-3, 1e-3), (CrossEntropy(True), Deviation(1.0))),  # lamb of its code
        ("tks", (1 - 0.7 / 2, 0.7 / 2), (CrossEntropy(), Sharing(3.0))),  # mean of 0 to 0.7
        ("tser", (0.5, 0.1, 0.5), (CrossEntropy(True), Entropy(4.0), KL(4.0, True))),
        ("hta-kl", (1, 1), (CrossEntropy(), HeadTail(4.0))),
        ("dist", (1, 2), (CrossEntropy(), Dist(4.0))),  # its code, CIFAR-100: beta 1, gamma 1, times 2
        ("strong2weak", (1, 1), (CrossEntropy(), StrongToWeak(2.0))),
        ("esd", (1, 1), (CrossEntropy(), SelfDistillation(3.0, 0.3))),  # alp and beta of its code
        ("seal", (1, 0.15, 0.6), (CrossEntropy(True), SimilarSteps(3.0), ErrorAware(3.0))),  # beta, alpha of its code
        ("ckdsnn", (1, 1, 1), (CrossEntropy(), NoiseSmoothed(2.0), Saliency(2.0))),  # kd_weight is not read there
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_presets_have_the_terms_of_their_codes(name, weights, functions):
    terms = PRESETS[name].terms
    assert [term.weight for term in terms] == pytest.approx(weights)
    assert tuple(term.function for term in terms) == functions


def test_connectors_of_the_presets():
    connectors = {name: preset.terms[-1].connector for name, preset in PRESETS.items()}
    assert {name: c for name, c in connectors.items() if c is not None} == {
        **dict.fromkeys(("kdsnn-feature", "kdsnn", "sakd"), Connector()),
        "kdsnn-last": Connector(last=True, pool=True),
        "bkdsnn": Connector(last=True, generator=True, pool=True),
        "esd": Connector(branches=True),
    }


# --- other weights and constants


def test_a_weight_adds_a_standard_term_with_the_constants_of_the_others():
    """As `--kd-weight` does, in the order in which they are summed: ce, steps, kd, feature."""
    found = PRESETS["tet"].with_weights({"feature": 0.1, "kd": 0.5})
    assert list(found.weights.items()) == [("ce", 0.999), ("steps", 0.001), ("kd", 0.5), ("feature", 0.1)]
    assert found.terms[2].function == KL(4.0, per_step=True)
    assert PRESETS["tks"].with_weights({"kd": 1.0}).terms[-1].function == KL(3.0)
    assert PRESETS["none"].with_weights({"kd": 0.5, "ce": 0.5}) == PRESETS["kdsnn-response"]
    assert PRESETS["none"].with_weights({"feature": 0.0}) == PRESETS["none"]
    assert PRESETS["hta-kl"].with_weights({"kd": 0.5}).terms[-1] == Term("kd", HeadTail(), 0.5)


def test_other_constants_go_to_every_term_that_has_them():
    found = PRESETS["temporal"].with_constants(temperature=2.0, label_smoothing=0.1)
    assert [term.function for term in found.terms] == [CrossEntropy(True, 0.1), Ensemble(2.0), KL(2.0, True)]
    assert found.weights == PRESETS["temporal"].weights
    bkdsnn = PRESETS["bkdsnn"].with_constants(temperature=3.0).with_weights({"feature": 1.0})
    assert bkdsnn.terms[-1] == dataclasses.replace(PRESETS["bkdsnn"].terms[-1], weight=1.0)


def plus_one(student, teacher, labels, by=1.0):
    del teacher
    return student.logits[:, 0, 0] + labels + by


def test_objectives_are_described_by_what_they_compute():
    objective = PRESETS["bkdsnn"].with_constants(label_smoothing=0.1)
    own = Objective((*objective.terms, Term("own", plus_one, 2), Term("by", functools.partial(plus_one, by=2.0))))
    found = json.loads(json.dumps(own.described()))
    assert list(found) == ["ce", "kd", "feature", "own", "by"]
    assert found["ce"]["function"] == "CrossEntropy(per_step=False, label_smoothing=0.1)"
    assert (found["own"]["function"], found["own"]["weight"]) == (f"{__name__}.plus_one", 2.0)
    assert "by=2.0" in found["by"]["function"]
    assert found["kd"]["needs"] == ["teacher"]
    assert found["own"]["needs"] is None
    connector = {"last": True, "generator": True, "pool": True, "pre_activations": False, "branches": False}
    assert found["feature"]["connector"] == connector
    assert not re.search(r"0x[0-9a-f]{4}", str(found))
    assert objective.described() != PRESETS["bkdsnn"].described()


# --- what is refused


@pytest.mark.parametrize(
    ("make", "told"),
    [
        *((lambda w=w: PRESETS["none"].with_weights({"kd": w}), ["'kd'", f"weight={w}"]) for w in (-1, NAN, INF)),
        *((lambda t=t: PRESETS["kdsnn"].with_constants(temperature=t), [f"temperature={t}"]) for t in (0.0, -1.0, NAN)),
        *(
            (lambda e=e: PRESETS["none"].with_constants(label_smoothing=e), [f"label_smoothing={e}"])
            for e in (1.0, NAN)
        ),
        (lambda: KL(temperature=INF), ["temperature=inf"]),
        (lambda: PRESETS["none"].with_constants(temperature=2.0), ["temperature=2.0", "ce"]),
        (lambda: PRESETS["none"].with_weights({"ce": 0.0}), ["ce", "0"]),
        (lambda: PRESETS["none"].with_weights({"mine": 1.0}), ["'mine'", "ce", "kd"]),
        (lambda: Objective(()), ["0"]),
        (lambda: Objective((plus_one,)), ["plus_one", "Term("]),  # pyright: ignore[reportArgumentType]
        (lambda: Objective((Term("mine", plus_one), Term("mine", plus_one))), ["'mine'", "two terms"]),
        (lambda: Term("mine", plus_one, weight=-0.5), ["'mine'", "weight=-0.5"]),
        (lambda: Term("mine", plus_one, weight="1"), ["'mine'", "weight='1'"]),  # pyright: ignore[reportArgumentType]
        (lambda: Term("loss", plus_one), ["'loss'", "name"]),
        (lambda: Term("firing_rate", plus_one), ["'firing_rate'", "name"]),
        (lambda: Term("a/b", plus_one), ["'a/b'", "name"]),
        (lambda: Term("mine", 3), ["'mine'", "function=3"]),  # pyright: ignore[reportArgumentType]
        (lambda: Term("mine", plus_one, needs=("stage",)), ["'mine'", "'stage'", "stages"]),
        (lambda: SelfDistillation(share=-1.0), ["share=-1.0"]),
        (lambda: Connector(branches=True, pool=True), ["branches=True", "pool"]),
        (
            lambda: Term("mine", plus_one, needs=("teacher",), connector=Connector()),
            ["'mine'", "connector", "'stages'"],
        ),
    ],
)
def test_what_is_no_objective_is_refused_by_name(make, told):
    with pytest.raises(InputError) as error:
        make()
    assert all(part in str(error.value) for part in told), error.value


def shapes(**stages):
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in stages.items()}


def test_stages_are_paired_by_the_size_of_their_maps():
    student = shapes(a=(2, 4, 32, 32, 8), b=(2, 4, 16, 16, 16), c=(2, 4, 8, 8, 32), d=(2, 4, 8, 16, 32))
    teacher = shapes(x=(2, 16, 16, 64), y=(2, 8, 8, 128), z=(2, 4, 4, 256), u=(2, 16, 8, 1))
    assert pair_stages(student, teacher) == {"b": "x", "c": "y"}
    with pytest.raises(InputError, match="stage"):
        pair_stages(shapes(a=(2, 32, 32, 8)), teacher)
