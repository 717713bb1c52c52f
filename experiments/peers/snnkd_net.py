"""This project: `models.build` and the step of `train.Trainer`, compiled as `compiled.compile_steps` does."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.dynamics.surrogate import atan
from snnkd_jax.models import build
from snnkd_jax.parallel.compiler import compile_options, quick_compile_options
from snnkd_jax.training.trainer import Trainer

from .jax_step import count, jax_step
from .workload import (
    ALPHA,
    CE_WEIGHT,
    CHANNELS,
    KD_WEIGHT,
    LEARNING_RATE,
    MEAN,
    MOMENTUM,
    NUM_CLASSES,
    SIZE,
    STD,
    TAU,
    TEMPERATURE,
    V_THRESHOLD,
    Step,
    batch,
)

NEURON = LIF(tau=TAU, v_threshold=V_THRESHOLD, surrogate=atan(ALPHA))
IMAGE_SHAPE = (SIZE, SIZE, CHANNELS)


def drawn(draw: Callable[[], Any]) -> Any:
    """What is drawn at the start, by a program that is compiled as `compile_steps` does it."""
    return jax.jit(draw, compiler_options=quick_compile_options())()


def make_step(task: str, model: str, num_steps: int, width: float, batch_size: int) -> Step:
    """The step, metrics included; bytes are normalised inside."""
    backprop = "rate" if task in ("rate", "kd-rate") else "bptt"
    network = build(model, NUM_CLASSES, neuron=NEURON, num_steps=num_steps, width=width, backprop=backprop)
    normalisation = Normalisation((MEAN,) * CHANNELS, (STD,) * CHANNELS)
    raw, classes = batch(batch_size)
    images = jnp.asarray(raw)
    if task == "inference":
        variables = drawn(lambda: network.init(jax.random.key(0), IMAGE_SHAPE))
        return jax_step(
            lambda variables, images: (variables, network.apply(variables, normalisation(images))[0].mean()),
            variables,
            (images,),
            parameters=count(variables["params"]),
            stem_steps=1,
            compiler_options=compile_options(),
        )
    kd = task in ("kd", "kd-rate")
    objective = PRESETS["kdsnn-response"].with_weights({"ce": CE_WEIGHT, "kd": KD_WEIGHT})
    trainer = Trainer(
        network,
        objective.with_constants(temperature=TEMPERATURE) if kd else PRESETS["none"],
        optax.sgd(LEARNING_RATE, MOMENTUM),
        normalisation,
        Augmentation(),
        IMAGE_SHAPE,
        seed=0,
        teacher=build(model, NUM_CLASSES, width=width) if kd else None,
    )
    teacher = trainer.teacher
    teacher_variables = {} if teacher is None else drawn(lambda: teacher.init(jax.random.key(1), IMAGE_SHAPE))
    state = drawn(trainer.init)

    def train(state, teacher_variables, batch):
        state, metrics = trainer.step(state, teacher_variables, batch)
        return state, metrics["loss"], metrics

    return jax_step(
        train,
        state,
        (teacher_variables, {"images": images, "labels": jnp.asarray(classes)}),
        parameters=count(state.params),
        stem_steps=1,
        compiler_options=compile_options(),
    )
