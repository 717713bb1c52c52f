"""Spiking neurons: what a neuron is, three of them, and the one scan over time that runs any of them.

Time is in simulation steps and potentials in units of the input current. Arrays are batch-major, `[B, T, ...]`, and
no other module scans the time axis. A neuron is a `Neuron`: initial values of what is learnt, an initial state, and
one time step. `LIF`, `PLIF` and `IF` have the potential v as their state, and differ in their charge:

    h[t] = v[t-1] + (x[t] - (v[t-1] - v_rest)) / tau       charge of LIF and PLIF, decay_input=True
    h[t] = v[t-1] - (v[t-1] - v_rest) / tau + x[t]         charge of LIF and PLIF, decay_input=False
    h[t] = v[t-1] + x[t]                                   charge of IF
    s[t] = spike(h[t] - v_threshold)                       fire: 1[h >= v_threshold], surrogate derivative
    v[t] = s[t] v_reset + (1 - s[t]) h[t]                  hard reset
    v[t] = h[t] - s[t] v_threshold                         soft reset (v_reset=None)

where v_rest = v_reset, or 0 with the soft reset, and v[-1] = v_rest unless a state is passed. The time constant of
`LIF` is tau >= 1; that of `PLIF` is 1 + exp(-w) with w learnable.

These are SpikingJelly's conventions. Refractoriness and synaptic filtering are left out on purpose: with a handful
of steps they would only add parameters. States are computed in float32 (float64 for float64 input) whatever the dtype
of the current; spikes have the dtype of the current.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike

from snnkd_jax.dynamics.surrogate import SURROGATES, Surrogate, atan
from snnkd_jax.errors import InputError, check_choice

ATAN = atan(2.0)

State = Any
"""Any tree of floating arrays, each of the neurons' shape `[B, ...]`, or with axes of its own behind it."""

Parameters = Mapping[str, Any]
"""Name to an array that broadcasts against `[B, ...]`, such as a scalar for all neurons of a layer."""

# exp overflows in float32 a little below; a tau of 1e26 is no leak at all.
_LEAST_W = -60.0

# Up to here an unrolled scan is faster on CPU, because the slices of the time axis fuse into the arithmetic; its work
# grows with the square of T, because each step's output recomputes the steps before it.
_UNROLL_STEPS = 16


@runtime_checkable
class Neuron(Protocol):
    """The neurons of a layer, elementwise pure functions of their state; any frozen (hashable) dataclass with these."""

    @property
    def parameters(self) -> Mapping[str, float | Array]:
        """Initial values of what is learnt, by name; {} for nothing."""
        ...

    def init(self, shape: tuple[int, ...], /) -> State:
        """The state before the first step of neurons `[B, ...]`."""
        ...

    def step(self, state: State, current: Array, parameters: Parameters, /) -> tuple[State, Array]:
        """The state after a step with `current` `[B, ...]`, and its spikes, made by a surrogate such as `ATAN`."""
        ...


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
        """The potential `h` `[B, ...]` after the input x `[B, ...]`, before it fires; of each neuron its own."""
        raise NotImplementedError

    def step(self, state: Array, current: Array, parameters: Parameters) -> tuple[Array, Array]:
        h = self.charge(state, current, parameters)
        s = self.surrogate(h - self.v_threshold)
        r = lax.stop_gradient(s) if self.detach_reset else s
        return h - r * self.v_threshold if self.v_reset is None else r * self.v_reset + (1 - r) * h, s


