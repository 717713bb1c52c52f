"""Few wide stages that pool early: a quarter of the operations of a ResNet-18 on CIFAR-10.

    x = act(norm(pool(conv(x))));  x = act(norm(conv(x)))      a stage

Pooling acts on currents, so that every convolution of a spiking network but the stem sees spikes. Where it differs
from the original: a learnt 3x3 stem in the place of fixed whitening filters, ReLU for GELU, mean pooling unless
maxima are asked for, and a mean over the last map.

Reference: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498.
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


class Airbench(nn.Module):
    """A stem of 24 channels, and a stage of two convolutions for each of `stage_channels`, which halves the map."""

    num_classes: int
    activation: Activation
    norm: Norm = BatchNorm
    pool: Pooling = AvgPool
    stage_channels: tuple[int, ...] = (64, 256, 256)
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, H, W, C]` or `[B, T, H, W, C]` to logits `[B, K]` or `[B, T, K]` and the stage ends."""
        norm = functools.partial(self.norm, train=train)
        x = Conv(channels(24, self.width), dtype=self.dtype, name="stem")(x)
        x = self.activation(name="act_stem")(norm(name="norm_stem")(x))
        stages, again = Stages(), train and self.remat != "none"
        for i, base in enumerate(self.stage_channels, start=1):
            stage = functools.partial(_stage, norm=norm, i=i, features=channels(base, self.width), again=again)
            current, x = rematerialised(stage, again)(self, x)
            stages.add(current, x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(global_avg_pool(x)), stages.features()


def _stage(body: Airbench, x: Array, *, norm: Norm, i: int, features: int, again: bool) -> tuple[Array, Array]:
    """Stage `i`: what enters and what leaves its last activation."""
    fire = functools.partial(norm_act, body, norm=norm, activation=body.activation, again=again)
    x = Conv(features, dtype=body.dtype, name=f"conv{i}_1")(x)
    _, x = fire(body.pool(name=f"pool{i}")(x), f"norm{i}_1", f"act{i}_1")
    x = Conv(features, dtype=body.dtype, name=f"conv{i}_2")(x)
    return fire(x, f"norm{i}_2", f"act{i}_2")
