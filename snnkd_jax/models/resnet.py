"""Residual networks for small images: 3x3 stem, basic blocks, projection shortcuts.

    y = act(norm(conv(act(norm(conv(x))))) + shortcut(x))

With neurons for `act` this is the spiking ResNet: the sum is an input current, every convolution but the stem reads
spikes. References: He et al. 2016 (18, 20, 34); Zheng et al., AAAI 2021 (19, the SNN literature's: 128-256-512
channels and a hidden layer of 256). Where the shape changes, the shortcut is a normalised 1x1 projection (option B), or
in "resnet20-a", as in the original, every second pixel with channels of zeros on both sides (option A). ResNet-19's
stem has 128 channels, as in the code of temporal decoupling; the codes Gus-Lab and STBP-simple have a stem of 64 and a
projection in the first stage.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from snnkd_jax.models.architecture import Architecture, Block, norm_act, residual_stages
from snnkd_jax.models.layers import GlobalAvgPool, channels
from snnkd_jax.models.stages import Features


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 projection where the shape changes."""

    @nn.nowrap
    def shortcut(self, x: Array) -> Array:
        """`x` in the shape of the output, where that differs."""
        return self.norm(name="norm_shortcut", branches=2)(self.conv(x, "conv_shortcut", 1, self.stride))

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """`[..., H, W, C]` to the activation and its input, the sum, `[..., H / stride, W / stride, features]`."""
        _, h = norm_act(self, self.conv(x, "conv1", stride=self.stride), "norm1", "act1", self.remat)
        h = self.conv(h, "conv2")
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self.shortcut(x)
        current, y = norm_act(self, h, "norm2", "act2", self.remat, x)
        return y, current


class PaddedBlock(BasicBlock):
    """A basic block whose shortcut has no parameters."""

    @nn.nowrap
    def shortcut(self, x: Array) -> Array:
        """Every `stride`-th pixel of `x`, and as many channels of zeros before as after its own."""
        missing = self.features - x.shape[-1]
        pad = [(0, 0)] * (x.ndim - 1) + [(missing // 2, missing - missing // 2)]
        return jnp.pad(x[..., :: self.stride, :: self.stride, :], pad)


class ResNet(Architecture):
    """`stage_sizes[i]` blocks of `stage_channels[i]` channels; every stage but the first halves the map."""

    stage_sizes: tuple[int, ...] = (2, 2, 2, 2)
    stage_channels: tuple[int, ...] = (64, 128, 256, 512)
    hidden: int | None = None
    block: type[Block] = BasicBlock

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        x = self.apply_stem(x, self.stage_channels[0], train)
        x, stages = residual_stages(self, x, self.block, self.stage_sizes, self.stage_channels, train)
        x = GlobalAvgPool(name="global_pool")(x)
        if self.hidden is not None:
            x = nn.Dense(channels(self.hidden, self.width), dtype=self.dtype, name="hidden")(x)
            x = self.activation(name="act_hidden")(x)
        return self.read_out(x), stages
