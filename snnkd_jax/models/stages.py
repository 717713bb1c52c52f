"""What a module returns beside its logits: its stage outputs, before and after the activation."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from jax import Array

from snnkd_jax.errors import InputError

Features = dict[str, dict[str, Array]]
"""Kind of intermediate values to their names to arrays."""


def records(module: nn.Module, collection: str) -> bool:
    """Whether a layer is to leave its entry in a collection: the caller asked for it (`init` asks for all of them)."""
    return module.is_mutable_collection(collection) and not module.is_initializing()


def checked(who: str, outputs: Any, axes: tuple[int, ...], hint: str = "") -> tuple[Array, Features]:
    """Logits `[*axes, K]` and features of what a network returned, its arrays beginning with `axes`, of B or B and T.

    Raises `InputError`, from `who` to `hint`, for anything else.
    """
    logits: Any
    logits, features = outputs if isinstance(outputs, tuple) and len(outputs) == 2 else (outputs, {})
    kinds = {"features": features}
    if isinstance(features, Mapping):
        kinds |= {kind: features.get(kind, {}) for kind in ("stages", "pre_activations")}
    for kind, x in kinds.items():
        if not isinstance(x, Mapping):
            raise InputError(f"{who}: its {kind} should be a dictionary, not {type(x)}")
    del kinds["features"]
    for kind, maps in kinds.items():
        if list(maps) != sorted(maps):  # JAX sorts the keys of dictionaries
            raise InputError(f"{who}: its {kind} {', '.join(maps)} must be named in order, such as stage01, stage02")
    named = {f"{kind} {name!r}": (x, "H, W, C") for kind, maps in kinds.items() for name, x in maps.items()}
    for what, (x, rest) in ({"logits": (logits, "K")} | named).items():
        shape, letters = getattr(x, "shape", None), ["B", "T"][: len(axes)] + rest.split(", ")
        if shape is None or len(shape) != len(letters) or shape[: len(axes)] != axes:
            raise InputError(f"{who}: its {what} should be [{', '.join(letters)}], not {shape or type(x)}{hint}")
    return logits, {kind: dict(maps) for kind, maps in kinds.items()}


def stage_features(ends: Sequence[tuple[Array, Array]]) -> Features:
    """The features of stages that end in these pre-activations and outputs, by the names "stage1", "stage2", ...

    They are `[B, H, W, C]` in an ANN, `[B, T, H, W, C]` in a spiking network; a current that is constant has `T = 1`.
    """
    named = {f"stage{i}": end for i, end in enumerate(ends, start=1)}
    return {
        "stages": {name: output for name, (_, output) in named.items()},
        "pre_activations": {name: current for name, (current, _) in named.items()},
    }
