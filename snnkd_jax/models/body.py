"""What the architectures share: their fields, residual blocks, and stages of convolutions or of blocks.

Layers take `[..., H, W, C]`. With `remat`, norms and activations are recomputed in the backward pass
(`snnkd_jax.models.remat`).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from snnkd_jax.models.activation import Activation
from snnkd_jax.models.layers import BatchNorm, Conv, Norm, Pooling, channels
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
        self, x: Array, base: int, suffixes: Sequence[str], train: bool, pool: Pooling | None = None
    ) -> StageOutput:
        """3x3 convolutions, each followed by a norm and an activation.

        Layers are called "conv", "norm" and "act" with a suffix; `pool` follows the first convolution.
        """
        remat = train and self.remat != "none"

        def layers(module: "Architecture", x: Array) -> StageOutput:
            current = x
            for suffix in suffixes:
                x = module.conv(x, base, f"conv{suffix}")
                if pool is not None and suffix == suffixes[0]:
                    x = pool()(x)
                current, x = norm_act(module, x, f"norm{suffix}", f"act{suffix}", remat, train=train)
            return current, x

        return rematerialised(layers, remat)(self, x)

    @nn.nowrap
    def blocks(self, block: type["Block"], train: bool) -> Callable[..., "Block"]:
        """The constructor of this architecture's blocks."""
        norm, remat = functools.partial(self.norm, train=train), train and self.remat != "none"
        make = rematerialised(block, train and self.remat == "block")
        return functools.partial(make, activation=self.activation, norm=norm, dtype=self.dtype, remat=remat)

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

    A block returns the pre-activation and the output of its last activation.
    """
    make, outputs = module.blocks(block, train), []

    def stage(_: nn.Module, x: Array, i: int, size: int, features: int) -> StageOutput:
        current = x
        for j in range(1, size + 1):
            current, x = make(features, 2 if i > 1 and j == 1 else 1, name=f"block{i}_{j}")(x)
        return current, x

    for i, (size, base) in enumerate(zip(sizes, bases, strict=True), start=1):
        layers = functools.partial(stage, i=i, size=size, features=channels(base, module.width))
        outputs.append(rematerialised(layers, train and module.remat == "stage")(module, x))
        x = outputs[-1][1]
    return x, stage_features(outputs)


def pre_activation_stages(
    module: Architecture, x: Array, block: type[Block], widths: Sequence[Sequence[int]], train: bool, **first: Any
) -> tuple[Array, Features]:
    """Stages of blocks of `widths[i]` channels; the first block of a stage has the fields `first`.

    A block returns its sum, and the pre-activation and output of its first activation, or its first norm's output
    alone. Those of the next stage's first block are the outputs of a stage; a norm and an activation follow the last.
    """
    make, outputs = module.blocks(block, train), []

    def stage(_: nn.Module, x: Array, i: int, features: Sequence[int]) -> tuple[Array, ...]:
        x, *entry = make(features[0], 1 if i == 1 else 2, name=f"block{i}_1", **first)(x)
        for j, width in enumerate(features[1:], start=2):
            x = make(width, 1, name=f"block{i}_{j}")(x)[0]
        return x, *entry

    for i, features in enumerate(widths, start=1):
        layers = functools.partial(stage, i=i, features=features)
        x, *entry = rematerialised(layers, train and module.remat == "stage")(module, x)
        outputs.append((entry[0], entry[-1]))
    outputs.append(norm_act(module, x, "norm_final", "act_final", train=train))
    return outputs[-1][1], stage_features(outputs[1:])