@dataclasses.dataclass(frozen=True)
class LIF(_IntegrateAndFire):
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

    def __post_init__(self):
        if not (math.isfinite(self.tau) and self.tau >= 1):
            raise InputError(f"tau={self.tau!r} must be a finite number of steps >= 1 (the decay is 1 - 1/tau)")
        super().__post_init__()

    def time_constant(self, parameters: Parameters) -> float | Array:
        """tau, in steps."""
        del parameters
        return self.tau

    def charge(self, v: Array, x: Array, parameters: Parameters) -> Array:
        """h[t] of v[t-1] and x[t]."""
        tau = self.time_constant(parameters)
        if self.decay_input:
            return v + (x - (v - self.v_rest)) / tau
        return v - (v - self.v_rest) / tau + x


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

    def constants(self, parameters: Parameters) -> dict[str, Array]:
        """tau of w: the same in all steps, in which XLA would round the division by it otherwise."""
        return {"tau": plif_tau(parameters["w"])}

    def time_constant(self, parameters: Parameters) -> Array:
        """tau, in steps."""
        return (parameters if "tau" in parameters else self.constants(parameters))["tau"]


@dataclasses.dataclass(frozen=True)
class IF(_IntegrateAndFire):
    """Integrate-and-fire without a leak; the fields and errors are those of `LIF` that it has."""

    v_threshold: float = 1.0
    v_reset: float | None = 0.0
    detach_reset: bool = False
    surrogate: Surrogate = ATAN

    def charge(self, v: Array, x: Array, parameters: Parameters) -> Array:
        """h[t] of v[t-1] and x[t]."""
        del parameters
        return v + x


NEURONS: dict[str, type[LIF] | type[IF]] = {"lif": LIF, "plif": PLIF, "if": IF}
"""The neurons that a configuration has names for."""


def plif_tau(w: ArrayLike) -> Array:
    """The time constant of `PLIF`, `1 + exp(-w)` steps."""
    return 1 + jnp.exp(-jnp.maximum(w, _LEAST_W))


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
    """`LIF`: currents `[B, T, ...]` to spikes in {0, 1}, `[B, T, ...]`; errors as of `LIF` and `integrate`.

    Args:
        current: x, `[B, T, ...]`.
        tau, v_threshold, v_reset, decay_input, detach_reset, surrogate: see `LIF`.
        v: potential before the first step, `[B, ...]`; None is the resting potential.
        return_v: return `(spikes, v)`, the final potential `[B, ...]`, which continues a sequence that is cut.
    """
    spikes, v = integrate(LIF(tau, v_threshold, v_reset, decay_input, detach_reset, surrogate), current, v)
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
    """`PLIF`: as `lif`, with `w` a scalar or broadcastable to `[...]`; `plif_parameter(tau)` is its initial value."""
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
    """`IF`: as `lif`, without a leak."""
    spikes, v = integrate(IF(v_threshold, v_reset, detach_reset, surrogate), current, v)
    return (spikes, v) if return_v else spikes


def integrate(
    neuron: Neuron, current: Array, state: State | None = None, parameters: Parameters | None = None
) -> tuple[Array, State]:
    """Runs neurons over the time axis; the backward pass keeps the current and computes the states once more.

    Args:
        neuron: the equations.
        current: input current x, `[B, T, ...]`, of a floating dtype.
        state: before the first step, `[B, ...]`; None is `neuron.init`.
        parameters: with respect to which the result can be differentiated; None is `neuron.parameters`.

    Returns:
        Spikes, `[B, T, ...]`, of the dtype of `current`, and the state after the last step, which continues the
        sequence as if it had not been cut.

    Raises:
        InputError: for fewer than two axes, no time step, an integer current, a state of other shapes, or a neuron
            that is not a `Neuron`.
    """
    current, state, parameters = _arguments(neuron, current, state, parameters)
    # Compiled even outside jit, so that a sequence and its pieces are rounded alike.
    return jax.jit(_integrate, static_argnums=0)(neuron, current, state, _constants(neuron, parameters))


