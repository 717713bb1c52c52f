"""Terms of a user's own: what they read, how they train, and what is said of those that cannot."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import STUDENT, TEACHER, batch, make, teacher_variables

from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.objective import Objective, Term
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.terms import KL, CrossEntropy, LastStage, StageMeans
from snnkd_jax.errors import InputError
from snnkd_jax.models import build

CE = Term("ce", CrossEntropy())


def trainer(*terms: Term, **changes) -> Any:
    return dataclasses.replace(make(weight_decay=0.0), objective=Objective(terms), **changes)


def stepped(made) -> tuple[Any, dict[str, Any]]:
    """State and metrics after one step."""
    return jax.device_get(jax.jit(made.step)(jax.jit(made.init)(), teacher_variables(), batch()))


def l1(student, teacher, labels):
    del labels
    return jnp.abs(student.logits.mean(1) - teacher.logits).mean(-1)


@pytest.mark.slow
def test_a_term_on_logits_trains_and_is_logged_under_its_name_unweighted():
    _, metrics = stepped(trainer(CE, Term("l1", l1, 0.25)))
    assert metrics["l1"] > 0
    assert metrics["loss"] == pytest.approx(metrics["ce"] + 0.25 * metrics["l1"], rel=1e-6)
    norms = [stepped(trainer(Term("l1", l1, weight)))[1]["grad_norm"] for weight in (1.0, 0.25)]
    assert norms[0] == pytest.approx(4 * norms[1], rel=1e-5)
    assert norms[1] > 1e-3


def test_a_term_that_is_the_librarys_gives_its_numbers():
    """KL written anew, by its equation; the same update as by the preset, to rounding."""

    def kl(student, teacher, labels):
        del labels
        p, log_q = (
            f(x / 4.0) for f, x in ((jax.nn.softmax, teacher.logits), (jax.nn.log_softmax, student.logits.mean(1)))
        )
        return 16 * (p * (jnp.log(p) - log_q)).sum(-1)

    found, metrics = stepped(trainer(dataclasses.replace(CE, weight=0.5), Term("kd", kl, 0.5)))
    expected, of_preset = stepped(dataclasses.replace(trainer(CE), objective=PRESETS["kdsnn-response"]))
    assert metrics["kd"] == pytest.approx(of_preset["kd"], rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.params, expected.params)


def connected_l2(student, teacher, labels):
    del labels
    assert student.connected.keys() == teacher.stages.keys() <= student.stages.keys()
    return sum(jnp.square(x - teacher.stages[name]).mean((1, 2, 3)) for name, x in student.connected.items())


@pytest.mark.slow
def test_a_term_on_features_gets_its_own_connectors_and_they_are_trained():
    """Beside one of the library's; each has its own, begun with other numbers, and the first the ones it has alone."""
    own = Term("own", connected_l2, needs=("stages",), connector=Connector())
    made = trainer(CE, Term("feature", StageMeans()), own)
    start = jax.jit(made.init)().params["connectors"]
    state, metrics = stepped(made)
    assert (
        start.keys()
        == state.params["connectors"].keys()
        == state.batch_stats["connectors"].keys()
        == {"feature", "own"}
    )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, start, state.params["connectors"])
    assert all(jax.tree.leaves(moved))
    kernels = [start[name]["conv_stage1"]["conv"]["kernel"] for name in ("feature", "own")]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    alone = jax.jit(trainer(CE, own).init)().params["connectors"]["own"]
    jax.tree.map(np.testing.assert_array_equal, alone, start["feature"])
    assert metrics["own"] > 0
    assert metrics["own"] != metrics["feature"]
    _, by_library = stepped(trainer(CE, Term("feature", StageMeans())))
    _, by_own = stepped(trainer(CE, own))
    narrowest = min(x.shape[-1] for x in jax.tree.leaves(start["own"]) if x.ndim == 4)  # the library's scale
    assert narrowest * by_own["own"] == pytest.approx(by_library["feature"], rel=1e-6)


@pytest.mark.slow
def test_a_connector_alone_asks_for_the_teachers_stages_and_for_the_last_pair_if_it_says_so():
    made = trainer(Term("own", lambda s, t, _: connected_l2(s, t, _), connector=Connector(last=True)))
    assert made.objective.needs == {"stages"}
    assert {name for name in jax.jit(made.init)().params["connectors"]["own"] if "conv" in name} == {"conv_stage2"}
    assert made.guidance.targets(teacher_variables(), jnp.zeros((2, 8, 8, 1)))["features"]["stages"].keys() == {
        "stage2"
    }
    both = trainer(Term("own", connected_l2, needs=("stages",), connector=Connector()), Term("last", LastStage()))
    assert len(both.guidance.targets(teacher_variables(), jnp.zeros((2, 8, 8, 1)))["features"]["stages"]) > 1
    stepped(both)


@pytest.mark.slow
def test_needs_may_be_an_attribute_of_the_function():
    def before_activation(_, teacher, labels):
        return sum((jnp.square(x).mean((1, 2, 3)) for x in teacher.pre_activations.values()), jnp.zeros(len(labels)))

    function: Any = before_activation
    function.needs = ("pre_activations",)
    made = trainer(CE, Term("own", function))
    assert made.objective.needs == {"pre_activations"}
    assert stepped(made)[1]["own"] > 0


