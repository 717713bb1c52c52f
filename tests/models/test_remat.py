"""Rematerialisation: the same values and gradients, and proof that it takes place."""

import functools
from typing import Any

import chex
import jax
import jax.extend.core
import jax.numpy as jnp
import pytest
from representative import slow

from snnkd_jax.dynamics.neurons import LIF, PLIF
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, build
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.airbench import Airbench
from snnkd_jax.models.convnet import ConvNet
from snnkd_jax.models.pyramidnet import PyramidNet
from snnkd_jax.models.resnet import ResNet
from snnkd_jax.models.vgg import VGG
from snnkd_jax.models.wide_resnet import WideResNet
from snnkd_jax.runs.config import Config

SHAPE = (8, 8, 2)
IMAGES = jax.random.normal(jax.random.key(1), (3, *SHAPE))
ARCHITECTURES = {
    "resnet": functools.partial(ResNet, stage_sizes=(1, 2), stage_channels=(4, 6)),
    "wide_resnet": functools.partial(WideResNet, depth=10, width=0.25),
    "pyramidnet": functools.partial(PyramidNet, stage_sizes=(2, 1), start=4, end=7),
    "vgg": functools.partial(VGG, stage_sizes=(1, 2), width=0.1),
    "convnet": functools.partial(ConvNet, width=0.1),
    "airbench": functools.partial(Airbench, stage_channels=(6, 5)),
}


def network(name: str, remat: str) -> Network:
    spike = functools.partial(Spike, PLIF(), num_steps=2)
    make: Any = ARCHITECTURES[name]
    return Network(make(num_classes=3, activation=spike, remat=remat), 2)


def gradient(network: Network):
    """A function of parameters and batch statistics: logits, firing rates, stages and new statistics, and gradients."""

    def loss(params, batch_stats):
        (logits, features), stats = network.apply_train({"params": params, "batch_stats": batch_stats}, IMAGES)
        stages = sum(jnp.square(x - 0.3).mean() for x in features["stages"].values())
        return jnp.square(logits - 1).mean() + stages, (logits, features["firing_rates"], features["stages"], stats)

    return jax.value_and_grad(loss, has_aux=True)


FIRST = (("resnet", "block"), ("vgg", "stage"))
OTHERS = [(name, remat) for name in ARCHITECTURES for remat in ("stage", "block") if (name, remat) not in FIRST]
CASES = [slow(*FIRST[0]), FIRST[1], *(pytest.param(*other, marks=pytest.mark.plan) for other in OTHERS)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "remat"), CASES)
def test_values_and_gradients_are_those_without(name, remat):
    """Logits, firing rates, stage outputs, batch statistics and gradients, with a learnable time constant."""
    without = network(name, "none")
    variables = without.init(jax.random.key(0), SHAPE)
    arguments = variables["params"], variables["batch_stats"]
    expected, found = (jax.jit(gradient(n))(*arguments) for n in (without, network(name, remat)))
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
    moved = jax.tree.map(lambda a, b: not jnp.array_equal(a, b), found[0][1][3], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


def count(jaxpr: Any) -> int:
    """The rematerialised regions of a program."""
    inner = [sub for eqn in jaxpr.eqns for sub in jax.extend.core.jaxprs_in_params(eqn.params)]
    return sum(eqn.primitive.name in ("remat2", "checkpoint") for eqn in jaxpr.eqns) + sum(map(count, inner))


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "regions"), [slow("none", 0), slow("stage", 4 + 2 * 16), ("block", 8 + 2 * 16)])
def test_the_backward_pass_computes_each_region_again(remat, regions):
    """ResNet-18 has four stages of two blocks, with two pairs of a norm and neurons each, which are computed with their
    region, and once more by themselves; evaluation has nothing to compute again."""
    student = build("resnet18", 3, neuron=LIF(), num_steps=2, width=0.05, remat=remat)
    variables = jax.eval_shape(lambda: student.init(jax.random.key(0), SHAPE))
    arguments = variables["params"], variables["batch_stats"]
    assert count(jax.make_jaxpr(gradient(student))(*arguments).jaxpr) == regions
    assert count(jax.make_jaxpr(student.apply)(variables, IMAGES).jaxpr) == 0


@pytest.mark.slow
def test_rates_survive_and_nothing_is_computed_again_for_them():
    students = [
        build("convnet", 3, neuron=PLIF(), num_steps=2, width=0.1, backprop="rate", remat=remat)
        for remat in ("none", "stage")
    ]
    variables = students[0].init(jax.random.key(0), SHAPE)
    arguments = variables["params"], variables["batch_stats"]
    expected, found = (jax.jit(gradient(student))(*arguments) for student in students)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match=r"remat='block': backprop='rate' keeps nothing"):
        Config().replace(remat="block", backprop="rate").checked()
    Config().replace(remat="block", backprop="rate", bptt_epochs=1).checked()


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match="remat 'layer' is unknown"):
        build("convnet", 3, remat="layer")  # pyright: ignore[reportArgumentType]
