"""What the terms of an objective are given: connectors of pre-activations, last stages with a classifier, noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.guidance import Guidance
from snnkd_jax.distill.objective import Objective, Term
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.distill.terms import LastStage, Margin
from snnkd_jax.errors import InputError

K, SHAPE = 10, (8, 8, 3)
HEAD = {"params": {"head": {"kernel": jnp.ones((6, K)).at[0].set(jnp.arange(K)), "bias": jnp.zeros(K)}}}
CURRENTS = Objective(Term("mine", Margin(), connector=Connector(pre_activations=True)))


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


def arguments(made: Guidance):
    rng = np.random.default_rng(0)
    student, targets, labels, variables, _, _ = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 2, x.shape), x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x,
        made.probe(),
    )
    return student, targets, jnp.abs(labels) % K, variables, made.init(jax.random.key(1)), jax.random.key(2)


@pytest.mark.parametrize("connector", [Connector(), Connector(pre_activations=True)])
def test_a_connector_reads_what_it_says(connector):
    made = guidance(Objective(Term("mine", Margin(), connector=connector)), network(**BOTH), network(**BOTH))
    student, *others = arguments(made)
    for kind in ("stages", "pre_activations"):
        broken = dataclasses.replace(student, **{kind: jax.tree.map(lambda x: x * jnp.nan, getattr(student, kind))})
        read = np.isnan(made.values(broken, *others)[0]["mine"]).all()
        assert read == (connector.pre_activations == (kind == "pre_activations")), kind


def test_pooled_features_reach_the_connector_as_one_pixel():
    seen = []

    def mine(student, teacher, labels):
        seen.append({name: x.shape[1:] for name, x in student.connected.items()})
        return LastStage()(student, teacher, labels)

    term = Term("mine", mine, needs=("stages",), connector=Connector(last=True, pool=True))
    made = guidance(Objective(term), network(**BOTH), network(stages=((8, 5), (4, 7))))
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


def test_saliency_takes_students_of_any_width_and_noise_is_of_the_key():
    made = guidance(PRESETS["ckdsnn"], network(stages=((8, 3), (4, 9))), network(stages=((4, 6),)))
    *given, _ = arguments(made)
    first, again, other = (made.values(*given, jax.random.key(i))[0] for i in (2, 2, 3))
    assert sorted(first) == ["ce", "feature", "kd"]
    np.testing.assert_array_equal(first["kd"], again["kd"])
    assert np.all(first["kd"] != other["kd"])
    np.testing.assert_array_equal(first["feature"], other["feature"])
    assert len(np.unique(np.asarray(first["kd"]))) == len(first["kd"])  # each example has noise of its own
