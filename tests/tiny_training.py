"""A small training: networks, trainer, batches, and the state after some steps."""

import functools

import chex
import jax
import jax.export
import numpy as np
from jax.sharding import Mesh

from snnkd_jax.data.arrays import from_arrays
from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.dataset import Dataset
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.dynamics.neurons import LIF, PLIF
from snnkd_jax.models import build
from snnkd_jax.parallel.mesh import put_batch, put_replicated
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.optim import make_optimizer
from snnkd_jax.training.trainer import Trainer

SHAPE = (8, 8, 1)
STUDENT = build("convnet", 5, neuron=LIF(), num_steps=3, width=0.25)
RATE_STUDENT = build("convnet", 5, neuron=LIF(), num_steps=3, width=0.25, backprop="rate")
TEACHER = build("convnet", 5, width=0.5)
NO_AUGMENTATION = Augmentation()


def three_classes() -> Dataset:
    """48 images of 8x8 pixels; a bright column tells the class."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 3
    pixels = np.clip(rng.random((48, 8, 8)) / 2 + (np.arange(8) == labels[:, None])[:, None] / 2, 0, 1)
    return from_arrays(train=(pixels[:32], labels[:32]), test=(pixels[32:], labels[32:]))


def make(preset="none", network=STUDENT, augmentation=NO_AUGMENTATION, weight_decay=1e-3, **weights) -> Trainer:
    return Trainer(
        network,
        PRESETS[preset].with_weights(weights),
        make_optimizer("sgd", learning_rate=0.1, num_steps=10, weight_decay=weight_decay),
        Normalisation((0.4,), (0.3,)),
        augmentation,
        SHAPE,
        seed=3,
        teacher=TEACHER,
    )


def adamw_trainer(preset="none", width=0.25, teacher=None) -> Trainer:
    """With everything but connectors that a state can hold: PLIF parameters, AdamW's moments, a clipping state."""
    return Trainer(
        build("convnet", 4, neuron=PLIF(), num_steps=2, width=width),
        PRESETS[preset],
        make_optimizer("adamw", learning_rate=0.01, num_steps=20, clip_norm=1.0),
        Normalisation((0.5,), (0.2,)),
        NO_AUGMENTATION,
        SHAPE,
        seed=0,
        teacher=teacher,
    )


def batch(size=16, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, size, dtype=np.int32)
    images = rng.integers(0, 200, (size, *SHAPE), dtype=np.uint8)
    images[np.arange(size), labels] = 255  # a bright row that tells the class
    return {"images": images, "labels": labels}


@functools.cache
def teacher_variables():
    return TEACHER.init(jax.random.key(9), SHAPE)


def one_device() -> Mesh:
    return Mesh(np.array(jax.devices()[:1]), ("data",))


def after_each_step(trainer, mesh, steps):
    """State and metrics on the host, after each of the steps."""
    compiled = compile_steps(trainer, mesh)
    state = put_replicated(mesh, jax.jit(trainer.init)())
    teacher = put_replicated(mesh, teacher_variables())
    found = []
    for i in range(steps):
        state, metrics = compiled.train(state, teacher, put_batch(mesh, batch(seed=i)))
        found.append(jax.tree.map(np.array, jax.device_get((state, metrics))))
    return found


def run(trainer, mesh, steps):
    return after_each_step(trainer, mesh, steps)[-1]


def assert_close(a, b, rtol):
    """Relative to the largest value of each array."""
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    scaled = [jax.tree.map(lambda x, y: x / (np.abs(y).max() + 1e-12), tree, b) for tree in (a, b)]
    chex.assert_trees_all_close(*scaled, rtol=0, atol=rtol)
