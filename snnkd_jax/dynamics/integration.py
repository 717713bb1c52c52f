"""Integration of neurons over time, forward in blocks of steps, and backpropagation through it.

The backward pass goes through the blocks from the last to the first. The forward pass stores the state before each; the
states within a block are recomputed from it and from the current. Sequences of up to 8 steps are one block.

Arrays are batch-major, `[B, T, ...]`, and no other module computes neurons over time. States are computed in float32
(float64 for float64 currents) whatever the dtype of the current; spikes have the dtype of the current.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from snnkd_jax.errors import InputError

State = Any
"""A pytree of floating arrays `[B, ...]`, each of the neurons' shape, optionally with trailing axes of its own."""

Parameters = Mapping[str, Any]
"""Name to an array that broadcasts against `[B, ...]`, such as a scalar for all neurons of a layer."""

# Unrolled steps fuse, with the slices of the time axis, into loops over the neurons, in which each step's output
# recomputes the steps before it: work and compilation grow with the square of the number of steps. Up to 8 that is the
# fastest on CPU; a longer sequence is a scan over blocks of 4 unrolled steps, whose body is compiled once, however many
# blocks there are, and the rest of up to 3 steps.
_UNROLLED_STEPS = 8
_BLOCK_STEPS = 4


@runtime_checkable
class Neuron(Protocol):
    """The equations of a neuron, elementwise and pure: any hashable object with these, such as a frozen dataclass.

    If it also has `precompute(parameters)`, `step` receives the result of that, computed once for all steps, instead.
    """

    @property
    def parameters(self) -> Mapping[str, float | Array]:
        """Initial values of the learnable parameters by name; {} for none."""
        ...

    def init(self, shape: tuple[int, ...], /) -> State:
        """The state before the first step, for neurons of shape `[B, ...]`."""

    def step(self, state: State, current: Array, parameters: Parameters, /) -> tuple[State, Array]:
        """The next state and the spikes, for a current `[B, ...]`; spikes by a surrogate such as `ATAN`."""
        ...


def integrate(
    neuron: Neuron, current: Array, state: State | None = None, parameters: Parameters | None = None
) -> tuple[Array, State]:
    """Integrates a neuron over the time axis.

    For the backward pass, the current and the state before each block of steps are stored (one block up to T = 8, then
    one for 4 steps); the other states are recomputed.

    Args:
        neuron: the equations.
        current: input current x, `[B, T, ...]`, of a floating dtype.
        state: before the first step, `[B, ...]`; None is `neuron.init`.
        parameters: differentiable; None is `neuron.parameters`.

    Returns:
        Spikes, `[B, T, ...]`, of the dtype of `current`, and the final state, from which the sequence can be continued.

    Raises:
        InputError: for fewer than two axes, no time step, an integer current, a state of other shapes, or a neuron
            that is not a `Neuron`.
    """
    current, state, parameters = _arguments(neuron, current, state, parameters)
    # Compiled even outside jit, so that a sequence and its pieces are rounded alike.
    return jax.jit(_integrate, static_argnums=0)(neuron, current, state, _precomputed(neuron, parameters))


