"""Few wide stages that pool early: a quarter of the operations of a ResNet-18 on CIFAR-10.

    x = act(norm(pool(conv(x))));  x = act(norm(conv(x)))      a stage

Pooling precedes the neurons, so that every convolution of a spiking network but the stem reads spikes. Differences from
the original: a trained 3x3 stem instead of fixed whitening filters, ReLU instead of GELU, average pooling by default,
and global average pooling.

Reference: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498.
"""

import functools

import flax.linen as nn
from jax import Array

from snnkd_jax.models.architecture import Architecture
from snnkd_jax.models.layers import AvgPool, GlobalAvgPool, Pooling
from snnkd_jax.models.stages import Features, stage_features


class Airbench(Architecture):
    """A stem of 24 channels, and a stage of two convolutions for each of `stage_channels`, which halves the map."""

    pool: Pooling = AvgPool
    stage_channels: tuple[int, ...] = (64, 256, 256)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        x, outputs = self.apply_stem(x, 24, train), []
        for i, base in enumerate(self.stage_channels, start=1):
            pool = functools.partial(self.pool, name=f"pool{i}")
            outputs.append(self.stage(x, base, (f"{i}_1", f"{i}_2"), train, pool))
            x = outputs[-1][1]
        return self.read_out(GlobalAvgPool(name="global_pool")(x)), stage_features(outputs)