def integrate_with_slopes(
    neuron: Neuron, current: Array, parameters: Parameters | None = None
) -> tuple[Array, Array, dict[str, Array]]:
    """Spikes from `neuron.init` on, and the derivatives of their mean over time, without a tape.

        kappa   = (1/T) sum_t ds[t]/dx      for one and the same change of x at all steps
        kappa_p = (1/T) sum_t ds[t]/dp      for each parameter p

    They are forward derivatives, with the surrogate's in the place of the spike's, summed up while the neuron runs: the
    neuron's part of rate-based backpropagation (`snnkd_jax.models.rate`). Arguments and errors are those of
    `integrate`. Returns the spikes `[B, T, ...]`, kappa `[B, ...]`, and kappa_p `[B, ...]` by the name of p.
    """
    current, state, parameters = _arguments(neuron, current, None, parameters)
    constants, push_constants = _pushforward(functools.partial(_constants, neuron), parameters)
    still = jax.tree.map(jnp.zeros_like, parameters)
    # Of all neurons at once, because none depends on another's parameters.
    moves = {name: push_constants(still | {name: jnp.ones_like(p)}) for name, p in parameters.items()}

    def run(current, state, constants, moves):
        zero = jax.tree.map(jnp.zeros_like, state), jnp.zeros_like(current[:, 0], _dtype_of_states(current))
        # The derivatives of (x, constants) for each slope; "" is no name of a parameter.
        dots = {"": (jnp.ones_like(zero[1]), jax.tree.map(jnp.zeros_like, constants))}
        dots |= {name: (zero[1], move) for name, move in moves.items()}

        def step(carry, x):
            state, sums, state_dots = carry
            (state, s), push = _pushforward(functools.partial(_step, neuron), state, x.astype(zero[1].dtype), constants)
            pushed = {name: push(state_dots[name], *dots[name]) for name in dots}
            sums = {name: sums[name] + s_dot for name, (_, s_dot) in pushed.items()}
            return (state, sums, {name: dot for name, (dot, _) in pushed.items()}), s.astype(current.dtype)

        start = state, dict.fromkeys(dots, zero[1]), dict.fromkeys(dots, zero[0])
        (_, sums, _), spikes = _scan(step, start, current)
        return spikes, {name: total / current.shape[1] for name, total in sums.items()}

    spikes, slopes = _fusion_barrier(run, current, state, constants, moves)
    return spikes, slopes.pop(""), slopes


def _constants(neuron: Neuron, parameters: Parameters) -> Parameters:
    """What `neuron.step` is given of the parameters in every step."""
    return neuron.constants(parameters) if isinstance(neuron, PLIF) else parameters


def _pushforward(f: Callable, *primals: Any) -> tuple[Any, Callable]:
    """`f(*primals)` and its JVP. It is the transpose of the VJP, which is all that a surrogate defines."""
    out, pull = jax.vjp(f, *primals)
    push = jax.linear_transpose(pull, out)
    return out, lambda *tangents: push(tangents)[0]


def _step(neuron: Neuron, state: State, x: Array, parameters: Parameters) -> tuple[State, Array]:
    """A step that keeps the dtypes of the state, and whose spikes have that of x."""
    after, spikes = found = neuron.step(state, x.astype(_dtype_of_states(x)), parameters)
    name, wanted, shapes = type(neuron).__name__, *(jax.tree.map(jnp.shape, tree) for tree in ((state, x), found))
    if jax.tree.structure(found) != jax.tree.structure((state, x)) or shapes != wanted:
        raise InputError(f"{name}.step must return a state and spikes of shapes {wanted}, but returned {shapes}")
    if not jnp.issubdtype(spikes.dtype, jnp.floating):
        raise InputError(
            f"{name}.step returned spikes of dtype {spikes.dtype}, which have no gradient; make them with a surrogate, "
            "such as ATAN(v - threshold)"
        )
    return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), after, state), spikes.astype(x.dtype)


