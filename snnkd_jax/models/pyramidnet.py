"""PyramidNet: residual blocks whose channels grow a little with every block.

    y = norm(conv(act(norm(conv(norm(x)))))) + shortcut(x)

The shortcut averages over 2x2 where the map shrinks and pads with zero channels. KDSNN's teacher is a "PyramidNet18"
that the paper does not describe; four stages of two basic blocks from 64 to 512 channels, as wide as ResNet-18 at its
end, are a guess. Blocks begin without an activation, so in a spiking PyramidNet the first convolution of a block sees
real values: it is meant as a teacher.

Reference: Han, Kim & Kim, CVPR 2017, arXiv 1610.02915.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from snnkd_jax.models.activation import Activation
from snnkd_jax.models.layers import BatchNorm, Conv, Norm, avg_pool, channels, global_avg_pool, norm_act
from snnkd_jax.models.remat import Remat, rematerialised
from snnkd_jax.models.stages import Features, Stages


class PyramidBlock(nn.Module):
    """norm-conv-norm-act-conv-norm and a shortcut without parameters."""

    features: int
    stride: int
    activation: Activation
    norm: Norm
    dtype: DTypeLike
    again: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`[..., H, W, C]` to the sum `[..., H / stride, W / stride, features]` and the norm of `x`."""
        entry = self.norm(name="norm1")(x)
        h = Conv(self.features, 3, self.stride, self.dtype, name="conv1")(entry)
        _, h = norm_act(self, h, "norm2", "act", norm=self.norm, activation=self.activation, again=self.again)
        h = Conv(self.features, 3, 1, self.dtype, name="conv2")(h)
        h = self.norm(name="norm3", branches=2)(h)
        # The convolution rounds odd maps up; repeating the last row makes the mean over the pixels that exist.
        edge = [(0, 0)] * (x.ndim - 3) + [(0, -x.shape[-3] % self.stride), (0, -x.shape[-2] % self.stride), (0, 0)]
        x = avg_pool(jnp.pad(x, edge, mode="edge"), self.stride)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.features - x.shape[-1])])
        return h + x, entry


class PyramidNet(nn.Module):
    """`stage_sizes[i]` blocks a stage; block k of n in all has `start + (end - start) k / n` channels.

    A stage ends at the norm behind it, where this architecture has no activation (the last stage has one).
    """

    num_classes: int
    activation: Activation
    norm: Norm = BatchNorm
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    start: int = 64
    end: int = 512
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, H, W, C]` or `[B, T, H, W, C]` to logits `[B, K]` or `[B, T, K]` and the stage ends."""
        norm = functools.partial(self.norm, train=train)
        x = Conv(channels(self.start, self.width), dtype=self.dtype, name="stem")(x)
        x = norm(name="norm_stem")(x)
        stages, remat = Stages(), self.remat if train else "none"
        block_class = rematerialised(PyramidBlock, remat == "block")
        fields = {"activation": self.activation, "norm": norm, "dtype": self.dtype, "again": remat != "none"}
        block = functools.partial(block_class, **fields)
        n = sum(self.stage_sizes)
        growing = [channels(self.start + (self.end - self.start) * k // n, self.width) for k in range(1, n + 1)]
        for i, size in enumerate(self.stage_sizes, start=1):
            before = sum(self.stage_sizes[: i - 1])
            stage = functools.partial(_stage, block=block, i=i, features=growing[before : before + size])
            x, entry = rematerialised(stage, remat == "stage")(self, x)
            if i > 1:
                stages.add(entry, entry)
        current = norm(name="norm_final")(x)
        x = self.activation(name="act_final")(current)
        stages.add(current, x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(global_avg_pool(x)), stages.features()


def _stage(_: nn.Module, x: Array, *, block: Any, i: int, features: list[int]) -> tuple[Array, Array]:
    """Stage `i`, a block for each of `features`: the last sum, and the norm at the entry of the first block."""
    x, entry = block(features[0], 1 if i == 1 else 2, name=f"block{i}_1")(x)
    for j, size in enumerate(features[1:], start=2):
        x, _ = block(size, 1, name=f"block{i}_{j}")(x)
    return x, entry
