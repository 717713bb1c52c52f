"""Batch norms folded into the layers before them: the same function in evaluation, with fewer operations."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from snnkd_jax.models.layers import AvgPool, BatchNorm
from snnkd_jax.models.network import Network, Variables
from snnkd_jax.models.recorder import calls

Path = tuple[str, ...]
"""Of a module or a parameter in the tree of variables."""


class FoldedNorm(nn.Module):
    """What is left of a `BatchNorm`, whose fields it has: a bias, and a scale where no convolution could take it."""

    train: bool = False
    v_threshold: float | None = None
    branches: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`scale x + bias`, of the shape and dtype of x."""
        if self.has_variable("params", "scale"):
            x = x * self.get_variable("params", "scale").astype(x.dtype)
        return x + self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).astype(x.dtype)


def fold_norms(network: Network, variables: Variables, image_shape: tuple[int, int, int]) -> tuple[Network, Variables]:
    """The same function in evaluation, with the batch norms in the convolutions and dense layers before them.

        norm(W x) = (g W) x + (beta - g mu),   g = gain gamma / sqrt(sigma^2 + eps)

    Means over windows may lie between the two. A norm of something else, such as a residual sum, keeps its scale.
    Nothing but the norm may read the layer before it, as is so in every body here. Images are `[H, W, C]`.
    """
    if not hasattr(network.body, "norm"):
        return network, variables  # a module that does not take its norm from outside stays as it is
    sources = _sources(network, variables, image_shape)
    params: dict[Path, Any] = traverse_util.flatten_dict(variables["params"])
    statistics: dict[Path, Any] = traverse_util.flatten_dict(variables["batch_stats"])
    for norm, (source, gain, eps) in sources.items():
        mu, var = statistics[*norm, "mean"], statistics[*norm, "var"]
        scale = gain * params.pop((*norm, "scale")) / jnp.sqrt(var + eps)
        params[*norm, "bias"] = params[*norm, "bias"] - scale * mu
        if source is None:
            params[*norm, "scale"] = scale
        else:
            for name in ("kernel", "bias"):
                if (*source, name) in params:
                    params[*source, name] = params[*source, name] * scale
    body = network.body.clone(norm=FoldedNorm) if sources else network.body
    folded = dataclasses.replace(network, body=body, rate_body=None)
    return folded, {"params": traverse_util.unflatten_dict(params), "batch_stats": {}}


def _sources(
    network: Network, variables: Variables, image_shape: tuple[int, int, int]
) -> dict[Path, tuple[Path | None, float, float]]:
    """Each norm's path to the path of the layer whose output it normalises, its gain, and its eps."""
    sources: dict[Path, tuple[Path | None, float, float]] = {}
    outputs: dict[int, Path] = {}  # by the array's identity
    for call in calls(network, variables, image_shape):
        module, made_by = call.module, outputs.get(id(call.inputs))
        if isinstance(module, nn.Conv | nn.Dense):
            outputs[id(call.output)] = module.path
        elif isinstance(module, AvgPool) and made_by is not None:
            outputs[id(call.output)] = made_by
        elif isinstance(module, BatchNorm):
            gain = 1.0 if module.v_threshold is None else module.v_threshold / module.branches**0.5
            sources[module.path] = (made_by, gain, module.eps)
    return sources