def _dtype_of_states(current: Array) -> DTypeLike:
    return jnp.promote_types(current.dtype, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _integrate(neuron: Neuron, current: Array, state: State, parameters: Parameters) -> tuple[Array, State]:
    def run(current, state, parameters):
        state, spikes = _scan(lambda state, x: _step(neuron, state, x, parameters), state, current)
        return spikes, state

    return _fusion_barrier(run, current, state, parameters)


def _integrate_forward(neuron, current, state, parameters):
    return _integrate(neuron, current, state, parameters), (current, state, parameters)


def _integrate_backward(neuron, residuals, cotangents):
    """The chain rule through `neuron.step`, from the last step to the first."""

    def run(current, state, parameters, spikes_bar, state_bar):
        buffers = jax.tree.map(lambda leaf: _over_time(current, leaf), state)
        _, before = _scan(lambda v, x, _: (_step(neuron, v, x, parameters)[0], v), state, current, buffers)

        def step(carry, x, state, s_bar):
            state_bar, bars = carry
            pull = jax.vjp(functools.partial(_step, neuron), state, x, parameters)[1]
            state_bar, x_bar, bars_t = pull((state_bar, s_bar))
            return (state_bar, jax.tree.map(jnp.add, bars, bars_t)), x_bar

        carry = state_bar, jax.tree.map(jnp.zeros_like, parameters)
        (state_bar, bars), x_bar = _scan(step, carry, current, before, spikes_bar, reverse=True)
        return x_bar, state_bar, bars

    return _fusion_barrier(run, *residuals, *cotangents)


_integrate.defvjp(_integrate_forward, _integrate_backward)


def _over_time(current: Array, leaf: Array) -> Array:
    """An array for the values of a leaf of the state at all steps: until they are written, those of the current."""
    more = tuple(range(current.ndim, leaf.ndim + 1))
    shape = (*current.shape, *leaf.shape[current.ndim - 1 :])
    return jnp.broadcast_to(jnp.expand_dims(current, more), shape).astype(leaf.dtype)


def _fusion_barrier(f: Callable, *args: Any) -> Any:
    """`f(*args)`, on CPU behind a fusion barrier.

    XLA would fuse the norm before the neuron into the unrolled steps and compute it in each: a training step of
    ResNet-18 takes twice as long at T = 8. Its CPU compiler drops `lax.optimization_barrier` before it fuses, but not a
    conditional on what was behind one.
    """

    def conditional(*args):
        return lax.cond(lax.optimization_barrier(jnp.array(True)), f, f, *args)

    return lax.platform_dependent(*args, cpu=conditional, default=f)


def _scan(step: Callable, carry: Any, *x: Any, reverse: bool = False) -> tuple[Any, Any]:
    """`lax.scan` of `step(carry, *x[t]) -> (carry, y[t])` over axis 1 of the trees of arrays x, `[B, T, ...]` each.

    The outputs take the place of the last of x, which is like them: XLA would allocate their buffers for all layers at
    once, before the network starts.
    """
    num_steps = jax.tree.leaves(x)[0].shape[1]
    if num_steps <= _UNROLL_STEPS:
        y: dict[int, Any] = {}
        for t in reversed(range(num_steps)) if reverse else range(num_steps):
            carry, y[t] = step(carry, *jax.tree.map(lambda a, t=t: a[:, t], x))
        return carry, jax.tree.map(lambda *steps: jnp.stack(steps, axis=1), *(y[t] for t in range(num_steps)))

    def write(state, t):
        carry, buffer = state
        at_t = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, t, axis=1, keepdims=False), (*x[:-1], buffer))
        carry, y = step(carry, *at_t)
        return (carry, jax.tree.map(lambda a, b: lax.dynamic_update_index_in_dim(a, b, t, axis=1), buffer, y)), None

    return lax.scan(write, (carry, x[-1]), jnp.arange(num_steps), reverse=reverse)[0]


def initial_state(neuron: Neuron, current: Array) -> State:
    """`neuron.init` for a current `[B, T, ...]`, in float32 or float64; raises `InputError` for one of other shapes."""
    shape = current.shape[:1] + current.shape[2:]
    state = neuron.init(shape)
    for x in jax.tree.leaves(state):
        if jnp.shape(x)[: len(shape)] != shape or not jnp.issubdtype(jnp.result_type(x), jnp.floating):
            raise InputError(
                f"{type(neuron).__name__}.init({shape}) has an array of shape {jnp.shape(x)} and dtype "
                f"{jnp.result_type(x)}; the state of these neurons has floating arrays {shape}"
            )
    return jax.tree.map(lambda x: jnp.asarray(x, _dtype_of_states(current)), state)


