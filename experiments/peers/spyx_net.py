"""Spyx 1: an NNX module of Spyx neurons, run over time with `spyx.nn.run`, a `lax.scan` of the whole network.

Departures of `spyx.nn.LIF`: a spike lowers the potential by the threshold, and is sent one step later; the input is
not divided by tau. Batch norm sees one step at a time; its statistics, which a scan cannot change in place, travel in
the state.
"""

import jax
import jax.numpy as jnp
import spyx.axn  # pyright: ignore[reportMissingImports]
import spyx.nn  # pyright: ignore[reportMissingImports]
from flax import nnx

from .jax_step import make_jax_step
from .workload import ALPHA, NUM_CLASSES, SIZE, TAU, V_THRESHOLD, Step, Unit, Workload, units


class Neuron(nnx.Module):
    """One layer of neurons of the given map, `(H, W, C)`; or ReLU for the teacher, whose state stays as it is."""

    def __init__(self, shape: tuple[int, int, int], spiking: bool, rngs: nnx.Rngs):
        activation = spyx.axn.arctan(ALPHA / 2)  # 1 / (pi (1 + (pi k x)^2)): as wide as atan(2 k)
        self.lif = spyx.nn.LIF(shape, 1 - 1 / TAU, V_THRESHOLD, activation, rngs=rngs) if spiking else None
        self.shape = shape

    def __call__(self, x, v):
        """Currents and potentials to spikes and potentials."""
        return (nnx.relu(x), v) if self.lif is None else self.lif(x, v)


def conv(inputs: int, outputs: int, kernel: int, stride: int, dtype: str, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution without bias."""
    options = {"strides": stride, "padding": kernel // 2, "use_bias": False, "dtype": jnp.dtype(dtype)}
    return nnx.Conv(inputs, outputs, (kernel, kernel), **options, rngs=rngs)


def norm(outputs: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """A batch norm, float32."""
    return nnx.BatchNorm(outputs, momentum=0.9, dtype=jnp.float32, rngs=rngs)


def pool(x: jax.Array) -> jax.Array:
    """The mean over 2x2 windows."""
    return nnx.avg_pool(x, (2, 2), (2, 2))


class Conv(nnx.Module):
    """Convolution, pooling if the unit is `pooled`, norm, neuron."""

    def __init__(self, unit: Unit, size: int, spiking: bool, dtype: str, rngs: nnx.Rngs):
        self.pooled = unit.pooled
        self.conv = conv(unit.inputs, unit.outputs, 3, 1, dtype, rngs)
        self.norm = norm(unit.outputs, rngs)
        self.neurons = nnx.List([Neuron((size, size, unit.outputs), spiking, rngs)])

    def __call__(self, x, v):
        """`[B, H, W, C]` and potentials `[B, h, w, C]` to outputs and potentials of that shape."""
        x = self.conv(x)
        x, u = self.neurons[0](self.norm(pool(x) if self.pooled else x), v[0])
        return x, [u]


class Basic(nnx.Module):
    """A residual block; the neuron comes after the sum."""

    def __init__(self, unit: Unit, size: int, spiking: bool, dtype: str, rngs: nnx.Rngs):
        c = unit.outputs
        self.conv1, self.norm1 = conv(unit.inputs, c, 3, unit.stride, dtype, rngs), norm(c, rngs)
        self.conv2, self.norm2 = conv(c, c, 3, 1, dtype, rngs), norm(c, rngs)
        projection = [conv(unit.inputs, c, 1, unit.stride, dtype, rngs), norm(c, rngs)] if unit.projects else []
        self.shortcut = nnx.Sequential(*projection)
        self.neurons = nnx.List([Neuron((size, size, c), spiking, rngs) for _ in range(2)])

    def __call__(self, x, v):
        """`[B, H, W, C]` and potentials to the same."""
        y, v1 = self.neurons[0](self.norm1(self.conv1(x)), v[0])
        y, v2 = self.neurons[1](self.norm2(self.conv2(y)) + self.shortcut(x), v[1])
        return y, [v1, v2]


class Body(nnx.Module):
    """A model of `workload.units`."""

    def __init__(self, work: Workload, spiking: bool, rngs: nnx.Rngs):
        parts, size = [], SIZE
        body = units(work.model, work.width)
        for unit in body:
            size //= 2 if unit.kind == "pool" or unit.pooled else unit.stride
            make = {"conv": Conv, "basic": Basic}.get(unit.kind)
            parts.append(None if make is None else make(unit, size, spiking, work.dtype, rngs))
        self.parts = nnx.List(parts)
        self.head = nnx.Linear(body[-1].outputs, NUM_CLASSES, dtype=jnp.dtype(work.dtype), rngs=rngs)

    def initial_state(self, batch_size: int):
        """Potentials 0, a list for each part."""
        return [[jnp.zeros((batch_size, *n.shape)) for n in part.neurons] if part else [] for part in self.parts]

    def __call__(self, x, state):
        """One time step: images `[B, H, W, C]` and state to logits `[B, K]` and state."""
        new_state = []
        for part, v in zip(self.parts, state, strict=True):
            if part is None:
                x, v = pool(x), []
            else:
                x, v = part(x, v)
            new_state.append(v)
        return self.head(x.mean((1, 2))).astype(jnp.float32), new_state


def make_step(work: Workload) -> Step:
    """The step."""
    network = Body(work, True, nnx.Rngs(0))
    if work.task == "inference":
        network.eval()
    else:
        network.train()
    is_trained = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("beta")))
    graph, params, stats, constants = nnx.split(network, is_trained, nnx.BatchStat, ...)
    teacher = Body(work, False, nnx.Rngs(1))
    teacher.eval()

    def forward(params, stats, images):
        def one_step(x, carry):
            state, stats = carry
            network = nnx.merge(graph, params, stats, constants)
            logits, state = network(x, state)
            return logits, (state, nnx.state(network, nnx.BatchStat))

        frames = jnp.broadcast_to(images, (work.num_steps, *images.shape))
        logits, (_, stats) = spyx.nn.run(one_step, frames, (network.initial_state(images.shape[0]), stats))
        return logits.mean(0), stats

    return make_jax_step(
        work,
        params,
        stats,
        forward,
        lambda images: teacher(images, teacher.initial_state(images.shape[0]))[0],
        stem_steps=work.num_steps,
    )
