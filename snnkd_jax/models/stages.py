"""The features that a module returns with its logits: its stage outputs, before and after the activation."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from jax import Array

from snnkd_jax.errors import InputError

Features = dict[str, dict[str, Array]]
"""Intermediate values by kind and name.

Stages are in forward order, in an `OrderedDict`: JAX sorts the keys of a `dict` that passes a transformation, as text,
where stage10 precedes stage2.
"""


def is_collected(module: nn.Module, collection: str) -> bool:
    """Whether a layer should write to a collection: it is mutable, other than by `init`, where all of them are."""
    return module.is_mutable_collection(collection) and not module.is_initializing()


def check_outputs(who: str, outputs: Any, axes: tuple[int, ...], hint: str = "") -> tuple[Array, Features]:
    """Logits `[*axes, K]` and features `[*axes, H, W, C]` of a network's outputs; `axes` are B, or B and T.

    Raises `InputError`, from `who` to `hint`, for anything else.
    """
    logits: Any
    logits, features = outputs if isinstance(outputs, tuple) and len(outputs) == 2 else (outputs, {})
    if not isinstance(features, Mapping):
        raise InputError(f"{who}: its features should be a dictionary, not {type(features)}")
    kinds = {kind: features.get(kind, {}) for kind in ("stages", "pre_activations")}
    arrays = {"logits": (logits, ("K",))}
    for kind, maps in kinds.items():
        if not isinstance(maps, Mapping):
            raise InputError(f"{who}: its {kind} should be a dictionary, not {type(maps)}")
        arrays |= {f"{kind} {name!r}": (x, ("H", "W", "C")) for name, x in maps.items()}
    for what, (x, rest) in arrays.items():
        shape, letters = getattr(x, "shape", None), [*"BT"[: len(axes)], *rest]
        if shape is None or len(shape) != len(letters) or shape[: len(axes)] != axes:
            raise InputError(f"{who}: its {what} should be [{', '.join(letters)}], not {shape or type(x)}{hint}")
    return logits, {kind: in_order(maps) for kind, maps in kinds.items()}


def in_order(maps: Mapping[str, Array]) -> OrderedDict[str, Array]:
    """The maps of stages in the order of their definition.

    That is the order of the dictionary; but one that is sorted as text, as JAX does it inside of the module, is sorted
    by the numbers in its names.
    """
    names = list(maps)
    if not isinstance(maps, OrderedDict) and names == sorted(names):
        names.sort(key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)])
    return OrderedDict((name, maps[name]) for name in names)


def stage_features(outputs: Sequence[tuple[Array, Array]]) -> Features:
    """The features of stages with these pre-activations and outputs, named "stage1", "stage2", ...

    They are `[B, H, W, C]` in an ANN, `[B, T, H, W, C]` in a spiking network; a constant current has `T = 1`.
    """
    return {
        "stages": OrderedDict((f"stage{i}", output) for i, (_, output) in enumerate(outputs, start=1)),
        "pre_activations": OrderedDict((f"stage{i}", current) for i, (current, _) in enumerate(outputs, start=1)),
    }
