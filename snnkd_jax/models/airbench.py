"""Few wide stages that pool early: a quarter of the operations of a ResNet-18 on CIFAR-10.

    x = act(norm(pool(conv(x))));  x = act(norm(conv(x)))      a stage

Pooling precedes the neurons, so that every convolution of a spiking network but the stem reads spikes.

`Airbench` differs from the original: a trained 3x3 stem instead of fixed whitening filters, average pooling by default,
global average pooling, and norms and initial weights as in the other architectures. `WhitenedAirbench` with max pooling
is the original, airbench94, but for the activation, ReLU or neurons instead of GELU.

Reference: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498, and its code, airbench94.
"""

import functools
from typing import Any

import flax.linen as nn
from jax import Array

from snnkd_jax.models.architecture import Architecture, StageOutput
from snnkd_jax.models.layers import UNIFORM, AvgPool, GlobalAvgPool, Pooling, dirac
from snnkd_jax.models.stages import Features, stage_features
from snnkd_jax.models.whitening import NAME, WhiteningConv


class Airbench(Architecture):
    """A stem of 24 channels, and a stage of two convolutions for each of `stage_channels`, which halves the map."""

    pool: Pooling = AvgPool
    stage_channels: tuple[int, ...] = (64, 256, 256)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        outputs = self.stages(self.apply_stem(x, 24, train), train)
        return self.read_out(GlobalAvgPool(name="global_pool")(outputs[-1][1])), stage_features(outputs)

    @nn.nowrap
    def stages(self, x: Array, train: bool, **options: Any) -> list[StageOutput]:
        """The pre-activation and the output of each stage; `options` are the norms'."""
        outputs = []
        for i, base in enumerate(self.stage_channels, start=1):
            pool = functools.partial(self.pool, name=f"pool{i}")
            outputs.append(self.stage(x, base, (f"{i}_1", f"{i}_2"), train, pool, **options))
            x = outputs[-1][1]
        return outputs


class WhitenedAirbench(Airbench):
    """A stem of fixed whitening filters with a bias, and the stages of `Airbench`.

    Kernels begin as `dirac`; norms have no gamma, and a decay of their running statistics of 0.6. Their eps is 1e-5 as
    elsewhere, instead of 1e-12: the variance behind silent neurons is 0, and gradients would be a million times as
    large. Max pooling over 3x3, if the pooling is max, precedes the mean over what is left of the map, one pixel for
    images of 32x32. The classifier has no bias, and its outputs are multiplied by `logit_scale`.
    """

    logit_scale: float = 1 / 9

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        x = self.activation(name="act_whitening")(WhiteningConv(dtype=self.dtype, name=NAME)(x))
        outputs = self.stages(x, train, use_scale=False, momentum=0.6)
        x = outputs[-1][1]
        if self.pool is not AvgPool:
            size = min(3, *x.shape[-3:-1])
            x = self.pool(window=size, stride=size, name="pool_final")(x)
        x = GlobalAvgPool(name="global_pool")(x)
        head = nn.Dense(self.num_classes, use_bias=False, dtype=self.dtype, kernel_init=UNIFORM, name="head")
        logits = head(x)
        return (logits if self.logit_scale == 1 else self.logit_scale * logits), stage_features(outputs)

    @nn.nowrap
    def conv(self, x: Array, base: int, name: str, **options: Any) -> Array:
        """A convolution to `base` channels times the width."""
        return super().conv(x, base, name, kernel_init=dirac, **options)
