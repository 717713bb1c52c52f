"""The optimiser: SGD with Nesterov momentum or AdamW, under a cosine schedule with linear warm-up."""

from typing import Any

import jax
import optax

from snnkd_jax.errors import InputError, check_choice, check_count


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """An Optax transformation.

    Args:
        name: "sgd" (Nesterov; weight decay is added to the gradient) or "adamw" (decoupled).
        learning_rate: the peak, reached after `warmup_steps`, then falling to 0 at `num_steps` along a half cosine.
        num_steps, warmup_steps: training steps in all, and of linear growth from 0.
        momentum: of SGD.
        weight_decay: acts on the weights of convolutions and dense layers only, see `decays`.
        clip_norm: largest global gradient norm; None does not clip.

    Raises:
        InputError: for an unknown name or a number out of range.
    """
    check_choice("optimizer", name, ("sgd", "adamw"))
    if not 0 < learning_rate < float("inf"):
        raise InputError(f"learning_rate={learning_rate!r} must be a positive finite number")
    if not 0 <= weight_decay < float("inf"):
        raise InputError(f"weight_decay={weight_decay!r} must be a finite number >= 0")
    if not 0 <= momentum < 1:
        raise InputError(f"momentum={momentum!r} must be in [0, 1)")
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm={clip_norm!r} must be positive, or None for no clipping")
    check_count("num_steps", num_steps)
    if not 0 <= warmup_steps < num_steps:
        raise InputError(f"the warm-up takes {warmup_steps} of {num_steps} steps; make it shorter than the training")
    start = 0.0 if warmup_steps else learning_rate
    schedule = optax.warmup_cosine_decay_schedule(start, learning_rate, warmup_steps, decay_steps=num_steps)
    if name == "sgd":
        decay = optax.add_decayed_weights(weight_decay, mask=decays)
        rule = optax.chain(decay, optax.sgd(schedule, momentum=momentum, nesterov=True))
    else:
        rule = optax.adamw(schedule, weight_decay=weight_decay, mask=decays)
    return rule if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), rule)


def decays(params: Any) -> Any:
    """A tree of bools: True for weights ("kernel"), False for norms, biases and neuron parameters."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
