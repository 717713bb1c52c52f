"""Connectors: map the student's stage outputs onto the teacher's channels, for training only."""

import flax.linen as nn
from jax import Array

from snnkd_jax.models.layers import BatchNorm, Conv


class Connectors(nn.Module):
    """One 1x1 convolution and batch norm per stage; `channels` names each stage and its number of output channels.

    Reference: Heo et al., ICCV 2019, arXiv 1904.01866 (feature distillation's student transform).
    """

    channels: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, stages: dict[str, Array], train: bool) -> dict[str, Array]:
        """Time-averaged stage outputs, `[B, H, W, C]` each, to `[B, H, W, channels[stage]]` each, in float32."""
        return {
            name: BatchNorm(train, name=f"norm_{name}")(Conv(size, kernel=1, name=f"conv_{name}")(stages[name]))
            for name, size in self.channels
        }
