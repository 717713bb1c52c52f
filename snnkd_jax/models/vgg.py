"""VGG with batch norm, as used on CIFAR: conv stages with pooling, one linear read-out.

Reference: Simonyan & Zisserman 2015, configurations A (11), B (13) and D (16). The two hidden layers of 4096 units are
left out, as in nearly all work on 32x32 images, and pooling takes means unless maxima are asked for.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from snnkd_jax.models.activation import Activation
from snnkd_jax.models.layers import AvgPool, BatchNorm, Conv, Norm, Pooling, channels, global_avg_pool, norm_act
from snnkd_jax.models.remat import Remat, rematerialised
from snnkd_jax.models.stages import Features, Stages


class VGG(nn.Module):
    """`stage_sizes[i]` convolutions of 64, 128, 256, 512, 512 channels, each stage followed by a 2x2 pooling."""

    num_classes: int
    activation: Activation
    norm: Norm = BatchNorm
    pool: Pooling = AvgPool
    stage_sizes: tuple[int, ...] = (1, 1, 2, 2, 2)
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, H, W, C]` or `[B, T, H, W, C]` to logits `[B, K]` or `[B, T, K]` and the stage ends."""
        norm = functools.partial(self.norm, train=train)
        stages, again = Stages(), train and self.remat != "none"
        for i, size in enumerate(self.stage_sizes, start=1):
            features = channels(64 * min(2 ** (i - 1), 8), self.width)
            stage = functools.partial(_stage, norm=norm, i=i, size=size, features=features, again=again)
            current, x = rematerialised(stage, again)(self, x)
            stages.add(current, x)
            # The last pooling by means is part of the global one; maxima are not, if there is more than one value.
            if i < len(self.stage_sizes) or (self.pool is not AvgPool and min(x.shape[-3:-1]) > 1):
                x = self.pool(name=f"pool{i}")(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(global_avg_pool(x)), stages.features()


def _stage(body: VGG, x: Array, *, norm: Norm, i: int, size: int, features: int, again: bool) -> tuple[Array, Array]:
    """Stage `i` of `size` convolutions: what enters and what leaves its last activation."""
    fire = functools.partial(norm_act, body, norm=norm, activation=body.activation, again=again)
    current = x
    for j in range(1, size + 1):
        x = Conv(features, dtype=body.dtype, name=f"conv{i}_{j}")(x)
        current, x = fire(x, f"norm{i}_{j}", f"act{i}_{j}")
    return current, x
