"""Residual networks for small images: 3x3 stem, basic blocks, projection shortcuts.

    y = act(norm(conv(act(norm(conv(x))))) + shortcut(x))

With neurons for `act` this is the spiking ResNet: the sum is an input current, every convolution but the stem sees
spikes. References: He et al. 2016 (18, 20, 34); Zheng et al., AAAI 2021 (19, the SNN literature's: 128-256-512
channels and a hidden layer of 256). ResNet-20 has projection shortcuts here where the original pads with zeros.
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from snnkd_jax.models.activation import Activation
from snnkd_jax.models.layers import BatchNorm, Conv, Norm, channels, global_avg_pool, norm_act
from snnkd_jax.models.remat import Remat, rematerialised
from snnkd_jax.models.stages import Features, Stages


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a 1x1 projection where the shape changes."""

    features: int
    stride: int
    activation: Activation
    norm: Norm
    dtype: DTypeLike
    again: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`[..., H, W, C]` to the summed current and its activation, `[..., H / stride, W / stride, features]`."""
        fire = functools.partial(norm_act, self, norm=self.norm, activation=self.activation, again=self.again)
        h = Conv(self.features, 3, self.stride, self.dtype, name="conv1")(x)
        _, h = fire(h, "norm1", "act1")
        h = Conv(self.features, 3, 1, self.dtype, name="conv2")(h)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Conv(self.features, 1, self.stride, self.dtype, name="conv_shortcut")(x)
            x = self.norm(name="norm_shortcut", branches=2)(x)
        return fire(h, "norm2", "act2", shortcut=x)


def residual_stages(
    body: nn.Module,
    x: Array,
    block_class: type[nn.Module],
    sizes: Sequence[int],
    widths: Sequence[int],
    remat: Remat,
    **fields: Any,
) -> tuple[Array, Features]:
    """`sizes[i]` blocks of `widths[i]` channels in a body; every stage but the first halves the map.

    `block_class(features, stride, again, **fields)` is a module that returns what enters and what leaves its last
    activation; `remat` says what of the stages is computed again in the backward pass.
    """
    stages = Stages()
    block = functools.partial(rematerialised(block_class, remat == "block"), again=remat != "none", **fields)
    for i, (size, features) in enumerate(zip(sizes, widths, strict=True), start=1):
        stage = functools.partial(_stage, block=block, i=i, size=size, features=features)
        current, x = rematerialised(stage, remat == "stage")(body, x)
        stages.add(current, x)
    return x, stages.features()


class ResNet(nn.Module):
    """`stage_sizes[i]` blocks of `stage_channels[i]` channels; every stage but the first halves the map."""

    num_classes: int
    activation: Activation
    norm: Norm = BatchNorm
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    stage_channels: tuple[int, ...] = (64, 128, 256, 512)
    hidden: int | None = None
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, H, W, C]` or `[B, T, H, W, C]` to logits `[B, K]` or `[B, T, K]` and the stage ends."""
        norm = functools.partial(self.norm, train=train)
        x = Conv(channels(self.stage_channels[0], self.width), dtype=self.dtype, name="stem")(x)
        x = self.activation(name="act_stem")(norm(name="norm_stem")(x))
        widths = [channels(c, self.width) for c in self.stage_channels]
        fields = {"activation": self.activation, "norm": norm, "dtype": self.dtype}
        x, stages = residual_stages(
            self, x, BasicBlock, self.stage_sizes, widths, self.remat if train else "none", **fields
        )
        x = global_avg_pool(x)
        if self.hidden is not None:
            x = nn.Dense(channels(self.hidden, self.width), dtype=self.dtype, name="hidden")(x)
            x = self.activation(name="act_hidden")(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x), stages


def _stage(_: nn.Module, x: Array, *, block: Any, i: int, size: int, features: int) -> tuple[Array, Array]:
    """Stage `i` of `size` blocks: what enters and what leaves its last activation."""
    current = x
    for j in range(1, size + 1):
        current, x = block(features, 2 if i > 1 and j == 1 else 1, name=f"block{i}_{j}")(x)
    return current, x
