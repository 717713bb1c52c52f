"""The optimisers: SGD with Nesterov momentum, AdamW and Muon, with a schedule of the learning rate."""

import math
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from snnkd_jax.errors import InputError, check_choice, check_count
from snnkd_jax.models import whitening


def make_optimizer(
    name: str,
    *,
    learning_rate: float,
    num_steps: int,
    warmup_steps: int = 0,
    schedule: str = "cosine",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    norm_bias_scale: float = 1.0,
    decay_biases: bool = False,
    whitening_bias_steps: int | None = None,
) -> optax.GradientTransformation:
    """Builds an Optax transformation.

    Args:
        name: "sgd" (Nesterov; weight decay is added to the gradient), "adamw" or "muon" (see `muon`; both with
            decoupled weight decay).
        learning_rate: the peak.
        num_steps, warmup_steps: all training steps, and those of the linear warm-up of the schedule "cosine".
        schedule: "cosine", from 0 to the peak in the warm-up and then to 0 along a half cosine; or `triangle`.
        momentum: of SGD and Muon.
        weight_decay: applied to the kernels of convolutions and dense layers only, see `decays`.
        clip_norm: maximum global gradient norm; None: no clipping.
        norm_bias_scale: factor of the learning rate for the biases of norms, but not for their weight decay.
        decay_biases: whether biases decay as well.
        whitening_bias_steps: steps in which the bias of whitening filters (`models.whitening`) is trained; None: all.

    Raises:
        InputError: for an unknown name or a number out of range.
    """
    check_choice("optimizer", name, ("sgd", "adamw", "muon"))
    check_choice("schedule", schedule, ("cosine", "triangle"))
    for option, value in (("learning_rate", learning_rate), ("norm_bias_scale", norm_bias_scale)):
        if not 0 < value < float("inf"):
            raise InputError(f"{option}={value!r} must be a positive finite number")
    if not 0 <= weight_decay < float("inf"):
        raise InputError(f"weight_decay={weight_decay!r} must be a finite number >= 0")
    if not 0 <= momentum < 1:
        raise InputError(f"momentum={momentum!r} must be in [0, 1)")
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm={clip_norm!r} must be positive, or None for no clipping")
    check_count("num_steps", num_steps)
    if not 0 <= warmup_steps < num_steps:
        raise InputError(f"the warm-up takes {warmup_steps} of {num_steps} steps; make it shorter than the training")
    if schedule == "triangle":
        if warmup_steps:
            raise InputError(f"warmup_steps={warmup_steps!r}: schedule='triangle' has its own warm-up; use 0")
        rate = triangle(learning_rate, num_steps)
    else:
        start = 0.0 if warmup_steps else learning_rate
        rate = optax.warmup_cosine_decay_schedule(start, learning_rate, warmup_steps, decay_steps=num_steps)
    scaled = [] if norm_bias_scale == 1 else [optax.masked(optax.scale(norm_bias_scale), _norm_biases)]
    decay = optax.add_decayed_weights(weight_decay, mask=lambda params: decays(params, decay_biases))
    if name == "sgd":  # linear in the gradient: to scale that is to scale the update
        rule = optax.chain(*scaled, decay, optax.sgd(rate, momentum=momentum, nesterov=True))
    else:
        direction = optax.scale_by_adam() if name == "adamw" else muon(momentum)
        rule = optax.chain(direction, *scaled, decay, optax.scale_by_learning_rate(rate))
    if whitening_bias_steps is not None:
        is_trained = optax.scale_by_schedule(lambda count: jnp.less(count, whitening_bias_steps))
        rule = optax.chain(rule, optax.masked(is_trained, _whitening_biases))
    return rule if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), rule)


def decays(params: Any, biases: bool = False) -> Any:
    """A tree of bools: True for weights ("kernel"), False for norms, biases and neuron parameters.

    With `biases` also True for biases ("bias"), those of norms included. Whitening filters are fixed, and False.
    """
    names = ("kernel", "bias") if biases else ("kernel",)
    return jax.tree.map_with_path(lambda path, _: path[-1].key in names and not whitening.is_filter(path), params)


def triangle(peak: float, num_steps: int) -> optax.Schedule:
    """The learning rate by step i of N, `num_steps`: up from a fifth of the peak to the peak, and down to 7 % of it.

        f(i) = 0.2 + 0.8 i / w,  i < w = floor(0.23 N);    f(i) = 1 - 0.93 (i - w) / (N - w),  i >= w

    Source: Jordan 2024, arXiv 2404.00498, and its code, airbench94.
    """
    w = int(0.23 * num_steps)
    up = optax.linear_schedule(0.2 * peak, peak, w)
    return optax.join_schedules([up, optax.linear_schedule(peak, 0.07 * peak, num_steps - w)], [w])


def muon(momentum: float) -> optax.GradientTransformation:
    """The directions of Muon for kernels but the classifier's, those of Adam for all other parameters.

        M <- mu M + (1 - mu) G;    U = 0.2 sqrt(max(m, n)) orthogonalised(mu M + (1 - mu) G)

    G is a gradient as a matrix `[m, n]`, that of a convolution as `[k^2 C_in, C_out]`, both terms with Adam's
    correction of their bias, and mu is `momentum`; five steps of Newton and Schulz make it nearly orthogonal. The
    factor gives U the root mean square of Adam's directions, so that one learning rate and one weight decay serve both.
    The classifier is the layer "head".

    Sources: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv 2502.16982.
    """

    def labels(params: Any) -> Any:
        return jax.tree.map_with_path(lambda path, x: "muon" if _is_hidden(path, x) else "adam", params)

    def axes(params: Any) -> Any:
        return jax.tree.map(lambda x: MuonDimensionNumbers(tuple(range(x.ndim - 1)), x.ndim - 1), params)

    def match_rms(updates: Any, _: Any) -> Any:
        return jax.tree.map(lambda u: 0.2 * max(math.prod(u.shape[:-1]), u.shape[-1]) ** 0.5 * u, updates)

    orthogonalised = scale_by_muon(beta=momentum, weight_dimension_numbers=axes)
    rules: dict[Hashable, optax.GradientTransformation] = {
        "muon": optax.chain(orthogonalised, optax.stateless(match_rms)),
        "adam": optax.scale_by_adam(),
    }
    return optax.partition(rules, labels)


def _is_hidden(path: tuple[Any, ...], x: Any) -> bool:
    names = [key.key for key in path]
    return names[-1] == "kernel" and x.ndim >= 2 and "head" not in names and not whitening.is_filter(path)


def _norm_biases(params: Any) -> Any:
    """A tree of bools: True for biases of layers with "norm" in their name."""

    def is_one(path: tuple[Any, ...], _: Any) -> bool:
        *layers, name = (key.key for key in path)
        return name == "bias" and bool(layers) and "norm" in layers[-1].lower()

    return jax.tree.map_with_path(is_one, params)


def _whitening_biases(params: Any) -> Any:
    return jax.tree.map_with_path(lambda path, _: whitening.is_bias(path), params)
