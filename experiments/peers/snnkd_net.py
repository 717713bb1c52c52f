"""This project: `models.build` and the step of `training.trainer.Trainer`, compiled as by `training.compiled`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict

from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.models import build
from snnkd_jax.parallel.compiler import compile_options, quick_compile_options
from snnkd_jax.training.trainer import Trainer

from .jax_step import count, jax_step
from .neurons import neuron
from .workload import (
    CE_WEIGHT,
    CHANNELS,
    KD_WEIGHT,
    LEARNING_RATE,
    MEAN,
    MOMENTUM,
    NUM_CLASSES,
    SIZE,
    STD,
    TEMPERATURE,
    Step,
    Workload,
    batch,
)

IMAGE_SHAPE = (SIZE, SIZE, CHANNELS)


def drawn(draw: Callable[[], Any]) -> Any:
    """What is drawn at the start, by a program that is compiled as `compile_steps` does it."""
    return jax.jit(draw, compiler_options=quick_compile_options())()


def trained(params: Any) -> Any:
    """The parameters without the constants of integer neurons, which are among them."""
    return {path: x for path, x in flatten_dict(params).items() if path[-1] != "qcfs_threshold"}


def make_step(work: Workload) -> Step:
    """The step, metrics included; bytes are normalised inside."""
    options = {"width": work.width, "dtype": work.dtype}
    backprop = "rate" if work.has_rates else "bptt"
    network = build(
        work.model, NUM_CLASSES, neuron=neuron(work), num_steps=work.time_steps, backprop=backprop, **options
    )
    normalisation = Normalisation((MEAN,) * CHANNELS, (STD,) * CHANNELS)
    raw, classes = batch(work.batch_size)
    images = jnp.asarray(raw)
    if work.task == "inference":
        variables = drawn(lambda: network.init(jax.random.key(0), IMAGE_SHAPE))
        return jax_step(
            work,
            lambda variables, images: (variables, network.apply(variables, normalisation(images))[0].mean()),
            variables,
            (images,),
            parameters=count(trained(variables["params"])),
            stem_steps=1,
            compiler_options=compile_options(),
        )
    objective = PRESETS["kdsnn-response"].with_weights({"ce": CE_WEIGHT, "kd": KD_WEIGHT})
    trainer = Trainer(
        network,
        objective.with_constants(temperature=TEMPERATURE) if work.has_teacher else PRESETS["none"],
        optax.sgd(LEARNING_RATE, MOMENTUM),
        normalisation,
        Augmentation(),
        IMAGE_SHAPE,
        seed=0,
        teacher=build(work.model, NUM_CLASSES, **options) if work.has_teacher else None,
    )
    teacher = trainer.teacher
    teacher_variables = {} if teacher is None else drawn(lambda: teacher.init(jax.random.key(1), IMAGE_SHAPE))
    state = drawn(trainer.init)

    def train(state, teacher_variables, batch):
        state, metrics = trainer.step(state, teacher_variables, batch)
        return state, metrics["loss"], metrics

    return jax_step(
        work,
        train,
        state,
        (teacher_variables, {"images": images, "labels": jnp.asarray(classes)}),
        parameters=count(trained(state.params)),
        stem_steps=1,
        compiler_options=compile_options(),
    )
