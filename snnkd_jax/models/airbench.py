"""Few wide stages that pool early: a quarter of the operations of a ResNet-18 on CIFAR-10.

    x = act(norm(pool(conv(x))));  x = act(norm(conv(x)))      a stage

Pooling acts on currents, so that every convolution of a spiking network but the stem sees spikes. Where it differs
from the original: a learnt 3x3 stem in the place of fixed whitening filters, ReLU for GELU, mean pooling unless
maxima are asked for, and a mean over the last map.

Reference: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498.
"""

import functools

import flax.linen as nn
from jax import Array

from snnkd_jax.models.body import Body
from snnkd_jax.models.layers import AvgPool, Pooling, global_avg_pool
from snnkd_jax.models.stages import Features, stage_features


class Airbench(Body):
    """A stem of 24 channels, and a stage of two convolutions for each of `stage_channels`, which halves the map."""

    pool: Pooling = AvgPool
    stage_channels: tuple[int, ...] = (64, 256, 256)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images to logits and the stage ends, as of `Body`."""
        x = self.begin(x, 24, train)
        ends = []
        for i, base in enumerate(self.stage_channels, start=1):
            pool = functools.partial(self.pool, name=f"pool{i}")
            current, x = self.stage(x, base, (f"{i}_1", f"{i}_2"), train, pool)
            ends.append((current, x))
        return self.read_out(global_avg_pool(x)), stage_features(ends)
