"""Single nodes of NIR as layers and back; `snnkd_jax.interop.nir` has the table of both."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import nir
import numpy as np
from numpy.typing import NDArray

from snnkd_jax.dynamics.neurons import IF, LIF
from snnkd_jax.errors import InputError
from snnkd_jax.interop.euler import ONE, ZERO, Constant, EulerNeuron
from snnkd_jax.interop.graph import Convolution, Dense, Flatten, Layer, Pair, Pool, Scale, Shape
from snnkd_jax.interop.nir_dt import TOLERANCE

_SYNAPSE = (
    "the format leaves open whether the potential follows the synaptic current before or after its step, and programs "
    "differ; write an LI of tau_syn and r = w_in before {}, if it is after"
)
REFUSED = {"CubaLIF": _SYNAPSE.format("an LIF"), "CubaLI": _SYNAPSE.format("another LI")}
"""Types of nodes without an exact meaning here, and why."""


def to_node(layer: Layer, shape: Shape, dt: float) -> nir.NIRNode:
    """The node of a layer with an input of this shape, for steps of `dt` seconds.

    Raises `InputError` for padding that NIR cannot express.
    """
    match layer:
        case Convolution():
            weight = np.ascontiguousarray(layer.kernel.transpose(3, 2, 0, 1))
            padding: Any = tuple(before for before, _ in layer.padding)
            if any(before != after for before, after in layer.padding):
                padding = "same"
                if layer.strides != (1, 1) or layer.padding != _same(layer.kernel.shape, layer.dilation):
                    raise InputError(f"padding={layer.padding} is uneven, and not that of 'same'; make it even")
            options = (layer.strides, padding, layer.dilation, layer.groups, layer.bias)
            return nir.Conv2d((shape[0], shape[1]), weight, *options)
        case Dense():
            return nir.Affine(np.ascontiguousarray(layer.kernel.T), layer.bias)
        case Pool():
            kind = nir.SumPool2d if layer.total else nir.AvgPool2d
            return kind(np.array(layer.window), np.array(layer.strides), np.array(layer.padding))
        case Flatten():
            return nir.Flatten({"input": np.array(channels_first(shape))}, start_dim=0)
        case Scale():
            return nir.Scale(_every(layer.factor, shape))
    return _neuron_node(layer, shape, dt)


def _neuron_node(neuron: LIF | IF | EulerNeuron, shape: Shape, dt: float) -> nir.NIRNode:
    every: Any = functools.partial(_every, shape=shape)
    if isinstance(neuron, EulerNeuron):
        return _euler_node(neuron, every, dt)
    # In float64, so that division by dt restores tau.
    v_threshold, v_reset = every(neuron.v_threshold), every(neuron.v_reset)
    if isinstance(neuron, IF):
        return nir.IF(every(1 / dt), v_threshold, v_reset)
    r = every(1.0 if neuron.decay_input else neuron.tau)
    return nir.LIF(every(neuron.tau * dt), r, v_leak=v_reset, v_threshold=v_threshold, v_reset=v_reset)


def _euler_node(neuron: EulerNeuron, every: Callable[[Constant], NDArray], dt: float) -> nir.NIRNode:
    leak, gain, rest = map(every, (neuron.leak, neuron.gain, neuron.v_rest))
    if neuron.v_threshold is None or neuron.v_reset is None:
        return nir.I(gain / dt) if neuron.leak == ZERO else nir.LI(dt / leak, gain / leak, rest)
    v_threshold, v_reset = every(neuron.v_threshold), every(neuron.v_reset)
    if neuron.leak == ZERO:
        return nir.IF(gain / dt, v_threshold, v_reset)
    if (neuron.leak, neuron.gain, neuron.v_rest, neuron.v_reset) == (ONE, ONE, ZERO, ZERO):
        return nir.Threshold(np.nextafter(v_threshold.astype(np.float32), np.float32(-np.inf)))
    return nir.LIF(dt / leak, gain / leak, rest, v_threshold, v_reset)


def _every(value: Constant | float, shape: Shape) -> NDArray:
    """One value per neuron, float64 `[C, H, W]` or `[N]`."""
    array = np.broadcast_to(value.array if isinstance(value, Constant) else value, shape).astype(np.float64)
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def parse(fields: Any) -> nir.NIRNode:
    """The node of a group of a file; raises `InputError` for a type that is refused, or fields that are no numbers."""
    kind = fields.get("type") if isinstance(fields, dict) else fields
    if kind in REFUSED:
        raise InputError(f"type {kind!r} is not read: {REFUSED[kind]}")
    if not isinstance(fields, dict) or kind not in _READ:
        raise InputError(f"type {kind!r} is unknown; known are {', '.join(_READ)}")
    defaults = {"input_shape": None} if kind in ("Conv1d", "Conv2d") else {}  # programs may leave it out
    _check_names(kind, defaults | fields)
    for name, value in fields.items():
        if name not in ("type", "metadata") and not (name == "padding" and isinstance(value, str)):
            _check_numbers(name, value)
    single = {name: _single(name, fields[name]) for name in ("groups", "start_dim", "end_dim") if name in fields}
    with np.errstate(all="ignore"):  # the package computes shapes, also with strides of 0
        return nir.dict2NIRNode(defaults | fields | single)


_READ = (
    *("Input", "Output", "Conv1d", "Conv2d", "Affine", "Linear", "Scale", "AvgPool2d", "SumPool2d", "Flatten"),
    *("LIF", "IF", "LI", "I", "Threshold", "Delay"),
)


def _check_names(kind: str, fields: dict[str, Any]) -> None:
    """Raises `InputError` for fields that are missing, or unknown to the package."""
    names = {field.name: field for field in dataclasses.fields(nir.str2NIRNode(kind)) if field.init}  # pyright: ignore[reportArgumentType]
    needed = {name for name, field in names.items() if field.default is field.default_factory}  # both are missing
    in_file = {"input_type": "shape", "output_type": "shape"} if kind in ("Input", "Output") else {}
    optional = {"input_type"} if kind == "Flatten" else set()
    if missing := {in_file.get(name, name) for name in needed - optional} - fields.keys():
        raise InputError(f"type {kind!r} without {', '.join(sorted(missing))}; write the file again")
    if unknown := fields.keys() - {in_file.get(name, name) for name in names} - {"type"}:
        raise InputError(f"{', '.join(sorted(unknown))} of type {kind!r} is unknown to nir {nir.version}; leave it out")


def check_finite(node: nir.NIRNode) -> None:
    """Raises `InputError` for numbers that float32 does not hold."""
    for name, value in vars(node).items():
        if isinstance(value, np.ndarray):
            _check_numbers(name, value)


def _check_numbers(name: str, value: Any) -> None:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.size == 0:
        found = repr(value) if array.ndim == 0 else f"of dtype {array.dtype} and shape {array.shape}"
        raise InputError(f"{name} is {found}; it must be numbers")
    with np.errstate(over="ignore"):
        if not np.isfinite(array.astype(np.float32)).all():
            raise InputError(f"{name} has values that are not finite in float32")


def _single(name: str, value: Any) -> int:
    if np.shape(value) not in ((), (1,)) or not _is_whole(value, -_MOST):
        raise InputError(f"{name}={value} must be one whole number")
    return int(np.asarray(value).item())


_MOST = 2**31


def _is_whole(value: Any, least: int) -> bool:
    """Whether all values are whole numbers that an axis may have."""
    value = np.asarray(value)
    return bool(np.all((value % 1 == 0) & (value >= least) & (value < _MOST)))


def to_layer(node: Any, given: Shape, dt: float, read_as: Iterable[Shape]) -> Layer | None:
    """The layer of a node that is given `[C, H, W]`, `[C, L]` or `[N]`, None for the identity.

    `read_as` are the shapes that the nodes which read it say they take. Raises `InputError` for what no layer computes.
    """
    match node:
        case nir.Conv1d() | nir.Conv2d():
            return _convolution(node, given)
        case nir.Affine() | nir.Linear():
            weight = np.asarray(node.weight, np.float32)
            if weight.ndim != 2:
                raise InputError(f"weight has shape {weight.shape}; it must be [N_out, N_in]")
            if given != weight.shape[1:]:
                hint = "; a Flatten must come before it" if math.prod(given) == weight.shape[1] else ""
                raise InputError(f"it takes {weight.shape[1:]}, but is given {given}{hint}")
            return Dense(weight.T, np.asarray(getattr(node, "bias", np.zeros(len(weight))), np.float32))
        case nir.AvgPool2d() | nir.SumPool2d():
            window, strides, padding = _pair(node, "kernel_size"), _pair(node, "stride"), _pair(node, "padding", 0)
            if len(given) != 3:
                raise InputError(f"pooling takes [C, H, W], but is given {given}")
            return Pool(window, strides, padding, isinstance(node, nir.SumPool2d))
        case nir.Flatten():
            return _flatten(node, given, read_as)
        case nir.Scale():
            return Scale(_constant(node.scale, given))
        case nir.Delay():
            if np.any(delays := _constant(node.delay, given).array):
                raise InputError(f"delay={delays[delays != 0].flat[0]:g}; only 0, as no layer here delays its input")
            return None
        case nir.Threshold():
            return EulerNeuron(ONE, ONE, ZERO, Constant.of(_just_above(_constant(node.threshold, given).array)), ZERO)
    return _neuron(node, given, dt)


def _convolution(node: Any, given: Shape) -> Convolution:
    """A convolution; that of `[C, L]` as one of a map of height 1."""
    weight, bias = np.asarray(node.weight, np.float32), np.asarray(node.bias, np.float32)
    axes = 1 if isinstance(node, nir.Conv1d) else 2
    if weight.ndim != axes + 2:
        raise InputError(f"weight has shape {weight.shape}; it must have {axes + 2} axes")
    if node.groups < 1:
        raise InputError(f"groups={node.groups} must be at least 1")
    check_shape((weight.shape[1] * node.groups, *(declared_shape(node.input_shape) or given[1:])), given)
    if len(given) != axes + 1:
        raise InputError(f"it takes {'[C, L]' if axes == 1 else '[C, H, W]'}, but is given {given}")
    strides, dilation = (_pair(node, name, length=axes) for name in ("stride", "dilation"))
    weight = weight[:, :, None] if axes == 1 else weight
    named = node.padding if isinstance(node.padding, str) else None
    if named == "same" and strides != (1, 1):
        raise InputError(f"padding='same' at stride={strides} is not defined, as in PyTorch; write numbers")
    if named == "same":
        padding = _same(weight.shape[2:], dilation)
    else:
        h, w = (0, 0) if named == "valid" else _pair(node, "padding", least=0, length=axes)
        padding = (h, h), (w, w)
    return Convolution(weight.transpose(2, 3, 1, 0), bias, strides, padding, dilation, node.groups)


def _same(window: Shape, dilation: Pair) -> tuple[Pair, Pair]:
    """Padding that keeps the size, with the odd zero at the end, as in PyTorch."""
    h, w = (d * (k - 1) for k, d in zip(window, dilation, strict=False))
    return (h // 2, h - h // 2), (w // 2, w - w // 2)


def _flatten(node: Any, given: Shape, read_as: Iterable[Shape]) -> Flatten | None:
    """The whole map as a vector.

    NIR counts the axes without the batch, PyTorch with it. Programs write either: the batch is counted if the input's
    declared shape has it, or if what reads the node takes the whole vector.
    """
    check_shape(node.input_type["input"], given)
    axes = declared_shape(node.input_type["input"]) or given
    start, end = (i + (len(axes) if i < 0 else 0) for i in (node.start_dim, node.end_dim))
    whole = math.prod(given)
    if not (0 <= start <= end < len(axes) and math.prod(axes[start : end + 1]) == whole):
        counts_batch = node.start_dim == 1 and node.end_dim in (-1, len(axes)) and axes == given
        if not counts_batch or (whole,) not in {without_batch(takes, 1) for takes in read_as}:
            found = f"start_dim={node.start_dim} and end_dim={node.end_dim} of {axes}"
            raise InputError(f"{found} leave more than a vector; only whole maps, from 0 to -1")
    return Flatten() if len(given) > 1 else None


def _neuron(node: Any, given: Shape, dt: float) -> LIF | IF | EulerNeuron:
    """Neurons with or without leak and threshold: those of the library, if they have its constants."""
    constant = {name: _constant(getattr(node, name), given) for name in _CONSTANTS if hasattr(node, name)}
    value = {name: x.array for name, x in constant.items()}
    r, fires = value["r"], "v_threshold" in value
    if fires and np.any(_distance(value["v_threshold"], value["v_reset"]) < _TINY):
        low, reset = float(value["v_threshold"].min()), float(value["v_reset"].max())
        raise InputError(f"v_threshold={low} must be above v_reset={reset} for all neurons, in float32")
    if "tau" in value:
        tau = _near(value["tau"] / dt, 1.0)
        if np.any(tau < 1):
            least = float(value["tau"].min())
            if least <= 0:
                raise InputError(f"tau={least:g} must be positive")
            raise InputError(
                f"tau={least:g} is shorter than a step of dt={dt:g}, which overshoots; give dt={least:g} or less"
            )
        leak, gain, rest = 1 / tau, np.where(_near(r, 1.0) == 1, 1 / tau, _near(r / tau, 1.0)), constant["v_leak"]
    else:
        tau, leak, gain, rest = np.inf, 0.0, _near(r * dt, 1.0), constant.get("v_reset", ZERO)
    _check_numbers(f"r={float(np.max(np.abs(r))):g} at dt={dt:g}", gain)
    neuron = EulerNeuron(
        Constant.of(leak), Constant.of(gain), rest, constant.get("v_threshold"), constant.get("v_reset")
    )
    plain = all(not x.shape for x in (neuron.leak, neuron.gain, *constant.values()))
    is_if = isinstance(node, nir.IF)
    weighs = neuron.gain == ONE or (neuron.gain == neuron.leak and not is_if)
    if not (fires and plain and rest == constant["v_reset"] and weighs):
        return neuron
    v_threshold, v_reset = float(value["v_threshold"]), float(value["v_reset"])
    if is_if:
        return IF(v_threshold, v_reset)
    return LIF(float(tau), v_threshold, v_reset, decay_input=neuron.gain == neuron.leak)


_CONSTANTS = ("tau", "r", "v_leak", "v_threshold", "v_reset")


_TINY = np.finfo(np.float32).tiny
"""The least number that does not count as zero."""


def _distance(a: NDArray, b: NDArray) -> NDArray:
    """a - b in float32, as it is computed."""
    return a.astype(np.float32) - b.astype(np.float32)


def _near(x: NDArray, value: float) -> NDArray:
    """x, with `value` for what lies near it; other programs store constants in float32."""
    return np.where(np.isclose(x, value, TOLERANCE, 0), value, x)


def _just_above(threshold: NDArray) -> NDArray:
    """The least normal number of float32 above each value: NIR's x > threshold is x >= that."""
    nearest = threshold.astype(np.float32)
    above = np.where(nearest > threshold, nearest, np.nextafter(nearest, np.float32(np.inf)))
    return np.where(np.abs(above) < _TINY, _TINY, above)


