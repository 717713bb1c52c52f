"""VGG with batch norm: convolutional stages with pooling, and one linear read-out or, for ImageNet, three layers.

Reference: Simonyan & Zisserman 2015, configurations A (11), B (13) and D (16). As in nearly all work on 32x32 images,
`VGG` leaves out the two hidden layers of 4096 units, and its pooling is average pooling by default. `ImageNetVGG` is
torchvision's, parameter by parameter, but for the dropout in training, which is left out.
"""

import flax.linen as nn
from jax import Array

from snnkd_jax.models.architecture import Architecture, StageOutput
from snnkd_jax.models.layers import AvgPool, GlobalAvgPool, MaxPool, Pooling, adaptive_avg_pool, channels
from snnkd_jax.models.stages import Features, stage_features

GRID = 7
"""Height and width of the map that the hidden layers of `ImageNetVGG` read."""


class VGG(Architecture):
    """`stage_sizes[i]` convolutions of 64, 128, 256, 512, 512 channels, each stage followed by a 2x2 pooling."""

    pool: Pooling = AvgPool
    stage_sizes: tuple[int, ...] = (1, 1, 2, 2, 2)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        x, outputs = _stages(self, x, self.stage_sizes, self.pool, train)
        # Global pooling includes the last average pooling, but not a last max pooling of more than one value.
        if self.pool is not AvgPool and min(x.shape[-3:-1]) > 1:
            x = self.pool(name=f"pool{len(self.stage_sizes)}")(x)
        return self.read_out(GlobalAvgPool(name="global_pool")(x)), stage_features(outputs)


class ImageNetVGG(Architecture):
    """The stages of `VGG`, each with a 2x2 max pooling, then two hidden layers of 4096 units and the read-out.

    The hidden layers read a map of 7x7, to which that of other images than 224x224 is averaged or repeated.
    """

    max_pool: Pooling = MaxPool
    stage_sizes: tuple[int, ...] = (1, 1, 2, 2, 2)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        x, outputs = _stages(self, x, self.stage_sizes, self.max_pool, train)
        x = adaptive_avg_pool(self.max_pool(name=f"pool{len(self.stage_sizes)}")(x), GRID)
        x = x.reshape(*x.shape[:-3], -1)
        for i in (1, 2):
            x = nn.Dense(channels(4096, self.width), dtype=self.dtype, name=f"hidden{i}")(x)
            x = self.activation(name=f"act_hidden{i}")(x)
        return self.read_out(x), stage_features(outputs)


def _stages(
    module: Architecture, x: Array, sizes: tuple[int, ...], pool: Pooling, train: bool
) -> tuple[Array, list[StageOutput]]:
    """The last stage's output, and those of all; `sizes` are their numbers of convolutions, with `pool` between."""
    outputs: list[StageOutput] = []
    for i, size in enumerate(sizes, start=1):
        x = x if i == 1 else pool(name=f"pool{i - 1}")(x)
        names = [f"{i}_{j}" for j in range(1, size + 1)]
        outputs.append(module.stage(x, 64 * min(2 ** (i - 1), 8), names, train))
        x = outputs[-1][1]
    return x, outputs
