"""VGG with batch norm, as used on CIFAR: conv stages with pooling, one linear read-out.

Reference: Simonyan & Zisserman 2015, configurations A (11), B (13) and D (16). The two hidden layers of 4096 units are
left out, as in nearly all work on 32x32 images, and pooling takes means unless maxima are asked for.
"""

import flax.linen as nn
from jax import Array

from snnkd_jax.models.body import Body
from snnkd_jax.models.layers import AvgPool, Pooling, global_avg_pool
from snnkd_jax.models.stages import Features, stage_features


class VGG(Body):
    """`stage_sizes[i]` convolutions of 64, 128, 256, 512, 512 channels, each stage followed by a 2x2 pooling."""

    pool: Pooling = AvgPool
    stage_sizes: tuple[int, ...] = (1, 1, 2, 2, 2)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images to logits and the stage ends, as of `Body`."""
        ends = []
        for i, size in enumerate(self.stage_sizes, start=1):
            current, x = self.stage(x, 64 * min(2 ** (i - 1), 8), [f"{i}_{j}" for j in range(1, size + 1)], train)
            ends.append((current, x))
            # The last pooling by means is part of the global one; maxima are not, if there is more than one value.
            if i < len(self.stage_sizes) or (self.pool is not AvgPool and min(x.shape[-3:-1]) > 1):
                x = self.pool(name=f"pool{i}")(x)
        return self.read_out(global_avg_pool(x)), stage_features(ends)
