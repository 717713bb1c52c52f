"""The features that a module returns with its logits: its stage outputs, before and after the activation."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from jax import Array

from snnkd_jax.errors import InputError

Features = dict[str, dict[str, Array]]
"""Intermediate values by kind and name."""


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
        if list(maps) != sorted(maps):  # JAX sorts the keys of dictionaries
            raise InputError(f"{who}: its {kind} {', '.join(maps)} must be named in order, such as stage01, stage02")
        arrays |= {f"{kind} {name!r}": (x, ("H", "W", "C")) for name, x in maps.items()}
    for what, (x, rest) in arrays.items():
        shape, letters = getattr(x, "shape", None), [*"BT"[: len(axes)], *rest]
        if shape is None or len(shape) != len(letters) or shape[: len(axes)] != axes:
            raise InputError(f"{who}: its {what} should be [{', '.join(letters)}], not {shape or type(x)}{hint}")
    return logits, {kind: dict(maps) for kind, maps in kinds.items()}


def stage_features(outputs: Sequence[tuple[Array, Array]]) -> Features:
    """The features of stages with these pre-activations and outputs, named "stage1", "stage2", ...

    They are `[B, H, W, C]` in an ANN, `[B, T, H, W, C]` in a spiking network; a constant current has `T = 1`.
    """
    return {
        "stages": {f"stage{i}": output for i, (_, output) in enumerate(outputs, start=1)},
        "pre_activations": {f"stage{i}": current for i, (current, _) in enumerate(outputs, start=1)},
    }
