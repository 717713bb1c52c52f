"""VGG with batch norm, as used on CIFAR: convolutional stages with pooling, one linear read-out.

Reference: Simonyan & Zisserman 2015, configurations A (11), B (13) and D (16). As in nearly all work on 32x32 images,
the two hidden layers of 4096 units are left out; pooling is average pooling by default.
"""

import flax.linen as nn
from jax import Array

from snnkd_jax.models.architecture import Architecture
from snnkd_jax.models.layers import AvgPool, GlobalAvgPool, Pooling
from snnkd_jax.models.stages import Features, stage_features


class VGG(Architecture):
    """`stage_sizes[i]` convolutions of 64, 128, 256, 512, 512 channels, each stage followed by a 2x2 pooling."""

    pool: Pooling = AvgPool
    stage_sizes: tuple[int, ...] = (1, 1, 2, 2, 2)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        outputs = []
        for i, size in enumerate(self.stage_sizes, start=1):
            base, suffixes = 64 * min(2 ** (i - 1), 8), [f"{i}_{j}" for j in range(1, size + 1)]
            outputs.append(self.stage(x, base, suffixes, train))
            x = outputs[-1][1]
            # Global pooling includes the last average pooling, but not a last max pooling of more than one value.
            if i < len(self.stage_sizes) or (self.pool is not AvgPool and min(x.shape[-3:-1]) > 1):
                x = self.pool(name=f"pool{i}")(x)
        return self.read_out(GlobalAvgPool(name="global_pool")(x)), stage_features(outputs)
