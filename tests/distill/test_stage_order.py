"""Stages are in the order of their definition, however many there are, whatever their names, through `jax.jit`."""

from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representative import slow

from snnkd_jax.distill.guidance import Guidance
from snnkd_jax.distill.objective import Objective, Term
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.teacher import Teacher, flax_teacher
from snnkd_jax.models import Network
from snnkd_jax.models.stages import in_order, stage_features

SHAPE, K = (3, 3, 1), 2


class Student(nn.Module):
    """A stage i is the images plus i."""

    names: tuple[str, ...]

    @nn.compact
    def __call__(self, images, train):  # noqa: ARG002
        return nn.Dense(K)(images.mean((-3, -2))), {
            "stages": {n: images + i for i, n in enumerate(self.names, start=1)}
        }


def numbered(n):
    return tuple(f"stage{i}" for i in range(1, n + 1))


NAMES = [
    numbered(12),
    numbered(120),
    ("stem", "early", "late", "last2", "a"),
    ("x10", "x9", "x8"),
    ("layer2", "layer10"),
]


def teacher_of(names, wrap=dict):
    return Teacher(lambda _, x: (jnp.zeros((len(x), K)), {"stages": wrap((n, i + x) for i, n in enumerate(names, 1))}))


@pytest.mark.parametrize("names", [NAMES[0], *map(slow, NAMES[1:])], ids=["12", "120", "words", "falling", "two"])
def test_the_last_stages_are_compared(names):
    """Through the program that trains: the teacher's stage of `kdsnn-last` is its last, the connector the student's."""
    student = Network(Student(names), 1)
    guidance = Guidance(PRESETS["kdsnn-last"], student, teacher_of(names), SHAPE)
    images = jnp.zeros((4, *SHAPE))
    targets = jax.jit(guidance.targets)((), images)
    (compared,) = targets["features"]["stages"].values()
    np.testing.assert_array_equal(compared, len(names))
    connectors = jax.jit(guidance.init)(jax.random.key(0))
    (connector,) = connectors["params"].values()
    assert set(connector) == {f"conv_{names[-1]}", f"norm_{names[-1]}"}


@pytest.mark.parametrize("names", NAMES, ids=["12", "120", "words", "falling", "two"])
def test_a_term_of_the_classifier_pairs_the_last_stages(names):
    """The teacher's last is the one that its classifier reads: all others have a channel too few."""

    def function(_, x):
        stages = {n: x if n == names[-1] else x[..., :0] for n in names}
        return jnp.zeros((len(x), K)), {"stages": stages}

    head = {"params": {"head": {"kernel": jnp.zeros((1, K)), "bias": jnp.zeros(K)}}}
    term = Term(
        "watch", lambda _, teacher, labels: jnp.zeros(labels.shape) + teacher.head[1][0], needs=("stages", "head")
    )
    Guidance(Objective((term,)), Network(Student(names), 1), Teacher(function, head), SHAPE)


@pytest.mark.parametrize("names", NAMES, ids=["12", "120", "words", "falling", "two"])
def test_a_term_sees_stages_in_order(names):
    """Each of the student's with the teacher's, in the order of the student's: here of maps of different sizes."""
    seen = []

    def watch(student, teacher, labels):
        seen.append((list(student.stages), list(teacher.stages)))
        return jnp.zeros(labels.shape)

    objective = Objective((Term("watch", watch, needs=("stages",)),))
    Guidance(objective, Network(Student(names), 1), teacher_of(names), SHAPE)
    assert seen[0] == (list(names), list(names))


def test_stages_of_flax_modules_and_of_architectures():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(1, 113):
                x = nn.Conv(1, (1, 1), name=f"layer{i}")(x)
            return x.mean((1, 2)) * jnp.ones(K)

    variables = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, *SHAPE)))
    layers = tuple(f"layer{i}" for i in range(1, 113))
    teacher = flax_teacher(Net(), variables, stages=layers)
    _, features = jax.eval_shape(teacher.apply, variables, jnp.zeros((1, *SHAPE)))
    assert [int(name.removeprefix("stage")) for name in features["stages"]] == list(range(1, 113))
    outputs = [(jnp.zeros(()), jnp.full((), i)) for i in range(1, 113)]
    found = jax.jit(lambda x: jax.tree.map(lambda y: y + x, stage_features(outputs)))(0)
    assert list(found["stages"].values()) == list(range(1, 113))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("stage1 stage10 stage11 stage2 stage9", "stage1 stage2 stage9 stage10 stage11"),  # as from jit
        ("block1_1 block1_10 block1_2 block2_1", "block1_1 block1_2 block1_10 block2_1"),
        ("10 2 9", "2 9 10"),
        ("b a", "b a"),
        ("stage10 stage1 stage2", "stage10 stage1 stage2"),
        ("a b stage1", "a b stage1"),
    ],
)
def test_a_dictionary_sorted_by_jax_is_sorted_by_numbers(names, expected):
    maps = dict.fromkeys(names.split(), jnp.zeros(()))
    assert list(in_order(maps)) == expected.split()
    assert list(in_order(OrderedDict(maps))) == names.split()
    if sorted(maps) == list(maps):
        assert list(in_order(jax.jit(lambda x: x)(maps))) == expected.split()
