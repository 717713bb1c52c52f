"""Residual networks for ImageNet: a 7x7 stem of stride 2, a max pooling, four stages of blocks.

    y = act(norm(conv(act(norm(conv(x))))) + shortcut(x))       a basic block
    y = act(norm(conv(act(norm(conv(x)))))) + shortcut(x)       a spike-element-wise block (SEW)

The shortcut is x, or where the shape changes a normalised 1x1 projection, in a SEW block with an activation of its own.
With ReLU, the first is torchvision's ResNet, parameter by parameter. With neurons, it is the spiking ResNet, which sums
currents; SEW sums spikes, so that a block whose neurons are silent is the identity, for the gradient too. Such sums are
integers, not spikes: the convolutions that read them multiply. The max pooling follows the first activation, as in the
ANN, and its outputs are spikes again.

References: He et al. 2016; Fang et al., NeurIPS 2021, arXiv 2102.04159, element-wise function ADD.
"""

import flax.linen as nn
from jax import Array

from snnkd_jax.models.architecture import Architecture, Block, norm_act, residual_stages
from snnkd_jax.models.layers import GlobalAvgPool, MaxPool, Pooling
from snnkd_jax.models.resnet import BasicBlock
from snnkd_jax.models.stages import Features


class SEWBlock(Block):
    """Two 3x3 convolutions, each with an activation, and the sum of the spikes; fields and names of `BasicBlock`."""

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`[..., H, W, C]` to the sum, twice, as no activation follows: `[..., H / stride, W / stride, features]`."""
        _, h = norm_act(self, self.conv(x, "conv1", stride=self.stride), "norm1", "act1", self.remat)
        _, h = norm_act(self, self.conv(h, "conv2"), "norm2", "act2", self.remat)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self.conv(x, "conv_shortcut", 1, self.stride)
            _, x = norm_act(self, x, "norm_shortcut", "act_shortcut", self.remat)
        y = h + x
        return y, y


class ImageNetResNet(Architecture):
    """`stage_sizes[i]` blocks of 64, 128, 256, 512 channels on a map of a quarter of the image; a stage halves it."""

    max_pool: Pooling = MaxPool
    block: type[Block] = BasicBlock
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        x = self.apply_stem(x, 64, train, kernel=7, stride=2)
        x = self.max_pool(window=3, stride=2, padding=1, name="pool_stem")(x)
        bases = [64 * 2**i for i in range(len(self.stage_sizes))]
        x, stages = residual_stages(self, x, self.block, self.stage_sizes, bases, train)
        return self.read_out(GlobalAvgPool(name="global_pool")(x)), stages