def rate(student, teacher, labels):
    """A regulariser on firing rates, of the student alone."""
    del teacher, labels
    return sum(student.firing_rates.values()) / len(student.firing_rates)


@pytest.mark.slow
@pytest.mark.parametrize("needs", [(), None])
def test_a_term_of_the_student_alone_needs_no_teacher(needs):
    made = trainer(CE, Term("rate", rate, 10.0, needs), teacher=None)
    assert not made.is_guided
    state, metrics = stepped(made)
    assert metrics["rate"] == pytest.approx(np.mean(list(metrics["firing_rates"].values())), rel=1e-5)
    without, _ = stepped(trainer(CE))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), state.params, without.params)
    assert max(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.slow
def test_a_teacher_that_no_term_reads_does_not_run():
    """One that says that it needs none; one that says nothing is given the logits."""
    assert not trainer(CE, Term("rate", rate, needs=())).is_guided
    made = trainer(CE, Term("rate", rate))
    assert made.is_guided
    assert made.guidance.targets(teacher_variables(), jnp.zeros((2, 8, 8, 1)))["features"] == {}


def test_a_term_of_weight_zero_is_not_computed():
    def never(*_):
        raise AssertionError

    _, metrics = stepped(trainer(CE, Term("never", never, 0.0)))
    assert "never" not in metrics


# --- what cannot be trained


def first_stage(student, teacher, labels):
    del teacher, labels
    return student.stages["first"].mean((1, 2, 3, 4))


@pytest.mark.parametrize(
    ("function", "changes", "told"),
    [
        (lambda s, *_: s.logits, {}, ["float32[61, 3, 5]", "[61]"]),
        (lambda s, *_: jnp.abs(s.logits).mean(), {}, ["float32[]", "[61]"]),
        (lambda *x: x[-1], {}, ["int32[61]", "float"]),
        (lambda *_: None, {}, ["NoneType"]),
        (lambda *_: 1 / 0, {}, ["ZeroDivisionError", "division"]),
        (lambda s, *_: s.logits.mean(1) if s.logits.sum() > 0 else 0, {}, ["TracerBoolConversionError"]),
        (first_stage, {}, ["KeyError", "'first'", "student.stages (stage1, stage2)"]),
        (lambda _, t, __: t.stages["stage1"].mean((1, 2, 3)), {}, ["KeyError", "'stage1'", "needs"]),
        (l1, {"teacher": None}, ["AttributeError", "None", "give a teacher"]),
    ],
)
def test_a_function_that_cannot_be_a_term_is_told_before_training(function, changes, told):
    with pytest.raises(InputError) as error:
        trainer(CE, Term("mine", function), **changes)
    message = str(error.value)
    assert all(part in message for part in ["'mine'", *told]), message
    assert "\n" not in message


def test_a_declared_teacher_must_be_there():
    with pytest.raises(InputError, match=r"needs a teacher.*'mine'"):
        trainer(CE, Term("mine", l1, needs=("teacher",)), teacher=None)
    with pytest.raises(InputError, match=r"needs a teacher.*'kd'"):
        trainer(CE, Term("kd", KL()), teacher=None)


@pytest.mark.slow
def test_the_head_is_of_a_teacher_that_reads_its_last_stage():
    def read(student, teacher, labels):
        del labels
        kernel, bias = teacher.head
        (connected,) = student.connected.values()
        return jnp.square(connected.mean((1, 2)) @ kernel + bias - teacher.logits).mean(-1)

    term = Term("read", read, needs=("stages", "head"), connector=Connector(last=True))
    with pytest.raises(InputError, match="the teacher's classifier reads a hidden layer"):
        trainer(CE, term)
    teacher = build("airbench94", 5, width=0.1)
    made = trainer(
        CE, term, teacher=teacher, network=build("airbench94", 5, neuron=None, width=0.25), image_shape=(16, 16, 1)
    )
    variables = teacher.init(jax.random.key(0), (16, 16, 1))
    images = {"images": np.zeros((4, 16, 16, 1), np.uint8), "labels": np.zeros(4, np.int32)}
    _, metrics = jax.eval_shape(made.step, jax.eval_shape(made.init), variables, images)
    assert metrics["read"].shape == ()


# --- a student that gives logits alone


class Plain:
    """A network whose calls return no features."""

    init = staticmethod(STUDENT.init)

    @staticmethod
    def apply(variables, images):
        return STUDENT.apply(variables, images)[0], {}

    @staticmethod
    def apply_train(variables, images, dropout):
        (logits, _), updates = STUDENT.apply_train(variables, images, dropout)
        return (logits, {}), updates


@pytest.mark.slow
def test_a_student_without_features_trains_on_logits_and_is_refused_by_features():
    plain: Any = Plain()
    for preset in ("none", "temporal", "dist"):
        made = dataclasses.replace(make(preset), network=plain, teacher=TEACHER)
        assert (
            jax.eval_shape(made.step, jax.eval_shape(made.init), teacher_variables(), batch())[1]["firing_rates"] == {}
        )
    for preset in ("kdsnn", "lasnn", "enof"):
        with pytest.raises(InputError, match=r"student gives no stages.*'stages'.*use kdsnn-response"):
            dataclasses.replace(make(), network=plain, objective=PRESETS[preset])
