"""Surrogate gradients: a step function forward, a smooth derivative backward.

A spike is the Heaviside step `s = 1[x >= 0]` of the distance to the threshold, whose derivative is zero almost
everywhere. Each surrogate here is a pair: a smooth `primitive` that resembles the step, and its exact
`derivative`, which replaces the step's in the backward pass (Neftci, Mostafa & Zenke, 2019, arXiv 1901.09948).
`alpha` is the sharpness: the derivative's peak grows, and its width shrinks, with it.

| surrogate    | derivative at x                                  | used by                              |
| ------------ | ------------------------------------------------ | ------------------------------------ |
| atan         | alpha/2 / (1 + (pi/2 alpha x)^2)                 | Fang et al. 2021; SpikingJelly       |
| sigmoid      | alpha sigma(alpha x) (1 - sigma(alpha x))        | SpikingJelly's default, alpha 4      |
| triangle     | max(0, alpha - alpha^2 abs(x))                   | Bellec et al. 2018; TET, alpha 1     |
| rectangle    | alpha 1[abs(x) < 1/(2 alpha)]                    | STBP (Wu et al. 2018), alpha 1       |
| fast_sigmoid | 1 / (1 + alpha abs(x))^2                         | SuperSpike (Zenke & Ganguli 2018)    |

The first four primitives rise from 0 to 1. The primitive of `fast_sigmoid`, x / (1 + alpha |x|), rises from
-1/alpha to 1/alpha: its derivative keeps the peak 1 that SuperSpike and snnTorch give it.

`spike_count` fires several spikes, with the derivative of the identity that it rounds (a straight-through estimator).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.errors import InputError

Curve = Callable[[Array, float], Array]


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """A spike function: the step `1[x >= 0]` whose gradient is `derivative`.

    Hashable and compared by value, so that it can be a static argument of `jax.jit`.
    """

    name: str
    alpha: float
    primitive_of: Curve = dataclasses.field(repr=False)
    derivative_of: Curve = dataclasses.field(repr=False)

    def __post_init__(self):
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InputError(f"alpha={self.alpha!r}: the sharpness of a surrogate must be a positive finite number")

    def __call__(self, x: Array) -> Array:
        """Spikes in {0, 1} for the distance `x` of the potential from the threshold, of its shape and dtype."""
        return _spike(self, x)

    def primitive(self, x: Array) -> Array:
        """The smooth function whose derivative replaces the step's, elementwise."""
        return self.primitive_of(x, self.alpha)

    def derivative(self, x: Array) -> Array:
        """The surrogate derivative, elementwise."""
        return self.derivative_of(x, self.alpha)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _spike(surrogate: Surrogate, x: Array) -> Array:
    del surrogate
    return (x >= 0).astype(x.dtype)


def _spike_forward(surrogate, x):
    return _spike(surrogate, x), x


def _spike_backward(surrogate, x, cotangent):
    return (cotangent * surrogate.derivative(x),)


_spike.defvjp(_spike_forward, _spike_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def spike_count(x: Array, levels: int) -> Array:
    """The nearest whole number in 0 to `levels`, halves rounded up, elementwise; its derivative is 1[0 <= x <= levels].

    It is exact, where floor(x + 1/2) rounds the sum: 0.49999997 is below a half.
    """
    below = jnp.floor(x)
    return jnp.clip(below + (x - below >= 0.5).astype(x.dtype), 0, levels)


def _spike_count_forward(x, levels):
    return spike_count(x, levels), x


def _spike_count_backward(levels, x, cotangent):
    return (cotangent * ((x >= 0) & (x <= levels)).astype(x.dtype),)


spike_count.defvjp(_spike_count_forward, _spike_count_backward)


def atan(alpha: float = 2.0) -> Surrogate:
    """Arc tangent: primitive `atan(pi/2 alpha x)/pi + 1/2`."""
    return Surrogate("atan", alpha, _atan_primitive, _atan_derivative)


def _atan_primitive(x, alpha):
    return jnp.arctan(math.pi / 2 * alpha * x) / math.pi + 0.5


def _atan_derivative(x, alpha):
    return alpha / 2 / (1 + (math.pi / 2 * alpha * x) ** 2)


def sigmoid(alpha: float = 4.0) -> Surrogate:
    """Logistic function: primitive `sigma(alpha x)`."""
    return Surrogate("sigmoid", alpha, _sigmoid_primitive, _sigmoid_derivative)


def _sigmoid_primitive(x, alpha):
    return jax.nn.sigmoid(alpha * x)


def _sigmoid_derivative(x, alpha):
    s = jax.nn.sigmoid(alpha * x)
    return alpha * s * (1 - s)


def triangle(alpha: float = 1.0) -> Surrogate:
    """Piecewise quadratic: primitive `1/2 + alpha x - alpha^2 x |x| / 2` for `|x| <= 1/alpha`, else 0 or 1."""
    return Surrogate("triangle", alpha, _triangle_primitive, _triangle_derivative)


def _triangle_primitive(x, alpha):
    u = jnp.clip(alpha * x, -1, 1)
    return 0.5 + u - u * jnp.abs(u) / 2


def _triangle_derivative(x, alpha):
    return jnp.maximum(0, alpha - alpha**2 * jnp.abs(x))


def rectangle(alpha: float = 1.0) -> Surrogate:
    """Piecewise linear: primitive `clip(alpha x + 1/2, 0, 1)`."""
    return Surrogate("rectangle", alpha, _rectangle_primitive, _rectangle_derivative)


def _rectangle_primitive(x, alpha):
    return jnp.clip(alpha * x + 0.5, 0, 1)


def _rectangle_derivative(x, alpha):
    return alpha * (jnp.abs(alpha * x) < 0.5).astype(x.dtype)


def fast_sigmoid(alpha: float = 25.0) -> Surrogate:
    """Softsign: primitive `x / (1 + alpha |x|)`."""
    return Surrogate("fast_sigmoid", alpha, _fast_sigmoid_primitive, _fast_sigmoid_derivative)


def _fast_sigmoid_primitive(x, alpha):
    return x / (1 + alpha * jnp.abs(x))


def _fast_sigmoid_derivative(x, alpha):
    return 1 / (1 + alpha * jnp.abs(x)) ** 2


SURROGATES: dict[str, Callable[..., Surrogate]] = {
    make.__name__: make for make in (atan, sigmoid, triangle, rectangle, fast_sigmoid)
}
"""Name to constructor, of an optional alpha."""
