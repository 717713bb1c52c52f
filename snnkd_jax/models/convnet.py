"""A small convolutional network for MNIST-sized images: conv-norm-act-pool stages and one hidden layer."""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from snnkd_jax.models.activation import Activation
from snnkd_jax.models.layers import AvgPool, BatchNorm, Conv, Norm, Pooling, channels, norm_act
from snnkd_jax.models.remat import Remat, rematerialised
from snnkd_jax.models.stages import Features, Stages


class ConvNet(nn.Module):
    """`depth` stages of 32, 64, 128, ... channels, each halving the map, then 128 hidden units and the read-out."""

    num_classes: int
    activation: Activation
    norm: Norm = BatchNorm
    pool: Pooling = AvgPool
    depth: int = 2
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, H, W, C]` or `[B, T, H, W, C]` to logits `[B, K]` or `[B, T, K]` and the stage ends."""
        norm = functools.partial(self.norm, train=train)
        stages, again = Stages(), train and self.remat != "none"
        for i in range(1, self.depth + 1):
            stage = functools.partial(_stage, norm=norm, i=i, again=again)
            current, x = rematerialised(stage, again)(self, x)
            stages.add(current, x)
            x = self.pool(name=f"pool{i}")(x)
        x = x.reshape(*x.shape[:-3], -1)
        x = nn.Dense(channels(128, self.width), use_bias=False, dtype=self.dtype, name="hidden")(x)
        x = norm(name="norm_hidden")(x)
        x = self.activation(name="act_hidden")(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x), stages.features()


def _stage(body: ConvNet, x: Array, *, norm: Norm, i: int, again: bool) -> tuple[Array, Array]:
    """Stage `i`: what enters and what leaves its activation."""
    x = Conv(channels(16 * 2**i, body.width), dtype=body.dtype, name=f"conv{i}")(x)
    return norm_act(body, x, f"norm{i}", f"act{i}", norm=norm, activation=body.activation, again=again)
