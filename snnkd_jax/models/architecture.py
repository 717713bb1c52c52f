"""What the architectures share: their fields, residual blocks, and stages of convolutions or of blocks.

Layers take `[..., H, W, C]`. With `remat`, norms and activations are recomputed in the backward pass
(`snnkd_jax.models.remat`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from snnkd_jax.models.activation import Activation
from snnkd_jax.models.layers import BatchNorm, Conv, Norm, channels
from snnkd_jax.models.remat import Remat, rematerialised
from snnkd_jax.models.stages import Features, stage_features

StageOutput = tuple[Array, Array]
"""The pre-activation and the output of a stage's last activation."""


class Architecture(nn.Module):
    """Maps images, `[B, H, W, C]` or `[B, T, H, W, C]`, and `train` to `(logits, features of the stages)`.

    Logits are `[B, K]` or `[B, T, K]`; `width` multiplies all channels but theirs.
    """

    num_classes: int
    activation: Activation
    norm: Norm = BatchNorm
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.nowrap
    def conv(self, x: Array, base: int, name: str, **options: Any) -> Array:
        """A convolution to `base` channels times the width."""
        return Conv(channels(base, self.width), dtype=self.dtype, name=name, **options)(x)

    @nn.nowrap
    def apply_stem(self, x: Array, base: int, train: bool, **options: Any) -> Array:
        """A convolution, norm and activation."""
        return norm_act(self, self.conv(x, base, "stem", **options), "norm_stem", "act_stem", train=train)[1]

    @nn.nowrap
    def stage(
        self, x: Array, base: int, suffixes: Sequence[str], train: bool, pool: Any = None, **options: Any
    ) -> StageOutput:
        """3x3 convolutions, each followed by a norm and an activation.

        Layers are called "conv", "norm" and "act" with a suffix; `pool`, if given, follows the first convolution.
        `options` are the norms'.
        """
        remat = train and self.remat != "none"

        def layers(module: "Architecture", x: Array) -> StageOutput:
            current = x
            for suffix in suffixes:
                x = module.conv(x, base, f"conv{suffix}")
                if pool is not None and suffix == suffixes[0]:
                    x = pool()(x)
                current, x = norm_act(module, x, f"norm{suffix}", f"act{suffix}", remat, train=train, **options)
            return current, x

        return rematerialised(layers, remat)(self, x)

    @nn.nowrap
    def read_out(self, x: Array) -> Array:
        """The logits of `[..., C]`."""
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)


class Block(nn.Module):
    """A residual block of two 3x3 convolutions to `features` channels, the first of which has the stride."""

    features: int
    stride: int
    activation: Activation
    norm: Norm
    dtype: DTypeLike
    remat: bool = False

    @nn.nowrap
    def conv(self, x: Array, name: str, kernel: int = 3, stride: int = 1) -> Array:
        """A convolution."""
        return Conv(self.features, kernel, stride, self.dtype, name=name)(x)


def norm_act(
    module: Architecture | Block, x: Array, norm: str, act: str, remat: bool = False, *shortcuts: Array, **options: Any
) -> StageOutput:
    """`current = norm(x) + shortcuts` and its activation, of the shape of `x`, by layers called `norm` and `act`.

    `options` are the norm's. With `remat`, only `x` is kept for the backward pass.
    """

    def layers(module: Architecture | Block, x: Array, *shortcuts: Array) -> StageOutput:
        current = sum(shortcuts, module.norm(name=norm, branches=1 + len(shortcuts), **options)(x))
        return current, module.activation(name=act)(current)

    return rematerialised(layers, remat)(module, x, *shortcuts)


def residual_stages(
    module: Architecture, x: Array, block: type[Block], sizes: Sequence[int], bases: Sequence[int], train: bool
) -> tuple[Array, Features]:
    """`sizes[i]` blocks of `bases[i]` channels times the width; every stage but the first halves the map.

    A block returns the output and the pre-activation of its last activation.
    """
    widths = [[channels(base, module.width)] * size for size, base in zip(sizes, bases, strict=True)]
    outputs = _stages(module, x, block, widths, train, entry=False)
    return outputs[-1][0], stage_features([(current, x) for x, current in outputs])


def pre_activation_stages(
    module: Architecture, x: Array, block: type[Block], widths: list[list[int]], train: bool, **first: Any
) -> tuple[Array, Features]:
    """Stages of blocks of `widths[i]` channels; the first block of a stage has the fields `first`.

    A block returns its sum, and the pre-activation and output of its first activation, or its first norm's output
    alone. Those of the next stage's first block are the outputs of a stage; a norm and an activation follow the last.
    """
    outputs = _stages(module, x, block, widths, train, entry=True, **first)
    final = norm_act(module, outputs[-1][0], "norm_final", "act_final", train=train)
    return final[1], stage_features([*((entry[0], entry[-1]) for _, *entry in outputs[1:]), final])


def _stages(
    module: Architecture, x: Array, block: type[Block], widths: list[list[int]], train: bool, entry: bool, **first: Any
) -> list[tuple[Array, ...]]:
    """The output of each stage, and what else its first (`entry`) or its last block returns."""
    norm, remat = functools.partial(module.norm, train=train), module.remat if train else "none"
    fields = {"activation": module.activation, "norm": norm, "dtype": module.dtype, "remat": remat != "none"}
    make: Any = functools.partial(rematerialised(block, remat == "block"), **fields)

    def stage(_: nn.Module, x: Array, i: int) -> tuple[Array, ...]:
        found = []
        for j, features in enumerate(widths[i - 1], start=1):
            stride, options = (2 if i > 1 else 1, first) if j == 1 else (1, {})
            x, *others = make(features, stride, name=f"block{i}_{j}", **options)(x)
            found.append(others)
        return x, *found[0 if entry else -1]

    outputs = []
    for i in range(1, len(widths) + 1):
        outputs.append(rematerialised(functools.partial(stage, i=i), remat == "stage")(module, x))
        x = outputs[-1][0]
    return outputs