def _constant(value: Any, given: Shape) -> Constant:
    """A value for all neurons, one per channel or one per neuron, for an input of this shape."""
    array = np.asarray(value, np.float64)
    if array.size == 1:
        return Constant.of(array)
    found = without_batch(array.shape, len(given))
    if len(found) == 1 and len(given) > 1:
        if found == given[:1] == given[-1:] and np.any(array != array.flat[0]):
            each = f"its constants {found} may be per channel or per column of {given}"
            raise InputError(f"{each}; write them as {(*found, *(1,) * (len(given) - 1))}")
        found = (*found, *(1,) * (len(given) - 1))
    if len(found) != len(given) or any(n not in (1, m) for n, m in zip(found, given, strict=True)):
        raise InputError(f"it takes {array.shape}, but is given {given}")
    array = np.moveaxis(array.reshape(found), 0, -1)
    return Constant.of(array[None] if array.ndim == 2 else array)


def declared_shape(value: Any) -> Shape | None:
    """A shape of a file, `[C, H, W]`, `[C, L]` or `[N]`; None if it is left out."""
    if value is None:
        return None
    shape = np.atleast_1d(value)
    if shape.ndim > 1 or not _is_whole(shape, 1):
        raise InputError(f"shape {shape.tolist()} must be whole numbers of at least 1, one per axis")
    return tuple(shape.astype(int).tolist())


def check_shape(declared: Any, given: Shape) -> None:
    """Raises `InputError` if the input that a node declares is not what it is given."""
    takes = declared_shape(declared)
    if takes is not None and without_batch(takes, len(given)) != given:
        raise InputError(f"it takes {takes}, but is given {given}")


def channels_first(shape: Shape) -> Shape:
    """`(H, W, C)` to `(C, H, W)`; a vector to itself."""
    return (*shape[-1:], *shape[:-1])


def without_batch(shape: Shape, ndim: int) -> Shape:
    """A shape without leading axes of length 1 beyond `ndim`: some programs write the batch of their example."""
    while len(shape) > ndim and shape[0] == 1:
        shape = shape[1:]
    return shape


def _pair(node: Any, name: str, least: int = 1, length: int = 2) -> Pair:
    """A number or one per axis, along H and W; of a map along one axis, H = 1, that along it and the neutral one."""
    value = np.asarray(getattr(node, name))
    if value.shape not in ((), (1,), (length,)) or not _is_whole(value, least):
        raise InputError(f"{name}={value.tolist()} must be {length} whole numbers of at least {least}, or one")
    h, w = np.broadcast_to(value, 2).astype(int).tolist()
    return (h, w) if length == 2 else (least, w)