def integrate_with_slopes(
    neuron: Neuron, current: Array, parameters: Parameters | None = None
) -> tuple[Array, Array, dict[str, Array]]:
    """Integrates from `neuron.init`, with the derivatives of the firing rate in forward mode.

        kappa   = (1/T) sum_t ds[t]/dx      for the same change of x at all steps
        kappa_p = (1/T) sum_t ds[t]/dp      for each parameter p

    The surrogate derivative takes the place of the spike's. This is the neuron's part of rate-based backpropagation
    (`snnkd_jax.models.rate`). Arguments and errors are those of `integrate`. Returns the spikes `[B, T, ...]`, kappa
    `[B, ...]`, and kappa_p `[B, ...]` by parameter.
    """
    current, state, parameters = _arguments(neuron, current, None, parameters)
    constants, push_constants = _pushforward(functools.partial(_precomputed, neuron), parameters)
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    # For all neurons at once, because none depends on another's parameters.
    tangents = {name: push_constants(zeros | {name: jnp.ones_like(p)}) for name, p in parameters.items()}

    zero = jax.tree.map(jnp.zeros_like, state), jnp.zeros_like(current[:, 0], _dtype_of_states(current))
    # The tangents of (x, constants) for each slope; "" cannot be the name of a parameter.
    dots = {"": (jnp.ones_like(zero[1]), jax.tree.map(jnp.zeros_like, constants))}
    dots |= {name: (zero[1], tangent) for name, tangent in tangents.items()}

    def step(carry, x):
        state, sums, state_dots = carry
        (state, s), push = _pushforward(functools.partial(_step, neuron), state, x.astype(zero[1].dtype), constants)
        pushed = {name: push(state_dots[name], *dots[name]) for name in dots}
        sums = {name: sums[name] + s_dot for name, (_, s_dot) in pushed.items()}
        return (state, sums, {name: dot for name, (dot, _) in pushed.items()}), s.astype(current.dtype)

    start = state, dict.fromkeys(dots, zero[1]), dict.fromkeys(dots, zero[0])
    (_, sums, _), spikes, _ = _scan(functools.partial(_steps, step), start, current)
    slopes = {name: total / current.shape[1] for name, total in sums.items()}
    return spikes, slopes.pop(""), slopes


def _precomputed(neuron: Neuron, parameters: Parameters) -> Parameters:
    precompute = getattr(neuron, "precompute", None)
    return parameters if precompute is None else precompute(parameters)


def _pushforward(f: Callable, *primals: Any) -> tuple[Any, Callable]:
    """`f(*primals)` and its JVP, the transpose of its VJP, since a surrogate defines no JVP."""
    out, pull = jax.vjp(f, *primals)
    push = jax.linear_transpose(pull, out)
    return out, lambda *tangents: push(tangents)[0]


def _step(neuron: Neuron, state: State, x: Array, parameters: Parameters) -> tuple[State, Array]:
    """A step that keeps the dtypes of the state, and whose spikes have the dtype of x."""
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
    return _integrate_forward(neuron, current, state, parameters)[0]


def _integrate_forward(neuron, current, state, parameters):
    def block(state, x):
        return _steps(lambda state, x: _step(neuron, state, x, parameters), state, x)

    state, spikes, starts = _scan(block, state, current)
    return (spikes, state), (current, starts, parameters)


def _integrate_backward(neuron, residuals, cotangents):
    """The chain rule through `neuron.step`, from the last step to the first."""
    current, starts, parameters = residuals
    spikes_bar, state_bar = cotangents

    def block(carry, x, s_bar, start):
        _, before = _steps(lambda v, x: (_step(neuron, v, x, parameters)[0], v), start, x)

        def step(carry, x, state, s_bar):
            state_bar, bars = carry
            pull = jax.vjp(functools.partial(_step, neuron), state, x, parameters)[1]
            state_bar, x_bar, bars_t = pull((state_bar, s_bar))
            return (state_bar, jax.tree.map(jnp.add, bars, bars_t)), x_bar

        return _steps(step, carry, x, before, s_bar, reverse=True)

    carry = state_bar, jax.tree.map(jnp.zeros_like, parameters)
    (state_bar, bars), x_bar, _ = _scan(block, carry, current, spikes_bar, starts=starts)
    return x_bar, state_bar, bars


_integrate.defvjp(_integrate_forward, _integrate_backward)


def _fusion_barrier(f: Callable, *args: Any) -> Any:
    """`f(*args)`, on CPU behind a fusion barrier.

    XLA would fuse the norm before the neuron into the unrolled steps and compute it in each: a training step of
    ResNet-18 takes twice as long at T = 8. In a scan it would fuse the slices that make a block, and that which it
    updates. Its CPU compiler drops `lax.optimization_barrier` before it fuses, but not a conditional on the result of
    one.
    """

    def conditional(*args):
        return lax.cond(lax.optimization_barrier(jnp.array(True)), f, f, *args)

    return lax.platform_dependent(*args, cpu=conditional, default=f)


