"""What the architectures share: the fields of a body and of a residual block, and stages of either.

Layers carry `[..., H, W, C]`. With `again`, norms and activations are computed once more in the backward pass
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
from snnkd_jax.models.layers import BatchNorm, Conv, Norm, Pooling, channels
from snnkd_jax.models.remat import Remat, rematerialised
from snnkd_jax.models.stages import Features, stage_features


class Body(nn.Module):
    """Called with images, `[B, H, W, C]` or `[B, T, H, W, C]`, and `train`, a body returns `(logits, stage ends)`.

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
    def begin(self, x: Array, base: int, train: bool, **options: Any) -> Array:
        """The stem: a convolution, norm and activation."""
        x = self.conv(x, base, "stem", **options)
        return self.activation(name="act_stem")(self.norm(train=train, name="norm_stem")(x))

    @nn.nowrap
    def stage(
        self, x: Array, base: int, suffixes: Sequence[str], train: bool, pool: Pooling | None = None
    ) -> tuple[Array, Array]:
        """3x3 convolutions, each with norm and activation: what enters and what leaves the last activation.

        Layers are called "conv", "norm" and "act" with a suffix; `pool` follows the first convolution.
        """
        again = train and self.remat != "none"
        norm = functools.partial(self.norm, train=train)

        def layers(body: "Body", x: Array) -> tuple[Array, Array]:
            current = x
            for suffix in suffixes:
                x = body.conv(x, base, f"conv{suffix}")
                if pool is not None and suffix == suffixes[0]:
                    x = pool()(x)
                current, x = norm_act(body, x, f"norm{suffix}", f"act{suffix}", norm, body.activation, again)
            return current, x

        return rematerialised(layers, again)(self, x)

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
    again: bool = False

    @nn.nowrap
    def conv(self, x: Array, name: str, kernel: int = 3, stride: int = 1) -> Array:
        """A convolution."""
        return Conv(self.features, kernel, stride, self.dtype, name=name)(x)

    @nn.nowrap
    def fire(self, x: Array, norm_name: str, act_name: str, shortcut: Array | None = None) -> tuple[Array, Array]:
        """`norm_act` with the fields of the block."""
        return norm_act(self, x, norm_name, act_name, self.norm, self.activation, self.again, shortcut)


def norm_act(
    scope: nn.Module,
    h: Array,
    norm_name: str,
    act_name: str,
    norm: Norm,
    activation: Activation,
    again: bool,
    shortcut: Array | None = None,
) -> tuple[Array, Array]:
    """`current = norm(h) + shortcut` and its activation, of the shape of `h`, by layers of `scope` with those names.

    With `again`, of the two only `h` is kept for the backward pass.
    """

    def layers(_: nn.Module, h: Array, *shortcuts: Array) -> tuple[Array, Array]:
        current = norm(name=norm_name, branches=1 + len(shortcuts))(h)
        current = sum(shortcuts, current)
        return current, activation(name=act_name)(current)

    return rematerialised(layers, again)(scope, h, *(() if shortcut is None else (shortcut,)))


def residual_stages(
    body: Body, x: Array, block_class: type[Block], sizes: Sequence[int], bases: Sequence[int], train: bool
) -> tuple[Array, Features]:
    """`sizes[i]` blocks of `bases[i]` channels times the width; every stage but the first halves the map.

    Blocks return what enters and what leaves their last activation; a stage ends with its last block.
    """
    remat, block = _blocks(body, block_class, train)
    ends = []

    def stage(_: nn.Module, x: Array, i: int, size: int, features: int) -> tuple[Array, Array]:
        current = x
        for j in range(1, size + 1):
            current, x = block(features, 2 if i > 1 and j == 1 else 1, name=f"block{i}_{j}")(x)
        return current, x

    for i, (size, base) in enumerate(zip(sizes, bases, strict=True), start=1):
        layers = functools.partial(stage, i=i, size=size, features=channels(base, body.width))
        current, x = rematerialised(layers, remat == "stage")(body, x)
        ends.append((current, x))
    return x, stage_features(ends)


def pre_activation_stages(
    body: Body, x: Array, block_class: type[Block], widths: Sequence[Sequence[int]], train: bool, **first: Any
) -> tuple[Array, Features]:
    """Stages of blocks of `widths[i]` channels, which return their sum, and what enters and leaves their first layers.

    A stage ends with what enters and leaves those of the next one.
    The first block of a stage has the fields `first`; a norm and an activation follow the last stage.
    """
    remat, block = _blocks(body, block_class, train)
    ends = []

    def stage(_: nn.Module, x: Array, i: int) -> tuple[Array, ...]:
        x, *end = block(widths[i - 1][0], 1 if i == 1 else 2, name=f"block{i}_1", **first)(x)
        for j, features in enumerate(widths[i - 1][1:], start=2):
            x = block(features, 1, name=f"block{i}_{j}")(x)[0]
        return x, *end

    for i in range(1, len(widths) + 1):
        x, *end = rematerialised(functools.partial(stage, i=i), remat == "stage")(body, x)
        if i > 1:
            ends.append((end[0], end[-1]))
    current = body.norm(train=train, name="norm_final")(x)
    x = body.activation(name="act_final")(current)
    ends.append((current, x))
    return x, stage_features(ends)


def _blocks(body: Body, block_class: type[Block], train: bool) -> tuple[Remat, Any]:
    """What is computed again, and the maker of blocks."""
    remat: Remat = body.remat if train else "none"
    norm = functools.partial(body.norm, train=train)
    fields = {"activation": body.activation, "norm": norm, "dtype": body.dtype, "again": remat != "none"}
    return remat, functools.partial(rematerialised(block_class, remat == "block"), **fields)
