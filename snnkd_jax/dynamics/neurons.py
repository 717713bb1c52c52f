"""Spiking neurons: leaky integrate-and-fire (LIF), with a learnable time constant (PLIF), without a leak (IF), and
with several spikes per step (integer LIF, ILIF).

Time is in simulation steps and potentials in units of the input current. The state of a neuron is its potential v:

    h[t] = v[t-1] + (x[t] - (v[t-1] - v_rest)) / tau       charge of LIF and PLIF, decay_input=True
    h[t] = v[t-1] - (v[t-1] - v_rest) / tau + x[t]         charge of LIF and PLIF, decay_input=False
    h[t] = v[t-1] + x[t]                                   charge of IF
    s[t] = spike(h[t] - v_threshold)                       fire: 1[h >= v_threshold], surrogate derivative
    v[t] = s[t] v_reset + (1 - s[t]) h[t]                  hard reset
    v[t] = h[t] - s[t] v_threshold                         soft reset (v_reset=None)

where v_rest = v_reset, or 0 with the soft reset, and v[-1] = v_rest unless a state is passed. The time constant of
`LIF` is tau >= 1; that of `PLIF` is 1 + exp(-w) with w learnable. `ILIF` has the charge with decay_input=False, the
soft reset, and counts of spikes in place of spikes:

    s[t] = clip(round(h[t] / v_threshold), 0, D)           fire: 0 to D spikes, D = levels, halves rounded up
    ds[t]/dh[t] = 1[0 <= h[t] <= D v_threshold] / v_threshold

These are SpikingJelly's conventions, but that its `ILIFNode` rounds halves to even numbers. Refractoriness and synaptic
filtering are left out on purpose: with a handful of steps they would only add parameters.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from snnkd_jax.dynamics.integration import Neuron as Neuron
from snnkd_jax.dynamics.integration import Parameters, integrate
from snnkd_jax.dynamics.integration import integrate_with_slopes as integrate_with_slopes
from snnkd_jax.dynamics.surrogate import SURROGATES, Surrogate, atan, spike_count
from snnkd_jax.errors import InputError, check_choice, check_count

ATAN = atan(2.0)

MAX_LEVELS = 256
"""Larger counts of spikes are not exact in bfloat16."""


def reset(h: Array, s: Array, v_threshold: float | Array, v_reset: float | Array | None, detach: bool = False) -> Array:
    """The potential v[t] after the spikes s[t] of the potential h[t], `[B, ...]` each; `detach`: no gradient by s."""
    r = lax.stop_gradient(s) if detach else s
    return h - r * v_threshold if v_reset is None else r * v_reset + (1 - r) * h


class _IntegrateAndFire:
    """Fire and reset, for neurons with a `charge` whose state is the potential."""

    v_threshold: float
    v_reset: float | None
    detach_reset: bool
    surrogate: Surrogate

    def __post_init__(self):
        if not math.isfinite(self.v_rest):
            raise InputError(f"v_reset={self.v_rest!r} must be finite, or None for the soft reset")
        if not (math.isfinite(self.v_threshold) and self.v_threshold > self.v_rest):
            raise InputError(
                f"v_threshold={self.v_threshold!r} must be finite and above the reset potential {self.v_rest!r}"
            )

    @property
    def parameters(self) -> Mapping[str, float | Array]:
        return {}

    @property
    def v_rest(self) -> float:
        return 0.0 if self.v_reset is None else self.v_reset

    def init(self, shape: tuple[int, ...]) -> Array:
        return jnp.full(shape, self.v_rest, float)

    def charge(self, v: Array, x: Array, parameters: Parameters) -> Array:
        """The potential h[t] before it fires, from v[t-1] and x[t], `[B, ...]` each."""
        raise NotImplementedError

    def fire(self, h: Array) -> Array:
        """The spikes s[t] of the potential h[t]."""
        return self.surrogate(h - self.v_threshold)

    def step(self, state: Array, current: Array, parameters: Parameters) -> tuple[Array, Array]:
        h = self.charge(state, current, parameters)
        s = self.fire(h)
        return reset(h, s, self.v_threshold, self.v_reset, self.detach_reset), s


class _Leaky(_IntegrateAndFire):
    """The charge of neurons with a time constant."""

    tau: float
    decay_input: bool

    def __post_init__(self):
        if not (math.isfinite(self.tau) and self.tau >= 1):
            raise InputError(f"tau={self.tau!r} must be a finite number of steps >= 1 (the decay is 1 - 1/tau)")
        super().__post_init__()

    def charge(self, v: Array, x: Array, parameters: Parameters) -> Array:
        tau = parameters.get("tau", self.tau)
        if self.decay_input:
            return v + (x - (v - self.v_rest)) / tau
        return v - (v - self.v_rest) / tau + x


@dataclasses.dataclass(frozen=True)
class LIF(_Leaky):
    """Leaky integrate-and-fire; the equations are at the top of this module.

    Args:
        tau: membrane time constant in steps, >= 1.
        v_threshold: a spike is fired at `h >= v_threshold`.
        v_reset: potential after a spike and at rest; None subtracts the threshold instead (soft reset).
        decay_input: divide the current by tau as well.
        detach_reset: stop the gradient of `s` inside the reset.
        surrogate: the spike function.

    Raises:
        InputError: for `tau < 1`, or a threshold that is not above the reset potential.

    Reference: Gerstner et al., Neuronal Dynamics (2014), ch. 1.3; SpikingJelly's `LIFNode`.
    """

    tau: float = 2.0
    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    decay_input: bool = True
    detach_reset: bool = False
    surrogate: Surrogate = ATAN


@dataclasses.dataclass(frozen=True)
class PLIF(LIF):
    """`LIF` with a learnable time constant, `1/tau = sigmoid(w)`, so tau > 1 always; `tau` > 1 is its initial value.

    Reference: Fang et al., ICCV 2021, arXiv 2007.05785.
    """

    def __post_init__(self):
        plif_parameter(self.tau)
        super().__post_init__()

    @property
    def parameters(self) -> Mapping[str, float | Array]:
        """The `w` of the initial time constant."""
        return {"w": plif_parameter(self.tau)}

    def precompute(self, parameters: Parameters) -> dict[str, Array]:
        """The tau of w, computed once: within each step, XLA would round the division by it differently."""
        return {"tau": plif_tau(parameters["w"])}

    def charge(self, v: Array, x: Array, parameters: Parameters) -> Array:  # noqa: D102 said by the base class
        return super().charge(v, x, parameters if "tau" in parameters else self.precompute(parameters))


@dataclasses.dataclass(frozen=True)
class IF(_IntegrateAndFire):
    """Integrate-and-fire without a leak; fields and errors as in `LIF`."""

    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    detach_reset: bool = False
    surrogate: Surrogate = ATAN

    def charge(self, v: Array, x: Array, parameters: Parameters) -> Array:  # noqa: D102 said by the base class
        del parameters
        return v + x


@dataclasses.dataclass(frozen=True)
class ILIF(_Leaky):
    """Integer leaky integrate-and-fire: up to `levels` spikes per step; the equations are at the top of this module.

    A convolution is linear, so that a count s is D = `levels` sub-steps with s spikes of height 1, whose input currents
    are added up before the next neuron fires (`models.expanded`): training in integers costs one step where LIF costs
    D. With one step it is an activation of D + 1 levels. With D = 1 it is a neuron that fires from v_threshold / 2 and
    subtracts v_threshold, with the surrogate `rectangle(1 / v_threshold)`, but for the two ends of the rectangle, at
    which this derivative is not 0.

    Args:
        levels: D, the largest number of spikes per step, 1 to 256.
        tau: membrane time constant in steps, >= 1; v[t-1] decays by 1 - 1/tau (0.25 in SpikeYOLO, that is tau = 4/3).
        v_threshold: potential per spike; the first is fired at `h >= v_threshold / 2`.
        detach_reset: stop the gradient of `s` inside the reset.

    Raises:
        InputError: for `levels` or `tau` out of range, or a threshold that is not positive.

    Reference: Luo et al., ECCV 2024, arXiv 2407.20708 (SpikeYOLO); SpikingJelly's `ILIFNode`.
    """

    levels: int = 4
    tau: float = 2.0
    v_threshold: float = 1.0
    detach_reset: bool = False

    v_reset: ClassVar[None] = None
    decay_input: ClassVar[bool] = False

    def __post_init__(self):
        check_count("levels", self.levels)
        if self.levels > MAX_LEVELS:
            raise InputError(f"levels={self.levels!r} must be at most {MAX_LEVELS} spikes per step, such as 4")
        super().__post_init__()

    def fire(self, h: Array) -> Array:
        """The number of spikes s[t] of the potential h[t], 0 to `levels`."""
        return spike_count(h / self.v_threshold, self.levels)


NEURONS: dict[str, type[LIF] | type[IF] | type[ILIF]] = {"lif": LIF, "plif": PLIF, "if": IF, "ilif": ILIF}
"""Name in a configuration to the neuron."""


def most_spikes(neuron: Neuron) -> int:
    """The largest number of spikes that a neuron fires per step: D of an `ILIF`, 1 of any other."""
    return neuron.levels if isinstance(neuron, ILIF) else 1


def plif_tau(w: ArrayLike) -> Array:
    """The time constant of `PLIF`, `1 + exp(-w)` steps."""
    return 1 + jnp.exp(-jnp.maximum(w, -60.0))  # exp overflows in float32 a little below; tau = 1e26 is no leak at all


def plif_parameter(tau: float) -> float:
    """The `w` of `PLIF` with `1/tau = sigmoid(w)`, that is `-log(tau - 1)`; `tau` in steps, > 1."""
    if not (math.isfinite(tau) and tau > 1):
        raise InputError(f"tau={tau!r} must be a finite number of steps > 1 for a learnable time constant")
    return -math.log(tau - 1)


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
    """Integrates `LIF` neurons: currents to spikes in {0, 1}, `[B, T, ...]`; raises as `LIF` and `integrate`.

    Args:
        current: input current x, `[B, T, ...]`.
        tau, v_threshold, v_reset, decay_input, detach_reset, surrogate: as in `LIF`.
        v: potential before the first step, `[B, ...]`; None is the resting potential.
        return_v: return `(spikes, v)`, with the final potential `[B, ...]`, from which the sequence can be continued.
    """
    neuron = LIF(tau, v_threshold, v_reset, decay_input, detach_reset, surrogate)
    spikes, v = integrate(neuron, current, v)
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
    """Integrates `PLIF` neurons: as `lif`, with a `w` that broadcasts to `[...]` (see `plif_parameter`) for tau."""
    neuron = PLIF(2.0, v_threshold, v_reset, decay_input, detach_reset, surrogate)
    spikes, v = integrate(neuron, current, v, {"w": w})
    return (spikes, v) if return_v else spikes


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
    """Integrates `IF` neurons: as `lif`, without tau and decay_input."""
    spikes, v = integrate(IF(v_threshold, v_reset, detach_reset, surrogate), current, v)
    return (spikes, v) if return_v else spikes


def integer_lif(
    current: Array,
    *,
    levels: int = 4,
    tau: float = 2.0,
    v_threshold: float = 1.0,
    detach_reset: bool = False,
    v: ArrayLike | None = None,
    return_v: bool = False,
) -> Any:
    """Integrates `ILIF` neurons: as `lif`, with counts of spikes in {0, ..., levels}."""
    spikes, v = integrate(ILIF(levels, tau, v_threshold, detach_reset), current, v)
    return (spikes, v) if return_v else spikes


def neuron_from(values: Mapping[str, Any]) -> LIF | IF | ILIF:
    """The neuron of JSON values as from `describe_neuron`; missing ones are defaults, and so are those that are None.

    That is, `surrogate_alpha` and `levels`; `v_reset=None` is the soft reset.
    Raises `InputError` for an unknown kind or surrogate, or constants that the equations do not allow.
    """
    kind, name, alpha = values["neuron"], values.get("surrogate", "atan"), values.get("surrogate_alpha")
    check_choice("neuron", kind, NEURONS)
    check_choice("surrogate", name, SURROGATES)
    surrogate = SURROGATES[name]() if alpha is None else SURROGATES[name](alpha)
    names = {field.name for field in dataclasses.fields(NEURONS[kind])}
    constants: dict[str, Any] = {**values, "surrogate": surrogate}
    if constants.get("levels") is None:
        constants.pop("levels", None)
    return NEURONS[kind](**{name: value for name, value in constants.items() if name in names})


def describe_neuron(neuron: Neuron) -> dict[str, Any] | None:
    """Kind and constants of a neuron as JSON values; None for one that is not in `NEURONS`."""
    for kind, made in NEURONS.items():
        if type(neuron) is made:
            constants = {field.name: getattr(neuron, field.name) for field in dataclasses.fields(made)}
            if "surrogate" not in constants:
                return {"neuron": kind, **constants}
            surrogate = constants.pop("surrogate")
            make = SURROGATES.get(surrogate.name) if isinstance(surrogate, Surrogate) else None
            if make is None or make(surrogate.alpha) != surrogate:
                return None
            return {"neuron": kind, **constants, "surrogate": surrogate.name, "surrogate_alpha": surrogate.alpha}
    return None
