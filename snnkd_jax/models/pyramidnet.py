"""PyramidNet: residual blocks whose channels grow a little with every block.

    y = norm(conv(act(norm(conv(norm(x)))))) + shortcut(x)

The shortcut averages over 2x2 where the map shrinks and pads with zero channels. KDSNN's teacher is a "PyramidNet18"
that the paper does not describe; four stages of two basic blocks from 64 to 512 channels, in the end as wide as
ResNet-18, are a guess. Blocks start without an activation, so that in a spiking PyramidNet their first convolution
reads real values: it is meant as a teacher.

Reference: Han, Kim & Kim, CVPR 2017, arXiv 1610.02915.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from snnkd_jax.models.architecture import Architecture, Block, norm_act, pre_activation_stages
from snnkd_jax.models.layers import GlobalAvgPool, avg_pool, channels
from snnkd_jax.models.stages import Features


class PyramidBlock(Block):
    """norm-conv-norm-act-conv-norm and a shortcut without parameters."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`[..., H, W, C]` to the sum `[..., H / stride, W / stride, features]` and the norm of `x`."""
        entry = self.norm(name="norm1")(x)
        h = self.conv(entry, "conv1", stride=self.stride)
        h = self.conv(norm_act(self, h, "norm2", "act", self.remat)[1], "conv2")
        h = self.norm(name="norm3", branches=2)(h)
        # The convolution rounds odd maps up; with the last row repeated, the mean is over the pixels that exist.
        edge = [(0, 0)] * (x.ndim - 3) + [(0, -x.shape[-3] % self.stride), (0, -x.shape[-2] % self.stride), (0, 0)]
        x = avg_pool(jnp.pad(x, edge, mode="edge"), self.stride)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.features - x.shape[-1])])
        return h + x, entry


class PyramidNet(Architecture):
    """`stage_sizes[i]` blocks per stage; block k of n in all has `start + (end - start) k / n` channels.

    The output of a stage is the norm after it, where this architecture has no activation (the last stage has one).
    """

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    start: int = 64
    end: int = 512

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        x = self.norm(train=train, name="norm_stem")(self.conv(x, self.start, "stem"))
        n = sum(self.stage_sizes)
        growing = iter(channels(self.start + (self.end - self.start) * k // n, self.width) for k in range(1, n + 1))
        widths = [[next(growing) for _ in range(size)] for size in self.stage_sizes]
        x, stages = pre_activation_stages(self, x, PyramidBlock, widths, train)
        return self.read_out(GlobalAvgPool(name="global_pool")(x)), stages
