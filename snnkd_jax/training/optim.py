"""The optimiser: SGD with Nesterov momentum or AdamW, with a cosine schedule and linear warm-up."""

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
    """Builds an Optax transformation.

    Args:
        name: "sgd" (Nesterov; weight decay is added to the gradient) or "adamw" (decoupled weight decay).
        learning_rate: the peak, reached after `warmup_steps`, then decayed to 0 at `num_steps` along a half cosine.
        num_steps, warmup_steps: all training steps, and those of the linear warm-up from 0.
        momentum: SGD momentum.
        weight_decay: applied to the kernels of convolutions and dense layers only, see `decays`.
        clip_norm: maximum global gradient norm; None: no clipping.

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
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)
