"""Every registered student's steps are lowered for every platform, none of which has to be there."""

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from representative import slow

from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.models import MODELS, build
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.optim import make_optimizer
from snnkd_jax.training.trainer import Trainer

PLATFORMS = ("cpu", "cuda", "tpu")
SHAPE = (32, 32, 3)
FIRST = ("vgg11", "wrn-16-2")
OTHERS = [pytest.param(name, marks=pytest.mark.plan) for name in MODELS if name not in FIRST]


def exported(step: Any, *arguments: Any) -> jax.export.Exported:
    return jax.export.export(step, platforms=PLATFORMS)(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg11", slow("wrn-16-2"), *OTHERS])
def test_training_and_inference_step_are_exported(name):
    teacher = build("vgg11", 5, width=0.05)  # has maps of all sizes
    trainer = Trainer(
        build(name, 5, neuron=LIF(), num_steps=2, width=0.05),
        PRESETS["kdsnn"],
        make_optimizer("sgd", learning_rate=0.1, num_steps=10),
        Normalisation((0.5,) * 3, (0.2,) * 3),
        Augmentation(2, True, 4),
        SHAPE,
        seed=0,
        teacher=teacher,
    )
    steps = compile_steps(trainer, Mesh(np.array(jax.devices()[:1]), ("data",)))
    state = jax.eval_shape(trainer.init)
    teacher_variables = jax.eval_shape(lambda: teacher.init(jax.random.key(0), SHAPE))
    batch = {
        "images": jax.ShapeDtypeStruct((4, *SHAPE), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    training = exported(steps.train, state, teacher_variables, batch)
    variables = {"params": state.params["network"], "batch_stats": state.batch_stats["network"]}
    inference = exported(steps.evaluate, variables, batch | {"mask": jax.ShapeDtypeStruct((4,), jnp.float32)})
    assert training.platforms == inference.platforms == PLATFORMS
    shapes = [(x.shape, x.dtype) for x in jax.tree.leaves(state)]
    assert [(x.shape, x.dtype) for x in training.out_avals[: len(shapes)]] == shapes
    correct = jax.tree.unflatten(inference.out_tree, inference.out_avals)["correct"]
    assert correct.shape == (2,)
    if name in FIRST:
        again = jax.export.deserialize(inference.serialize())
        assert (again.platforms, again.in_avals) == (inference.platforms, inference.in_avals)
