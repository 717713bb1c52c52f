"""Batch norms folded into the layers before them: the same function in evaluation, with fewer operations."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from snnkd_jax.models.layers import AvgPool, BatchNorm
from snnkd_jax.models.network import Network, Variables
from snnkd_jax.models.recorder import trace_calls

Path = tuple[str, ...]
"""The path of a module or a parameter in the tree of variables."""


class FoldedNorm(nn.Module):
    """Replaces a `BatchNorm`, whose fields it has, by a bias, and a scale where no convolution could take it."""

    train: bool = False
    v_threshold: float | None = None
    branches: int = 1
    use_scale: bool = True
    momentum: float = 0.9
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`scale x + bias`, of the shape and dtype of x."""
        if self.has_variable("params", "scale"):
            x = x * self.get_variable("params", "scale").astype(x.dtype)
        return x + self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32).astype(x.dtype)


def fold_norms(network: Network, variables: Variables, image_shape: tuple[int, int, int]) -> tuple[Network, Variables]:
    """The same function in evaluation, with the batch norms folded into the convolutions and dense layers before them.

        norm(W x) = (g W) x + (beta - g mu),   g = gain gamma / sqrt(sigma^2 + eps)

    Average pooling may lie between the two. The norm of anything else, such as a residual sum, keeps its scale. No
    other layer may read the output of the layer before a norm, as in all architectures here. A factor of the logits
    (`logit_scale`) is folded into the classifier. Images are `[H, W, C]`.
    """
    if not hasattr(network.module, "norm"):
        return network, variables  # a module that does not take its norm as an argument is left as it is
    sources: dict[Path, tuple[Path | None, float, float]] = {}  # of each norm: the layer before, gain and eps
    outputs: dict[int, Path] = {}  # by the array's identity
    for call in trace_calls(network, variables, image_shape):
        module, source = call.module, outputs.get(id(call.inputs))
        if isinstance(module, nn.Conv | nn.Dense):
            outputs[id(call.output)] = module.path
        elif isinstance(module, AvgPool) and source is not None:
            outputs[id(call.output)] = source
        elif isinstance(module, BatchNorm):
            sources[module.path] = (source, module.gain, module.eps)
    params: dict[Path, Any] = traverse_util.flatten_dict(variables["params"])
    statistics: dict[Path, Any] = traverse_util.flatten_dict(variables["batch_stats"])
    for norm, (source, gain, eps) in sources.items():
        mu, var = statistics[*norm, "mean"], statistics[*norm, "var"]
        scale = gain * params.pop((*norm, "scale"), 1.0) / jnp.sqrt(var + eps)
        params[*norm, "bias"] = params[*norm, "bias"] - scale * mu
        if source is None:
            params[*norm, "scale"] = scale
        else:
            for path in {(*source, "kernel"), (*source, "bias")} & params.keys():
                params[path] = params[path] * scale
    module = network.module.clone(norm=FoldedNorm) if sources else network.module
    if (logit_scale := getattr(module, "logit_scale", 1.0)) != 1:
        params["head", "kernel"] = params["head", "kernel"] * logit_scale
        module = module.clone(logit_scale=1.0)
    folded = dataclasses.replace(network, module=module, rate_module=None)
    return folded, {"params": traverse_util.unflatten_dict(params), "batch_stats": {}}
