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

import math
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from snnkd_jax.errors import InputError
from snnkd_jax.surrogate import Surrogate, atan

ATAN = atan(2.0)

# exp overflows in float32 a little below; a tau of 1e26 is no leak at all.
_LEAST_W = -60.0

# Up to here an unrolled scan is faster on CPU, because the slices of the time axis fuse into the arithmetic.
_UNROLL_STEPS = 4


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

    Args:
        current: input current x, `[B, T, ...]`, of a floating dtype.
        v: potential before the first step, `[B, ...]`; None is the resting potential.
        tau: membrane time constant in steps, a scalar or `[...]`; not checked, because it may be traced.
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
    v_rest = 0.0 if v_reset is None else v_reset
    _check(current, v_threshold, v_rest)
    dtype = jnp.float64 if current.dtype == jnp.float64 else jnp.float32
    state_shape = current.shape[:1] + current.shape[2:]
    v = jnp.full(state_shape, v_rest, dtype) if v is None else jnp.asarray(v, dtype)
    if v.shape != state_shape:
        raise InputError(f"v has shape {v.shape}; the current {current.shape} needs {state_shape} (no time axis)")

    def step(v, x):
        x = x.astype(dtype)
        h = v + (x - (v - v_rest)) / tau if decay_input else v - (v - v_rest) / tau + x
        s = surrogate(h - v_threshold)
        r = lax.stop_gradient(s) if detach_reset else s
        v = h - r * v_threshold if v_reset is None else r * v_reset + (1 - r) * h
        return v, s.astype(current.dtype)

    num_steps = current.shape[1]
    x = jnp.moveaxis(current, 1, 0)
    v, spikes = lax.scan(step, v, x, unroll=num_steps if num_steps <= _UNROLL_STEPS else 1)
    return jnp.moveaxis(spikes, 0, 1), v


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
        tau=1 + jnp.exp(-jnp.maximum(w, _LEAST_W)),
        decay_input=decay_input,
        v_threshold=v_threshold,
        v_reset=v_reset,
        detach_reset=detach_reset,
        surrogate=surrogate,
    )
    return (spikes, v) if return_v else spikes


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
