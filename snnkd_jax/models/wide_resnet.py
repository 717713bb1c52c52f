"""Wide residual networks: pre-activation blocks, `widen` times the channels of ResNet-20.

    y = conv(act(norm(conv(act(norm(x)))))) + shortcut

The shortcut is x, or in the first block of a stage a 1x1 projection of act(norm(x)). With neurons for `act`, the sum is
passed on as a real-valued signal, and every convolution but the stem reads spikes.

Reference: Zagoruyko & Komodakis 2016, arXiv 1605.07146; without dropout.
"""

import flax.linen as nn
from jax import Array

from snnkd_jax.models.architecture import Architecture, Block, norm_act, pre_activation_stages
from snnkd_jax.models.layers import GlobalAvgPool, channels
from snnkd_jax.models.stages import Features


class PreActivationBlock(Block):
    """norm-act-conv twice and a shortcut, which is a convolution if `project`."""

    project: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array, Array]:
        """`[..., H, W, C]` to `(y, current, output)`: the sum, and its first activation's input and output."""
        current, output = norm_act(self, x, "norm1", "act1", self.remat)
        h = self.conv(output, "conv1", stride=self.stride)
        h = self.conv(norm_act(self, h, "norm2", "act2", self.remat)[1], "conv2")
        if self.project:
            x = self.conv(output, "conv_shortcut", 1, self.stride)
        return h + x, current, output


class WideResNet(Architecture):
    """Three stages of `(depth - 4) / 6` blocks with 16, 32, 64 times `widen` channels.

    The output of a stage is the first activation after it: that of the next stage's first block, or the final one.
    """

    depth: int = 16
    widen: int = 2

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        x = self.conv(x, 16, "stem")
        widths = [[channels(16 * self.widen * 2**i, self.width)] * ((self.depth - 4) // 6) for i in range(3)]
        x, stages = pre_activation_stages(self, x, PreActivationBlock, widths, train, project=True)
        return self.read_out(GlobalAvgPool(name="global_pool")(x)), stages
