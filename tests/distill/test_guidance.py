"""What the terms of an objective are given: connectors of pre-activations, last stages with a classifier, noise."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from representative import slow
from scipy.special import log_softmax, rel_entr, softmax

from snnkd_jax.distill.connector import Branches, Connector
from snnkd_jax.distill.guidance import Guidance
from snnkd_jax.distill.objective import Objective, Term
from snnkd_jax.distill.outputs import StudentOutputs
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.distill.terms import LastStage, Margin, SelfDistillation
from snnkd_jax.errors import InputError

K, SHAPE = 10, (8, 8, 3)
HEAD = {"params": {"head": {"kernel": jnp.ones((6, K)).at[0].set(jnp.arange(K)), "bias": jnp.zeros(K)}}}
CURRENTS = Objective((Term("mine", Margin(), connector=Connector(pre_activations=True)),))


def network(**features) -> Teacher:
    """A function with features; `stages=((8, 4), (4, 6))` are maps of that size and number of channels."""

    def function(variables, x):
        del variables
        maps = {
            kind: {f"stage{i}": jnp.ones((len(x), size, size, c)) * x[:, :1, :1, :1] for i, (size, c) in enumerate(of)}
            for kind, of in features.items()
        }
        return x.mean((1, 2))[:, :1] * jnp.ones(K), maps

    return Teacher(function, HEAD)


def guidance(objective, student, teacher) -> Guidance:
    return Guidance(objective, student, teacher, SHAPE)  # pyright: ignore[reportArgumentType]


BOTH = {"stages": ((8, 4), (4, 6)), "pre_activations": ((8, 4), (4, 6))}


def arguments(made: Guidance) -> Any:
    rng = np.random.default_rng(0)
    probe: Any = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 2, x.shape), x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x,
        made.probe(),
    )
    student, targets, labels, variables, *_ = probe
    return student, targets, jnp.abs(labels) % K, variables, made.init(jax.random.key(1)), jax.random.key(2)


@pytest.mark.parametrize("connector", [slow(Connector()), Connector(pre_activations=True)])
def test_a_connector_reads_what_it_says(connector):
    made = guidance(Objective((Term("mine", Margin(), connector=connector),)), network(**BOTH), network(**BOTH))
    student, *others = arguments(made)
    for kind in ("stages", "pre_activations"):
        broken = dataclasses.replace(student, **{kind: jax.tree.map(lambda x: x * jnp.nan, getattr(student, kind))})
        read = np.isnan(made.values(broken, *others)[0]["mine"]).all()
        assert read == (connector.pre_activations == (kind == "pre_activations")), kind


@pytest.mark.slow
def test_pooled_features_reach_the_connector_as_one_pixel():
    seen = []

    def mine(student, teacher, labels):
        seen.append({name: x.shape[1:] for name, x in student.connected.items()})
        return LastStage()(student, teacher, labels)

    term = Term("mine", mine, needs=("stages",), connector=Connector(last=True, pool=True))
    made = guidance(Objective((term,)), network(**BOTH), network(stages=((8, 5), (4, 7))))
    assert seen[-1] == {"stage1": (1, 1, 7)}
    student, *others = arguments(made)
    mixed = jax.tree.map(lambda x: x[:, :, ::-1, ::-1], student.stages)  # the mean over the map is the same
    found = [made.values(dataclasses.replace(student, stages=s), *others)[0]["mine"] for s in (student.stages, mixed)]
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_a_student_without_pre_activations_is_refused_by_a_connector_that_reads_them():
    with pytest.raises(InputError, match=r"term 'mine'.*pre-activations.*none of stage0, stage1.*return them"):
        guidance(CURRENTS, network(stages=BOTH["stages"]), network(**BOTH))


@pytest.mark.parametrize(
    ("student", "teacher", "told"),
    [
        (((8, 4),), ((8, 5), (4, 6)), ["stage1", "4x4"]),  # the teacher goes on
        (((4, 6), (8, 4)), ((8, 5), (4, 6)), ["stage1", "4x4"]),  # paired, but not as the last
        (((8, 6),), ((8, 6), (8, 6), (2, 6)), ["stage2", "2x2"]),  # channels would fit the classifier
        (((4, 9),), ((8, 5), (4, 7)), ["hidden layer"]),  # the classifier reads 6 channels
    ],
)
def test_saliency_needs_the_teachers_last_stage(student, teacher, told):
    with pytest.raises(InputError) as error:
        guidance(PRESETS["ckdsnn"], network(stages=student), network(stages=teacher))
    assert all(part in str(error.value) for part in told), error.value
    assert "another preset" in str(error.value)


@pytest.mark.slow
def test_saliency_takes_students_of_any_width_and_noise_is_of_the_key():
    made = guidance(PRESETS["ckdsnn"], network(stages=((8, 3), (4, 9))), network(stages=((4, 6),)))
    student, targets, labels, variables, connectors, _ = arguments(made)
    given = (student, targets, labels, variables, connectors)
    first, again, other = (made.values(*given, jax.random.key(i))[0] for i in (2, 2, 3))
    assert sorted(first) == ["ce", "feature", "kd"]
    np.testing.assert_array_equal(first["kd"], again["kd"])
    assert np.all(first["kd"] != other["kd"])
    np.testing.assert_array_equal(first["feature"], other["feature"])
    assert len(np.unique(np.asarray(first["kd"]))) == len(first["kd"])  # each example has noise of its own
    with pytest.raises(InputError, match=r"student.key is None"):
        PRESETS["ckdsnn"].terms[1](given[0], None, given[2])


# --- branches of the student alone


def norm(x, w, statistics):
    return (x - statistics["mean"]) / np.sqrt(statistics["var"] + 1e-5) * w["scale"] + w["bias"]


def depthwise(x, kernel, stride):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = x.shape[1]
    shifted: Any = [kernel[i, j, 0] * padded[:, i : i + size, j : j + size] for i in range(3) for j in range(3)]
    return np.sum(shifted, axis=0)[:, ::stride, ::stride]


def test_branches_in_numpy():
    """Three stages; the second block of the first branch keeps the size of the map."""
    module, key = Branches((("a", 3, 1), ("b", 4, 2), ("c", 5, 1)), num_classes=6), jax.random.key(0)
    stages = {n: jax.random.normal(key, (7, s, s, c)) for n, s, c in (("a", 8, 3), ("b", 4, 4), ("c", 4, 5))}
    variables = module.init(key, stages, False, key)
    variables = jax.tree.map(lambda x: x + 0.3 * jax.random.uniform(jax.random.key(1), x.shape), variables)
    numbers: Any = jax.tree.map(lambda x: np.asarray(x, np.float64), (variables["params"], variables["batch_stats"]))
    (w, statistics), expected = numbers, {}
    for name, blocks in (("a", (("a_b", 2), ("a_c", 1))), ("b", (("b_c", 1),))):
        x = np.asarray(stages[name], np.float64)
        for block, stride in blocks:
            shortcut, h = x[:, ::stride, ::stride] @ w[f"shortcut_{block}"]["conv"]["kernel"][0, 0], x
            for half, step in ((f"{block}_1", stride), (f"{block}_2", 1)):
                h = (
                    depthwise(h, w[f"depthwise_{half}"]["kernel"], step)
                    @ w[f"pointwise_{half}"]["conv"]["kernel"][0, 0]
                )
                h = np.maximum(norm(h, w[f"norm_{half}"], statistics[f"norm_{half}"]), 0)
            name_of_norm = f"norm_shortcut_{block}"
            x = np.maximum(norm(shortcut, w[name_of_norm], statistics[name_of_norm]) + h, 0)
        classifier = w[f"classify_{name}"]
        expected[name] = x.mean((1, 2)) @ classifier["kernel"] + classifier["bias"]
    found: Any = module.apply(variables, stages, False, key)
    assert list(found) == ["a", "b"]
    for name, x in expected.items():
        assert found[name].shape == (7, 1, 1, 6)
        agrees(found[name][:, 0, 0], x, rtol=1e-4, atol=1e-4, name="branches")


def test_self_distillation_by_its_formula():
    """Of two branches and the student, in float64, one example at a time; the second has no correct output."""
    rng = np.random.default_rng(4)
    z, branches = rng.normal(0, 2, (3, K)), rng.normal(0, 2, (2, 3, K))
    labels = np.array([z[0].argmax(), 0, branches[1, 2].argmax()])
    z[1, 0] = branches[:, 1, 0] = -9
    expected = np.zeros(3)
    for b, y in enumerate(labels):
        outputs = [*branches[:, b], z[b]]
        expected[b] = -sum(log_softmax(x)[y] for x in outputs[:2])
        if right := [x for x in outputs if x.argmax() == y]:
            p = softmax(np.mean(right, axis=0) / 2)
            expected[b] += 0.7 * 4 * sum(rel_entr(p, softmax(x / 2)).sum() for x in outputs) * 3 / 2
    student = StudentOutputs.of(jnp.asarray(z), {})
    connected = {f"stage{i}": jnp.asarray(x)[:, None, None] for i, x in enumerate(branches)}
    found = SelfDistillation(2.0, 0.7)(dataclasses.replace(student, connected=connected), None, jnp.asarray(labels))
    agrees(found, expected, rtol=1e-5, name="objectives")


@pytest.mark.slow
def test_branches_need_no_teacher_and_move_the_student():
    made = guidance(PRESETS["esd"], network(**BOTH), None)
    student, *others = arguments(made)
    slopes = jax.grad(
        lambda stages: made.values(dataclasses.replace(student, stages=stages), *others)[0]["steps"].sum()
    )
    found = slopes(student.stages)
    assert np.abs(found["stage0"]).max() > 1e-4
    np.testing.assert_array_equal(found["stage1"], 0)  # the last stage has no branch


@pytest.mark.parametrize("stages", [(), ((8, 4),)])
def test_branches_need_two_stages(stages):
    with pytest.raises(InputError, match=f"'steps'.*gives {len(stages)} stages.*two or more"):
        guidance(PRESETS["esd"], network(stages=stages), None)
