"""What the JAX libraries share: compiling a step once, and the training step around a forward function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from snnkd_jax.distill.losses import cross_entropy, kd_divergence

from .workload import CE_WEIGHT, KD_WEIGHT, LEARNING_RATE, MOMENTUM, TEMPERATURE, Step, Workload, batch, normalised


def count(params: Any) -> int:
    """How many numbers a tree holds."""
    return sum(x.size for x in jax.tree.leaves(params))


def jax_step(
    work: Workload,
    function: Callable[..., tuple[Any, ...]],
    state: Any,
    constants: tuple[Any, ...],
    *,
    parameters: int,
    stem_steps: int,
    compiler_options: dict[str, str] | None = None,
) -> Step:
    """A step `(state, *constants) -> (state, scalar, ...)`, compiled at the first call, its state donated."""
    compiled: Any = None

    def advance() -> float:
        nonlocal compiled, state
        if compiled is None:
            jitted = jax.jit(function, donate_argnums=0, compiler_options=compiler_options)
            compiled = jitted.lower(state, *constants).compile()
        state, value, *_ = jax.block_until_ready(compiled(state, *constants))
        return float(value)

    def temp_bytes() -> int | None:
        analysis = compiled.memory_analysis() if compiled is not None else None
        return None if analysis is None else analysis.temp_size_in_bytes

    def device_bytes() -> int | None:
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    def program() -> str | None:
        return compiled.as_text() if compiled is not None else None

    flags = ["state donated", *(["bfloat16 convolutions and head"] if work.dtype == "bfloat16" else [])]
    flags += [f"{name}={value}" for name, value in (compiler_options or {}).items()]
    return Step(parameters, advance, stem_steps, temp_bytes, device_bytes, program, tuple(flags))


def make_jax_step(
    work: Workload,
    params: Any,
    stats: Any,
    forward: Callable[..., tuple[Array, Any]],
    teacher: Callable[[Array], Array],
    *,
    stem_steps: int,
) -> Step:
    """The step of a network, with the compiler's default options.

    Args:
        work: its task is train, kd or inference.
        params: what is trained.
        stats: batch statistics, what the forward pass changes.
        forward: (params, stats, images `[B, H, W, C]`) to (mean logits `[B, K]`, new stats), in the task's mode.
        teacher: images to the frozen teacher's logits `[B, K]`; called in `kd` only.
        stem_steps: see `Step`.
    """
    raw, classes = batch(work.batch_size)
    images, labels = jnp.asarray(normalised(raw)), jnp.asarray(classes)
    if work.task == "inference":
        return jax_step(
            work,
            lambda state, images: (state, forward(state[0], state[1], images)[0].mean()),
            (params, stats),
            (images,),
            parameters=count(params),
            stem_steps=stem_steps,
        )
    optimizer = optax.sgd(LEARNING_RATE, MOMENTUM)

    def train(state, images, labels):
        params, stats, opt_state = state

        def loss_fn(params):
            logits, new_stats = forward(params, stats, images)
            loss = cross_entropy(logits, labels).mean()
            if work.has_teacher:
                loss = CE_WEIGHT * loss + KD_WEIGHT * kd_divergence(logits, teacher(images), TEMPERATURE).mean()
            return loss, new_stats

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), loss

    state = (params, stats, optimizer.init(params))
    return jax_step(work, train, state, (images, labels), parameters=count(params), stem_steps=stem_steps)
