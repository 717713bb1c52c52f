"""Neurons whose constants differ from neuron to neuron, or from those of `snnkd_jax.dynamics.neurons`.

    h[t] = v[t-1] - leak (v[t-1] - v_rest) + gain x[t]     charge, from v[-1] = v_rest
    s[t] = 1[h >= v_threshold]                             fire
    v[t] = s[t] v_reset + (1 - s[t]) h[t]                  hard reset

This is one Euler step of any neuron of NIR without a synaptic current:

| node        | leak     | gain       | v_rest   | output |
| ----------- | -------- | ---------- | -------- | ------ |
| `LIF`       | dt / tau | r dt / tau | v_leak   | s      |
| `IF`        | 0        | r dt       | v_reset  | s      |
| `Threshold` | 1        | 1          | 0        | s      |
| `LI`        | dt / tau | r dt / tau | v_leak   | h      |
| `I`         | 0        | r dt       | 0        | h      |

The constants are part of the equations, not learnable parameters.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.dynamics.integration import Parameters
from snnkd_jax.dynamics.neurons import ATAN, reset
from snnkd_jax.dynamics.surrogate import Surrogate
from snnkd_jax.models.activation import at_every_step, integrate_from_state


@dataclasses.dataclass(frozen=True)
class Constant:
    """A float64 array that can be hashed, `[H, W, C]` or `[N]` with axes of length 1 for equal values, or `[]`."""

    shape: tuple[int, ...]
    data: bytes = dataclasses.field(repr=False)

    @classmethod
    def of(cls, value: Any) -> "Constant":
        """The values of an array, with length 1 for each axis along which they are equal."""
        array = np.asarray(value, np.float64)
        for axis in range(array.ndim):
            first = array.take([0], axis)
            array = first if (array == first).all() else array
        array = array.reshape(()) if array.size == 1 else array
        return cls(array.shape, array.tobytes())

    @functools.cached_property
    def array(self) -> NDArray:
        """The values, read-only."""
        return np.frombuffer(self.data, np.float64).reshape(self.shape)

    def beside(self, x: Array) -> Array:
        """The values in the dtype of x, `[..., H, W, C]` or `[..., N]`, with as many axes."""
        axes = (1,) * (x.ndim - len(self.shape)) if self.shape else ()
        return jnp.asarray(self.array, x.dtype).reshape(axes + self.shape)


ZERO, ONE = Constant.of(0.0), Constant.of(1.0)


@dataclasses.dataclass(frozen=True)
class EulerNeuron:
    """The neuron of the equations above; without a `v_threshold` it returns h, and has no `v_reset`."""

    leak: Constant
    gain: Constant
    v_rest: Constant
    v_threshold: Constant | None = None
    v_reset: Constant | None = None
    surrogate: Surrogate = ATAN

    @property
    def parameters(self) -> Mapping[str, float | Array]:
        """None are learnable."""
        return {}

    def init(self, shape: tuple[int, ...]) -> Array:
        """The potential at rest."""
        return jnp.zeros(shape) + self.v_rest.beside(jnp.zeros(shape))

    def step(self, state: Array, current: Array, parameters: Parameters) -> tuple[Array, Array]:
        """The next potential, and spikes, or h without a threshold."""
        del parameters
        leak, gain, v_rest = (x.beside(state) for x in (self.leak, self.gain, self.v_rest))
        h = state - leak * (state - v_rest) + gain * current
        if self.v_threshold is None or self.v_reset is None:
            return h, h
        v_threshold = self.v_threshold.beside(h)
        s = self.surrogate(h - v_threshold)
        return reset(h, s, v_threshold, self.v_reset.beside(h)), s


class Integrator(nn.Module):
    """A layer of neurons without a threshold: currents `[B, T, ...]`, or `[B, 1, ...]` if constant, to potentials.

    Unlike `Spike`, it writes no firing rates, as it does not fire.
    """

    neuron: EulerNeuron
    num_steps: int

    @nn.compact
    def __call__(self, current: Array) -> Array:
        """The potentials after the charge, `[B, num_steps, ...]`."""
        return integrate_from_state(self, self.neuron, at_every_step(current, self.num_steps), {})