def check_neuron(neuron: Any) -> None:
    """Raises `InputError` unless `neuron` is a hashable `Neuron`."""
    if isinstance(neuron, type) or not isinstance(neuron, Neuron):
        raise InputError(
            f"neuron={neuron!r} must have parameters, init and step, as LIF(tau=2.0); snnkd_jax.dynamics.neurons.Neuron"
        )
    try:
        hash(neuron)
    except TypeError as error:
        raise InputError(f"neuron={neuron!r} cannot be hashed ({error}); make it a frozen dataclass") from None


def neuron_of(kind: str, **constants: Any) -> LIF | IF:
    """The neuron that `NEURONS` has under this name, with those of the constants that it has."""
    check_choice("neuron", kind, NEURONS)
    fields = {field.name for field in dataclasses.fields(NEURONS[kind])}
    return NEURONS[kind](**{name: value for name, value in constants.items() if name in fields})


def neuron_from(values: Mapping[str, Any]) -> LIF | IF:
    """The neuron of JSON values as from `describe_neuron`, among others; a `surrogate_alpha` None is the default.

    Raises `InputError` for an unknown kind or surrogate, or constants that the equations do not allow.
    """
    check_choice("surrogate", values["surrogate"], SURROGATES)
    make, alpha = SURROGATES[values["surrogate"]], values["surrogate_alpha"]
    constants = {name: value for name, value in values.items() if name not in ("neuron", "surrogate")}
    return neuron_of(values["neuron"], **constants, surrogate=make() if alpha is None else make(alpha))


def describe_neuron(neuron: Neuron) -> dict[str, Any] | None:
    """Its kind and its constants as JSON values; None for a neuron that `NEURONS` does not have."""
    for kind, made in NEURONS.items():
        if type(neuron) is made:
            constants = {field.name: getattr(neuron, field.name) for field in dataclasses.fields(made)}
            surrogate = constants.pop("surrogate")
            if not isinstance(surrogate, Surrogate) or surrogate.name not in SURROGATES:
                return None
            if SURROGATES[surrogate.name](surrogate.alpha) != surrogate:
                return None
            return {"neuron": kind, **constants, "surrogate": surrogate.name, "surrogate_alpha": surrogate.alpha}
    return None


def _arguments(
    neuron: Neuron, current: Array, state: State | None, parameters: Parameters | None
) -> tuple[Array, State, dict[str, Array]]:
    """The arguments of `integrate` as arrays; raises what it raises."""
    check_neuron(neuron)
    current = jnp.asarray(current)
    if current.ndim < 2 or current.shape[1] < 1:
        raise InputError(f"current has shape {current.shape}; it must be [B, T, ...] with T >= 1")
    if not jnp.issubdtype(current.dtype, jnp.floating):
        raise InputError(f"current has dtype {current.dtype}; convert it to a floating dtype")
    start = initial_state(neuron, current)
    state = start if state is None else state
    if jax.tree.structure(state) != jax.tree.structure(start):
        raise InputError(
            f"state is {jax.tree.structure(state)}; that of {type(neuron).__name__} is {jax.tree.structure(start)}"
        )
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(start), strict=True):
        if jnp.shape(x) != y.shape:
            raise InputError(
                f"state {jax.tree_util.keystr(path) or 'v'} has shape {jnp.shape(x)}; the current {current.shape} "
                f"needs {y.shape} (no time axis)"
            )
    parameters = dict(neuron.parameters if parameters is None else parameters)
    return current, *jax.tree.map(lambda x: jnp.asarray(x, _dtype_of_states(current)), (state, parameters))
