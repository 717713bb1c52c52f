"""Connectors: map the student's stage outputs onto the teacher's channels, for training only."""

import dataclasses

import flax.linen as nn
from jax import Array

from snnkd_jax.distill.losses import mask_channels
from snnkd_jax.models.layers import BatchNorm, Conv

# Fraction of masked channels, as published (BKDSNN, ECCV 2024).
BLUR_RATIO = 0.15


@dataclasses.dataclass(frozen=True)
class Connector:
    """A term's request for `student.connected`.

    Args:
        last: for the last pair of stages alone.
        generator: with BKDSNN's generator.
        pool: of stages averaged over their maps, `[B, 1, 1, C]`.
        pre_activations: of the student's pre-activations, the input currents of its neurons, instead of their spikes.
    """

    last: bool = False
    generator: bool = False
    pool: bool = False
    pre_activations: bool = False


class Connectors(nn.Module):
    """One 1x1 convolution and batch norm per stage; `channels` names each stage and its number of output channels.

        connector(F) = norm(conv1x1 F)
        generator(X) = conv3x3 relu(conv3x3 X), X the connector's output with 15 % of its channels masked

    References: Heo et al., ICCV 2019, arXiv 1904.01866 (feature distillation's student transform); BKDSNN, ECCV 2024,
    arXiv 2407.09083 (the generator, with `blur`; theirs has biases).
    """

    channels: tuple[tuple[str, int], ...]
    blur: bool = False

    @nn.compact
    def __call__(self, stages: dict[str, Array], train: bool, blur_key: Array) -> dict[str, Array]:
        """Maps time-averaged stage outputs `[B, H, W, C]` to `[B, H, W, channels[stage]]` each, in float32."""
        connected = {}
        for name, size in self.channels:
            x = BatchNorm(train, name=f"norm_{name}")(Conv(size, kernel=1, name=f"conv_{name}")(stages[name]))
            if self.blur:
                x = mask_channels(blur_key, x, BLUR_RATIO)
                x = Conv(size, name=f"generate_{name}_2")(nn.relu(Conv(size, name=f"generate_{name}_1")(x)))
            connected[name] = x
        return connected
