"""JAX the obvious way: this project's bodies, called once a time step inside `lax.scan`, differentiated by JAX.

The carry holds the membrane potentials and the batch statistics; the compiler's options are its defaults. Batch norm
sees one step at a time. Norm and convolution are this project's, with their gradients: naive is the scan alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.dynamics.surrogate import atan
from snnkd_jax.models import MODELS, build

from .jax_step import make_jax_step
from .workload import ALPHA, CHANNELS, NUM_CLASSES, SIZE, TAU, V_THRESHOLD, Step, Workload

SPIKE = atan(ALPHA)


class Neuron(nn.Module):
    """One time step of a layer of LIF neurons; the potential is in the collection "neurons"."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Currents `[B, ...]` to spikes."""
        v = self.variable("neurons", "v", jnp.zeros, x.shape)
        h = v.value + (x - v.value) / TAU
        spikes = SPIKE(h - V_THRESHOLD)
        v.value = (1 - spikes) * h
        return spikes


def make_step(work: Workload) -> Step:
    """The step."""
    train = work.task != "inference"
    options = {"width": work.width, "dtype": jnp.dtype(work.dtype)}
    body = MODELS[work.model](num_classes=NUM_CLASSES, activation=Neuron, **options)
    teacher = build(work.model, NUM_CLASSES, **options)  # in the program of the task `kd` only
    shape = (SIZE, SIZE, CHANNELS)
    variables = jax.jit(lambda key: body.init(key, jnp.zeros((1, *shape)), train=False))(jax.random.key(0))
    teacher_variables = teacher.init(jax.random.key(1), shape) if work.has_teacher else {}

    def forward(params, stats, images):
        def step(carry, x):
            variables = {"params": params, **carry}
            (logits, _), carry = body.apply(variables, x, train=train, mutable=["neurons", "batch_stats"])
            return carry, logits

        inputs = {"params": params, "batch_stats": stats}
        shapes = jax.eval_shape(lambda: body.apply(inputs, images, train=False, mutable=["neurons"])[1]["neurons"])
        rest = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        frames = jnp.broadcast_to(images, (work.num_steps, *images.shape))
        carry, logits = jax.lax.scan(step, {"neurons": rest, "batch_stats": stats}, frames)
        return logits.mean(0), carry["batch_stats"]

    return make_jax_step(
        work,
        variables["params"],
        variables["batch_stats"],
        forward,
        lambda images: teacher.apply(teacher_variables, images)[0],
        stem_steps=work.num_steps,
    )