def _scan(block: Callable, carry: Any, *x: Array, starts: Any = None) -> tuple[Any, Array, Any]:
    """`block(carry, *x[i]) -> (carry, y[i])` over the blocks i of axis 1 of the arrays x, `[B, T, ...]` each.

    Returns the last carry, y, and the carries before the blocks. Those of another scan, as `starts`, make it go from
    the last block to the first, and a block takes `starts[i]` too.

    y overwrites the last of x, which has its shape: XLA would allocate buffers for all layers at once, before the
    network starts.
    """
    num_steps = x[0].shape[1]
    num_blocks = 0 if num_steps <= _UNROLLED_STEPS else num_steps // _BLOCK_STEPS
    rest = num_steps - num_blocks * _BLOCK_STEPS

    def write(state, first, size, *start):
        carry, buffer = state
        of_block = [lax.dynamic_slice_in_dim(a, first, size, axis=1) for a in (*x[:-1], buffer)]
        carry, y = _fusion_barrier(block, carry, *of_block, *start)
        return carry, lax.dynamic_update_slice_in_dim(buffer, y, first, axis=1)

    def write_blocks(state, *start):
        def body(state, i_and_start):
            i, *start = i_and_start
            return write(state, i * _BLOCK_STEPS, _BLOCK_STEPS, *start), state[0]

        return lax.scan(body, state, (jnp.arange(num_blocks), *start), reverse=starts is not None)

    def write_rest(state, *start):
        return write(state, num_blocks * _BLOCK_STEPS, rest, *start), state[0]

    parts = {"blocks": write_blocks} if num_blocks else {}
    parts |= {"rest": write_rest} if rest else {}
    state, carries = (carry, x[-1]), {}
    for name in parts if starts is None else reversed(parts):
        state, carries[name] = parts[name](state, *([] if starts is None else [starts[name]]))
    return *state, carries


def _steps(step: Callable, carry: Any, *x: Any, reverse: bool = False) -> tuple[Any, Any]:
    """`step(carry, *x[t]) -> (carry, y[t])` over axis 1 of the pytrees x, `[B, T, ...]` each, unrolled."""
    num_steps = jax.tree.leaves(x)[0].shape[1]
    y: dict[int, Any] = {}
    for t in reversed(range(num_steps)) if reverse else range(num_steps):
        carry, y[t] = step(carry, *jax.tree.map(lambda a, t=t: a[:, t], x))
    return carry, jax.tree.map(lambda *steps: jnp.stack(steps, axis=1), *(y[t] for t in range(num_steps)))


def initial_state(neuron: Neuron, current: Array) -> State:
    """`neuron.init` for a current `[B, T, ...]`, in float32 or float64; raises `InputError` for other shapes."""
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
            f"neuron={neuron!r} must have parameters, init and step, as LIF(tau=2.0); see snnkd_jax.neurons.Neuron"
        )
    try:
        hash(neuron)
    except TypeError as error:
        raise InputError(f"neuron={neuron!r} cannot be hashed ({error}); make it a frozen dataclass") from None


def _arguments(
    neuron: Neuron, current: Array, state: State | None, parameters: Parameters | None
) -> tuple[Array, State, dict[str, Array]]:
    """The arguments of `integrate` as arrays, checked."""
    check_neuron(neuron)
    current = jnp.asarray(current)
    if current.ndim < 2 or current.shape[1] < 1:
        raise InputError(f"current has shape {current.shape}; it must be [B, T, ...] with T >= 1")
    if not jnp.issubdtype(current.dtype, jnp.floating):
        raise InputError(f"current has dtype {current.dtype}; convert it to a floating dtype")
    start = initial_state(neuron, current)
    state = start if state is None else state
    found, wanted = jax.tree.structure(state), jax.tree.structure(start)
    if found != wanted:
        raise InputError(f"state is {found}; that of {type(neuron).__name__} is {wanted}")
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(start), strict=True):
        if jnp.shape(x) != y.shape:
            raise InputError(
                f"state {jax.tree_util.keystr(path) or 'v'} has shape {jnp.shape(x)}; the current {current.shape} "
                f"needs {y.shape} (no time axis)"
            )
    parameters = dict(neuron.parameters if parameters is None else parameters)
    return current, *jax.tree.map(lambda x: jnp.asarray(x, _dtype_of_states(current)), (state, parameters))
