"""Wide residual networks: pre-activation blocks, `widen` times the channels of ResNet-20.

    y = conv(act(norm(conv(act(norm(x)))))) + shortcut

where the shortcut is x, and in the first block of a stage a 1x1 projection of act(norm(x)). With neurons for `act` the
sum passes on as a real-valued signal and every convolution but the stem sees spikes.

Reference: Zagoruyko & Komodakis 2016, arXiv 1605.07146; without dropout.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from snnkd_jax.models.activation import Activation
from snnkd_jax.models.layers import BatchNorm, Conv, Norm, channels, global_avg_pool, norm_act
from snnkd_jax.models.remat import Remat, rematerialised
from snnkd_jax.models.stages import Features, Stages


class PreActivationBlock(nn.Module):
    """norm-act-conv twice, and a shortcut, through a convolution if `project`."""

    features: int
    stride: int
    activation: Activation
    norm: Norm
    dtype: DTypeLike
    project: bool = False
    again: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """`[..., H, W, C]` to `(y, current, output)`: the sum, and its first activation's input and output."""
        fire = functools.partial(norm_act, self, norm=self.norm, activation=self.activation, again=self.again)
        current, output = fire(x, "norm1", "act1")
        h = Conv(self.features, 3, self.stride, self.dtype, name="conv1")(output)
        _, h = fire(h, "norm2", "act2")
        h = Conv(self.features, 3, 1, self.dtype, name="conv2")(h)
        if self.project:
            x = Conv(self.features, 1, self.stride, self.dtype, name="conv_shortcut")(output)
        return h + x, current, output


class WideResNet(nn.Module):
    """Three stages of `(depth - 4) / 6` blocks with 16, 32, 64 times `widen` channels.

    A stage ends at the first activation behind it: that of the next stage's first block, or the last of the network.
    """

    num_classes: int
    activation: Activation
    norm: Norm = BatchNorm
    depth: int = 16
    widen: int = 2
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, H, W, C]` or `[B, T, H, W, C]` to logits `[B, K]` or `[B, T, K]` and the stage ends."""
        norm = functools.partial(self.norm, train=train)
        x = Conv(channels(16, self.width), dtype=self.dtype, name="stem")(x)
        stages, remat = Stages(), self.remat if train else "none"
        block_class = rematerialised(PreActivationBlock, remat == "block")
        fields = {"activation": self.activation, "norm": norm, "dtype": self.dtype, "again": remat != "none"}
        block = functools.partial(block_class, **fields)
        for i in range(1, 4):
            features = channels(16 * self.widen * 2 ** (i - 1), self.width)
            stage = functools.partial(_stage, block=block, i=i, size=(self.depth - 4) // 6, features=features)
            x, current, output = rematerialised(stage, remat == "stage")(self, x)
            if i > 1:
                stages.add(current, output)
        current = norm(name="norm_final")(x)
        x = self.activation(name="act_final")(current)
        stages.add(current, x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(global_avg_pool(x)), stages.features()


def _stage(_: nn.Module, x: Array, *, block: Any, i: int, size: int, features: int) -> tuple[Array, Array, Array]:
    """Stage `i` of `size` blocks: the last sum, and the input and output of the first activation."""
    x, current, output = block(features, 1 if i == 1 else 2, project=True, name=f"block{i}_1")(x)
    for j in range(2, size + 1):
        x, _, _ = block(features, 1, name=f"block{i}_{j}")(x)
    return x, current, output
