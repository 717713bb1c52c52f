"""PyramidNet: residual blocks whose channels grow a little with every block.

    y = norm(conv(act(norm(conv(norm(x)))))) + shortcut(x)

The shortcut averages over 2x2 where the map shrinks and pads with zero channels. KDSNN's teacher is a "PyramidNet18"
that the paper does not describe; four stages of two basic blocks from 64 to 512 channels, as wide as ResNet-18 at its
end, are a guess. Blocks begin without an activation, so in a spiking PyramidNet the first convolution of a block sees
real values: it is meant as a teacher.

Reference: Han, Kim & Kim, CVPR 2017, arXiv 1610.02915.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from snnkd_jax.models.body import Block, Body, pre_activation_stages
from snnkd_jax.models.layers import avg_pool, channels, global_avg_pool
from snnkd_jax.models.stages import Features


class PyramidBlock(Block):
    """norm-conv-norm-act-conv-norm and a shortcut without parameters."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`[..., H, W, C]` to the sum `[..., H / stride, W / stride, features]` and the norm of `x`."""
        entry = self.norm(name="norm1")(x)
        _, h = self.fire(self.conv(entry, "conv1", stride=self.stride), "norm2", "act")
        h = self.norm(name="norm3", branches=2)(self.conv(h, "conv2"))
        # The convolution rounds odd maps up; repeating the last row makes the mean over the pixels that exist.
        edge = [(0, 0)] * (x.ndim - 3) + [(0, -x.shape[-3] % self.stride), (0, -x.shape[-2] % self.stride), (0, 0)]
        x = avg_pool(jnp.pad(x, edge, mode="edge"), self.stride)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.features - x.shape[-1])])
        return h + x, entry


class PyramidNet(Body):
    """`stage_sizes[i]` blocks a stage; block k of n in all has `start + (end - start) k / n` channels.

    A stage ends at the norm behind it, where this architecture has no activation (the last stage has one).
    """

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    start: int = 64
    end: int = 512

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images to logits and the stage ends, as of `Body`."""
        x = self.norm(train=train, name="norm_stem")(self.conv(x, self.start, "stem"))
        n = sum(self.stage_sizes)
        growing = iter(channels(self.start + (self.end - self.start) * k // n, self.width) for k in range(1, n + 1))
        widths = [[next(growing) for _ in range(size)] for size in self.stage_sizes]
        x, stages = pre_activation_stages(self, x, PyramidBlock, widths, train)
        return self.read_out(global_avg_pool(x)), stages
