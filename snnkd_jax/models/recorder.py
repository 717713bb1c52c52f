"""The calls of a network's modules, seen from outside: what read what, and what became of it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def calls(network: Any, variables: Any, image_shape: tuple[int, int, int]) -> list[tuple[nn.Module, Any, Any]]:
    """Each call of a module in evaluation, in the order of their ends: module, what it read first, what it returned.

    Args:
        network: anything with `apply(variables, images)`.
        variables: of the network, or their shapes.
        image_shape: `[H, W, C]` of its images.

    Returns:
        The arrays are those of a trace; they are kept, so that the identity of each stays its own.
    """
    found = []

    def record(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if context.method_name == "__call__":
            found.append((context.module, next(iter((*args, *kwargs.values())), None), y))
        return y

    with nn.intercept_methods(record):
        jax.eval_shape(lambda v: network.apply(v, jnp.zeros((1, *image_shape))), variables)
    return found
