"""Residual networks for photographs: a 7x7 stem of stride 2, a max pooling, four stages of blocks.

    y = act(norm(conv(act(norm(conv(x))))) + shortcut(x))       a basic block
    y = act(norm(conv(act(norm(conv(x)))))) + shortcut(x)       a spike-element-wise block (SEW)

The shortcut is x, or where the shape changes a normalised 1x1 projection, which in a SEW block has an activation of its
own. With ReLU the first is torchvision's ResNet, parameter by parameter. With neurons it is the spiking ResNet, which
sums currents; SEW sums spikes, so that a block whose neurons are silent passes its input on, and the gradient with it.
Such sums are whole numbers, no spikes any more: the convolutions that read them multiply. The max pooling follows the
first activation, in both as in the ordinary network, and its outputs are spikes again.

References: He et al. 2016; Fang et al., NeurIPS 2021, arXiv 2102.04159, element-wise function ADD.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from snnkd_jax.models.activation import Activation
from snnkd_jax.models.layers import BatchNorm, Conv, MaxPool, Norm, Pooling, channels, global_avg_pool, norm_act
from snnkd_jax.models.remat import Remat
from snnkd_jax.models.resnet import BasicBlock, residual_stages
from snnkd_jax.models.stages import Features


class SEWBlock(nn.Module):
    """Two 3x3 convolutions, each with an activation, and the sum of the spikes; fields and names of `BasicBlock`."""

    features: int
    stride: int
    activation: Activation
    norm: Norm
    dtype: DTypeLike
    again: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`[..., H, W, C]` to the sum, twice: no activation follows it, `[..., H / stride, W / stride, features]`."""
        fire = functools.partial(norm_act, self, norm=self.norm, activation=self.activation, again=self.again)
        h = Conv(self.features, 3, self.stride, self.dtype, name="conv1")(x)
        _, h = fire(h, "norm1", "act1")
        h = Conv(self.features, 3, 1, self.dtype, name="conv2")(h)
        _, h = fire(h, "norm2", "act2")
        if self.stride != 1 or x.shape[-1] != self.features:
            x = Conv(self.features, 1, self.stride, self.dtype, name="conv_shortcut")(x)
            _, x = fire(x, "norm_shortcut", "act_shortcut")
        y = h + x
        return y, y


class ImageNetResNet(nn.Module):
    """`stage_sizes[i]` blocks of 64, 128, 256, 512 channels on a map of a quarter of the image; a stage halves it."""

    num_classes: int
    activation: Activation
    norm: Norm = BatchNorm
    max_pool: Pooling = MaxPool
    block: type[BasicBlock] | type[SEWBlock] = BasicBlock
    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Images `[B, H, W, C]` or `[B, T, H, W, C]` to logits `[B, K]` or `[B, T, K]` and the stage ends."""
        norm = functools.partial(self.norm, train=train)
        widths = [channels(64 * 2**i, self.width) for i in range(len(self.stage_sizes))]
        x = Conv(widths[0], kernel=7, stride=2, dtype=self.dtype, name="stem")(x)
        x = self.activation(name="act_stem")(norm(name="norm_stem")(x))
        x = self.max_pool(window=3, stride=2, padding=1, name="pool_stem")(x)
        fields = {"activation": self.activation, "norm": norm, "dtype": self.dtype}
        x, stages = residual_stages(
            self, x, self.block, self.stage_sizes, widths, self.remat if train else "none", **fields
        )
        return nn.Dense(self.num_classes, dtype=self.dtype, name="head")(global_avg_pool(x)), stages
