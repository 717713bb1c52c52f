"""Integrate-and-fire neurons as pure functions.

Time is in simulation steps and potentials in units of the input current. Arrays are batch-major, `[B, T, ...]`, and
no other module scans the time axis. All neurons are one equation, `integrate`, with different constants:

    h[t] = v[t-1] + (x[t] - (v[t-1] - v_rest)) / tau       charge, decay_input=True
    h[t] = v[t-1] - (v[t-1] - v_rest) / tau + x[t]         charge, decay_input=False
    s[t] = spike(h[t] - v_threshold)                       fire: 1[h >= v_threshold], surrogate derivative
    v[t] = s[t] v_reset + (1 - s[t]) h[t]                  hard reset
    v[t] = h[t] - s[t] v_threshold                         soft reset (v_reset=None)

where v_rest = v_reset, or 0 with the soft reset, and v[-1] = v_rest unless a state is passed.

| neuron               | tau                                | decay_input |
| -------------------- | ---------------------------------- | ----------- |
| `lif`                | a constant >= 1                    | either      |
| `plif`               | 1 + exp(-w) with w learnable       | either      |
| `integrate_and_fire` | infinite                           | False       |

These are SpikingJelly's conventions. Refractoriness and synaptic filtering are left out on purpose: with a handful
of steps they would only add parameters. The potential is computed in float32 (float64 for float64 input) whatever
the dtype of the current; spikes have the dtype of the current.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from snnkd_jax.dynamics.surrogate import Surrogate, atan
from snnkd_jax.errors import InputError

ATAN = atan(2.0)

# exp overflows in float32 a little below; a tau of 1e26 is no leak at all.
_LEAST_W = -60.0

# Up to here an unrolled scan is faster on CPU, because the slices of the time axis fuse into the arithmetic; its work
# grows with the square of T, because each step's output recomputes the steps before it.
_UNROLL_STEPS = 16


@dataclasses.dataclass(frozen=True)
class _Dynamics:
    """The constants of the equations above, and one time step of them.

    `tau` is None if it is not a constant; then it is the last argument of `charge` and `step`, which is None otherwise.
    """

    tau: float | None
    decay_input: bool
    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    surrogate: Surrogate

    @property
    def v_rest(self) -> float:
        return 0.0 if self.v_reset is None else self.v_reset

    def charge(self, v: Array, x: Array, tau: Array | None) -> Array:
        """h[t] of v[t-1] and x[t]."""
        time_constant = self.tau if tau is None else tau
        assert time_constant is not None
        if self.decay_input:
            return v + (x - (v - self.v_rest)) / time_constant
        return v - (v - self.v_rest) / time_constant + x

    def fire(self, h: Array) -> tuple[Array, Array]:
        """s[t] and v[t] of h[t]."""
        s = self.surrogate(h - self.v_threshold)
        r = lax.stop_gradient(s) if self.detach_reset else s
        return s, h - r * self.v_threshold if self.v_reset is None else r * self.v_reset + (1 - r) * h

    def step(self, v: Array, x: Array, tau: Array | None) -> tuple[Array, Array]:
        """s[t], of the dtype of x, and v[t]."""
        s, v = self.fire(self.charge(v, x.astype(v.dtype), tau))
        return s.astype(x.dtype), v


def integrate(
    current: Array,
    v: ArrayLike | None = None,
    *,
    tau: ArrayLike,
    decay_input: bool,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: Surrogate = ATAN,
) -> tuple[Array, Array]:
    """Runs the equations above over the time axis; every neuron is a case of this function.

    The backward pass keeps nothing but the current: it computes the potentials once more.

    Args:
        current: input current x, `[B, T, ...]`, of a floating dtype.
        v: potential before the first step, `[B, ...]`; None is the resting potential.
        tau: membrane time constant in steps, a constant or an array of shape `[]` or `[...]`, with respect to which the
            result can be differentiated; not checked, because it may be traced.
        decay_input: divide the current by tau as well.
        v_threshold: a spike is fired at `h >= v_threshold`.
        v_reset: potential after a spike and at rest; None subtracts the threshold instead (soft reset).
        detach_reset: stop the gradient of `s` inside the reset.
        surrogate: the spike function.

    Returns:
        Spikes in {0, 1}, `[B, T, ...]`, of the dtype of `current`, and the potential after the last step, `[B, ...]`.
        Passing it as `v` with the continuation of the current gives what the uncut sequence would have given.

    Raises:
        InputError: for fewer than two axes, no time step, an integer current, a state of another shape, or a
            threshold that is not above the reset potential.
    """
    current = jnp.asarray(current)
    v = _initial(current, v, v_threshold, v_reset)
    constant, array = _constant(tau, v.dtype)
    dynamics = _Dynamics(constant, decay_input, v_threshold, v_reset, detach_reset, surrogate)
    # Compiled even outside jit, so that a sequence and its pieces are rounded alike.
    return jax.jit(_integrate, static_argnums=0)(dynamics, current, v, array)


def _constant(tau: ArrayLike, dtype: DTypeLike) -> tuple[float | None, Array | None]:
    """`(tau, None)` for a number, `(None, tau)` for an array."""
    return (float(tau), None) if isinstance(tau, int | float) else (None, jnp.asarray(tau, dtype))


def _initial(current: Array, v: ArrayLike | None, v_threshold: float, v_reset: float | None) -> Array:
    """The potential before the first step, in float32 or float64; raises what `integrate` raises."""
    v_rest = 0.0 if v_reset is None else v_reset
    _check(current, v_threshold, v_rest)
    dtype = jnp.float64 if current.dtype == jnp.float64 else jnp.float32
    state_shape = current.shape[:1] + current.shape[2:]
    v = jnp.full(state_shape, v_rest, dtype) if v is None else jnp.asarray(v, dtype)
    if v.shape != state_shape:
        raise InputError(f"v has shape {v.shape}; the current {current.shape} needs {state_shape} (no time axis)")
    return v


def _apart(f: Callable, *args: Any) -> Any:
    """`f(*args)`, on CPU compiled apart from what is around it.

    XLA would fuse the norm that makes the current into the unrolled steps and compute it again in each of them: a
    training step of ResNet-18 takes 1.4 times as long at T = 4 through rates, and twice as long at T = 8. Its CPU
    compiler drops `lax.optimization_barrier` before it fuses, but not a conditional on what was behind one.
    """

    def conditional(*args):
        return lax.cond(lax.optimization_barrier(jnp.array(True)), f, f, *args)

    return lax.platform_dependent(*args, cpu=conditional, default=f)


def _scan(step: Callable, carry: Any, *x: Array, reverse: bool = False) -> tuple[Any, Array]:
    """`lax.scan` of `step(carry, *x[t]) -> (carry, y[t])` over axis 1 of the arrays x, `[B, T, ...]` each.

    The outputs have the shape and dtype of the last of the arrays and take its place, step by step: XLA would allocate
    buffers of their own for all layers at once, before the network starts.
    """
    num_steps = x[-1].shape[1]
    if num_steps <= _UNROLL_STEPS:
        y: dict[int, Array] = {}
        for t in reversed(range(num_steps)) if reverse else range(num_steps):
            carry, y[t] = step(carry, *(a[:, t] for a in x))
        return carry, jnp.stack([y[t] for t in range(num_steps)], axis=1)

    def write(state, t):
        carry, buffer = state
        at_t = [lax.dynamic_index_in_dim(a, t, axis=1, keepdims=False) for a in (*x[:-1], buffer)]
        carry, y = step(carry, *at_t)
        return (carry, lax.dynamic_update_index_in_dim(buffer, y, t, axis=1)), None

    return lax.scan(write, (carry, x[-1]), jnp.arange(num_steps), reverse=reverse)[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _integrate(dynamics: _Dynamics, current: Array, v: Array, tau: Array | None) -> tuple[Array, Array]:
    def run(current, v, tau):
        def step(v, x):
            s, v = dynamics.step(v, x, tau)
            return v, s

        v, spikes = _scan(step, v, current)
        return spikes, v

    return _apart(run, current, v, tau)


def _integrate_forward(dynamics, current, v, tau):
    return _integrate(dynamics, current, v, tau), (current, v, tau)


def _integrate_backward(dynamics, residuals, cotangents):
    """The chain rule through `dynamics.step`, from the last step to the first."""
    current, v, tau = residuals
    spikes_bar, v_bar = cotangents

    def run(current, v, tau, spikes_bar, v_bar):
        _, before = _scan(lambda v, x: (dynamics.step(v, x, tau)[1], v), v, current.astype(v.dtype))

        def step(carry, v, x, s_bar):
            v_bar, tau_bar = carry
            v_bar, x_bar, tau_bar_t = jax.vjp(dynamics.step, v, x, tau)[1]((s_bar, v_bar))
            return (v_bar, jax.tree.map(jnp.add, tau_bar, tau_bar_t)), x_bar

        carry = v_bar, jax.tree.map(jnp.zeros_like, tau)
        (v_bar, tau_bar), x_bar = _scan(step, carry, before, current, spikes_bar, reverse=True)
        return x_bar, v_bar, tau_bar

    return _apart(run, current, v, tau, spikes_bar, v_bar)


_integrate.defvjp(_integrate_forward, _integrate_backward)


def integrate_with_slopes(
    current: Array,
    *,
    tau: ArrayLike,
    decay_input: bool,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: Surrogate = ATAN,
) -> tuple[Array, Array, Array | None]:
    """Spikes from rest, and how their mean over time moves with the current and with tau, without a tape.

        kappa     = (1/T) sum_t s'[t] e[t]      e[t] = dh[t]/dx      for one and the same change of x at all steps
        kappa_tau = (1/T) sum_t s'[t] u[t]      u[t] = dh[t]/dtau

    s'[t] is the surrogate derivative at h[t] - v_threshold. e and u obey the charge equation, linearised, and reach the
    next step through dv[t]/dh[t], which holds the surrogate derivative too unless `detach_reset`. They are summed up
    while the neuron runs, so nothing of `[B, T, ...]` is kept for a backward pass: this is the neuron's part of
    rate-based backpropagation (`snnkd_jax.models.rate`).

    Args:
        current: x, `[B, T, ...]`.
        tau, decay_input, v_threshold, v_reset, detach_reset, surrogate: see `integrate`, as are the errors.

    Returns:
        Spikes `[B, T, ...]`, kappa and kappa_tau, `[B, ...]` each; kappa_tau is None for a constant tau.
    """
    current = jnp.asarray(current)
    v = _initial(current, None, v_threshold, v_reset)
    constant, array = _constant(tau, v.dtype)
    dynamics = _Dynamics(constant, decay_input, v_threshold, v_reset, detach_reset, surrogate)

    def run(current, v, tau):
        zero, one = jnp.zeros_like(v), jnp.ones_like(v)
        # (dx[t], dtau) along each of the directions; a constant tau has none.
        directions = [(one, jax.tree.map(jnp.zeros_like, tau))]
        if tau is not None:
            directions.append((zero, jnp.ones_like(tau)))

        def step(carry, x):
            v, slopes, sums = carry
            x = x.astype(v.dtype)
            (s, after), pull = jax.vjp(dynamics.fire, dynamics.charge(v, x, tau))
            (ds_dh,), (dv_dh,) = pull((one, zero)), pull((zero, one))
            dh = [
                jax.jvp(dynamics.charge, (v, x, tau), (slope, *direction))[1]
                for slope, direction in zip(slopes, directions, strict=True)
            ]
            slopes = [dv_dh * e for e in dh]
            sums = [total + ds_dh * e for total, e in zip(sums, dh, strict=True)]
            return (after, slopes, sums), s.astype(current.dtype)

        zeros = [zero] * len(directions)
        (_, _, sums), spikes = _scan(step, (v, zeros, zeros), current)
        return spikes, [total / current.shape[1] for total in sums]

    spikes, slopes = _apart(run, current, v, array)
    return spikes, slopes[0], None if array is None else slopes[1]


def _check(current: Array, v_threshold: float, v_rest: float) -> None:
    if current.ndim < 2 or current.shape[1] < 1:
        raise InputError(f"current has shape {current.shape}; it must be [B, T, ...] with T >= 1")
    if not jnp.issubdtype(current.dtype, jnp.floating):
        raise InputError(f"current has dtype {current.dtype}; convert it to a floating dtype")
    check_potentials(v_threshold, v_rest)


def check_potentials(v_threshold: float, v_rest: float) -> None:
    """Raises `InputError` unless both are finite and the threshold is above the resting (and reset) potential."""
    if not math.isfinite(v_rest):
        raise InputError(f"v_reset={v_rest!r} must be finite, or None for the soft reset")
    if not (math.isfinite(v_threshold) and v_threshold > v_rest):
        raise InputError(f"v_threshold={v_threshold!r} must be finite and above the reset potential {v_rest!r}")


def check_tau(tau: float) -> None:
    """Raises `InputError` unless `tau`, in steps, is a number >= 1: below, the decay 1 - 1/tau would be negative."""
    if not (math.isfinite(tau) and tau >= 1):
        raise InputError(f"tau={tau!r} must be a finite number of steps >= 1 (the decay is 1 - 1/tau)")


def lif(
    current: Array,
    *,
    tau: float = 2.0,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    decay_input: bool = True,
    detach_reset: bool = False,
    surrogate: Surrogate = ATAN,
    v: ArrayLike | None = None,
    return_v: bool = False,
) -> Any:
    """Leaky integrate-and-fire: currents `[B, T, ...]` to spikes in {0, 1}, `[B, T, ...]`.

    Args:
        current: x, `[B, T, ...]`.
        tau: membrane time constant in steps, >= 1.
        decay_input, v_threshold, v_reset, detach_reset, surrogate, v: see `integrate`.
        return_v: return `(spikes, v)` with the final potential `[B, ...]` instead of the spikes alone; passed as `v`
            with the continuation of the current, it goes on as if the sequence had not been cut.

    Raises:
        InputError: for `tau < 1`, and what `integrate` raises.

    Reference: Gerstner et al., Neuronal Dynamics (2014), ch. 1.3; SpikingJelly's `LIFNode`.
    """
    check_tau(tau)
    spikes, v = integrate(
        current,
        v,
        tau=tau,
        decay_input=decay_input,
        v_threshold=v_threshold,
        v_reset=v_reset,
        detach_reset=detach_reset,
        surrogate=surrogate,
    )
    return (spikes, v) if return_v else spikes


def plif(
    current: Array,
    w: ArrayLike,
    *,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    decay_input: bool = True,
    detach_reset: bool = False,
    surrogate: Surrogate = ATAN,
    v: ArrayLike | None = None,
    return_v: bool = False,
) -> Any:
    """LIF with a learnable time constant, `1/tau = sigmoid(w)`, so that tau > 1 whatever the optimiser does.

    Args:
        current: x, `[B, T, ...]`.
        w: the parameter, a scalar or broadcastable to `[...]`; `plif_parameter(tau)` gives its initial value.
        v_threshold, v_reset, decay_input, detach_reset, surrogate, v, return_v: see `lif`.

    Reference: Fang et al., ICCV 2021, arXiv 2007.05785.
    """
    spikes, v = integrate(
        current,
        v,
        tau=plif_tau(w),
        decay_input=decay_input,
        v_threshold=v_threshold,
        v_reset=v_reset,
        detach_reset=detach_reset,
        surrogate=surrogate,
    )
    return (spikes, v) if return_v else spikes


def plif_tau(w: ArrayLike) -> Array:
    """The time constant of `plif`, `1 + exp(-w)` steps."""
    return 1 + jnp.exp(-jnp.maximum(w, _LEAST_W))


def plif_parameter(tau: float) -> float:
    """The `w` of `plif` with `1/tau = sigmoid(w)`, that is `-log(tau - 1)`; `tau` in steps, > 1."""
    if not (math.isfinite(tau) and tau > 1):
        raise InputError(f"tau={tau!r} must be a finite number of steps > 1 for a learnable time constant")
    return -math.log(tau - 1)


def integrate_and_fire(
    current: Array,
    *,
    v_threshold: float = 1.0,
    v_reset: float | None = 0.0,
    detach_reset: bool = False,
    surrogate: Surrogate = ATAN,
    v: ArrayLike | None = None,
    return_v: bool = False,
) -> Any:
    """Integrate-and-fire without a leak, `h[t] = v[t-1] + x[t]`; arguments and errors as `lif`."""
    spikes, v = integrate(
        current,
        v,
        tau=math.inf,
        decay_input=False,
        v_threshold=v_threshold,
        v_reset=v_reset,
        detach_reset=detach_reset,
        surrogate=surrogate,
    )
    return (spikes, v) if return_v else spikes
