"""Gradient accumulation: what the parts of a batch give together, and where they lie."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from representative import slow
from tiny_training import STUDENT, assert_close, batch, make, one_device, run, teacher_variables

from snnkd_jax.data.augment import Augmentation
from snnkd_jax.errors import InputError
from snnkd_jax.models.layers import BatchNorm
from snnkd_jax.parallel.mesh import check_batch_size, data_mesh
from snnkd_jax.planning.collectives import collectives
from snnkd_jax.training.compiled import compile_steps

AUGMENTATION = Augmentation(1, True, 3)


def without_batch_statistics():
    """The student with norms by constants, and a gain that makes its neurons fire all the same."""

    def norm(**options):
        return BatchNorm(**(options | {"train": False, "v_threshold": 5.0}))

    return dataclasses.replace(STUDENT, module=STUDENT.module.clone(norm=norm))


@pytest.mark.slow
def test_without_batch_statistics_the_parts_make_the_whole_batch():
    """State and metrics, with augmentation and teacher."""
    whole = make("kdsnn-response", without_batch_statistics(), AUGMENTATION)
    found = run(dataclasses.replace(whole, accumulate=4), one_device(), 2)
    expected = run(whole, one_device(), 2)
    assert min(expected[1]["firing_rates"].values()) > 0.02
    assert_close(found[0], expected[0], 1e-5)
    assert_close(found[1], expected[1], 1e-4)


@pytest.mark.slow
def test_batch_norm_sees_one_part_after_the_other():
    """By hand: the even images, then the odd ones; gradients averaged, running statistics updated twice."""
    trainer = dataclasses.replace(make("none", weight_decay=0.0), accumulate=2)
    start, data = jax.jit(trainer.init)(), batch(seed=0)

    @jax.jit
    def gradient(params, batch_stats, images, labels):
        def loss(params):
            variables = {"params": params, "batch_stats": batch_stats}
            (logits, _), stats = STUDENT.apply_train(variables, (images / 255 - 0.4) / 0.3)
            return optax.softmax_cross_entropy_with_integer_labels(logits.mean(1), labels).mean(), stats

        return jax.value_and_grad(loss, has_aux=True)(params)

    params, stats = start.params["network"], start.batch_stats["network"]
    losses, gradients = [], []
    for n in range(2):
        part = jnp.float32(data["images"][n::2]), data["labels"][n::2]
        (loss, stats), grads = gradient(params, stats, *part)
        losses.append(loss)
        gradients.append(grads)
    state, metrics = run(trainer, one_device(), 1)
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert_close(state.batch_stats["network"], stats, 1e-5)
    expected = jax.tree.map(lambda p, a, b: p - 0.1 * 1.9 * (a + b) / 2, params, *gradients)  # Nesterov, from rest
    assert_close(state.params["network"], expected, 1e-5)


@pytest.mark.slow
def test_every_part_is_blanked_differently():
    """Two parts of the same images: the cross-entropy is that of one, the blanked features' distance is not."""
    data = batch(8)
    twice = {name: np.repeat(x, 2, axis=0) for name, x in data.items()}
    one = make("bkdsnn", without_batch_statistics())
    state = jax.jit(one.init)()
    _, expected = jax.jit(one.step)(state, teacher_variables(), data)
    _, found = jax.jit(dataclasses.replace(one, accumulate=2).step)(state, teacher_variables(), twice)
    assert float(found["ce"]) == pytest.approx(float(expected["ce"]), rel=1e-5)
    assert float(found["feature"]) != pytest.approx(float(expected["feature"]), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [slow(1), 2])
def test_devices_exchange_gradients_and_statistics_and_no_activation(parts):
    """On eight devices: all-reduces of gradients, of a value a channel, and of scalars."""
    trainer = dataclasses.replace(make("kdsnn", augmentation=AUGMENTATION), accumulate=parts)
    state = jax.eval_shape(trainer.init)
    step: Any = compile_steps(trainer, data_mesh()).train
    data = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch(32).items()}
    found = collectives(step.lower(state, jax.eval_shape(teacher_variables), data).compile().as_text())
    assert {one.operation for one in found} == {"all-reduce"}
    # Each gradient once; that of a dense layer may lie on its side.
    kernels = sorted(sorted(x.shape) for x in jax.tree.leaves(state.params) if x.ndim > 1)
    assert sorted(sorted(one.shape) for one in found if len(one.shape) > 1) == kernels


def test_parts_must_divide_the_batch():
    check_batch_size(16, data_mesh(), 2)
    with pytest.raises(InputError, match="batch_size=16 must be a positive multiple of accumulate=4 times the number"):
        check_batch_size(16, data_mesh(), 4)
