"""A small convolutional network for MNIST-sized images: conv-norm-act-pool stages and one hidden layer."""

import flax.linen as nn
from jax import Array

from snnkd_jax.models.architecture import Architecture, norm_act
from snnkd_jax.models.layers import AvgPool, Pooling, channels
from snnkd_jax.models.stages import Features, stage_features


class ConvNet(Architecture):
    """`depth` stages of 32, 64, 128, ... channels, each halving the map, then 128 hidden units and the read-out."""

    pool: Pooling = AvgPool
    depth: int = 2

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Features]:
        """Returns logits and features; see `Architecture`."""
        outputs = []
        for i in range(1, self.depth + 1):
            outputs.append(self.stage(x, 16 * 2**i, [str(i)], train))
            x = self.pool(name=f"pool{i}")(outputs[-1][1])
        x = x.reshape(*x.shape[:-3], -1)
        x = nn.Dense(channels(128, self.width), use_bias=False, dtype=self.dtype, name="hidden")(x)
        x = norm_act(self, x, "norm_hidden", "act_hidden", train=train)[1]
        return self.read_out(x), stage_features(outputs)
