"""Connectors: modules on the student's stage outputs, for training only: onto the teacher's channels, or to classes."""

import dataclasses
from collections import OrderedDict

import flax.linen as nn
from jax import Array

from snnkd_jax.distill.losses import mask_channels
from snnkd_jax.errors import InputError
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
        branches: logits `[B, 1, 1, K]` of every stage but the last, by ANN branches (`Branches`); none of the others.
    """

    last: bool = False
    generator: bool = False
    pool: bool = False
    pre_activations: bool = False
    branches: bool = False

    def __post_init__(self):
        if self.branches and (self.last or self.generator or self.pool or self.pre_activations):
            raise InputError("branches=True goes without last, generator, pool and pre_activations; drop them")


class Branches(nn.Module):
    """An ANN branch for each stage but the last, with a classifier at its end: the student's own weak teachers.

        block(X) = relu(norm(conv1x1 X) + half(half(X)))      half(X) = relu(norm(conv1x1(depthwise3x3 X)))

    `stages` names each stage, its number of channels, and by how much it shrinks the map of the stage before. A branch
    has a block for every later stage, of its channels and stride (in the first `half` and the shortcut), then the mean
    over the map and a dense layer to `num_classes`.

    Reference: Enhanced Self-Distillation, arXiv 2510.06254, and its code for ResNet-18 (Intelli-Chip-Lab).
    """

    stages: tuple[tuple[str, int, int], ...]
    num_classes: int

    @nn.compact
    def __call__(self, stages: dict[str, Array], train: bool, blur_key: Array) -> dict[str, Array]:  # noqa: ARG002
        """Maps time-averaged stage outputs `[B, H, W, C]` to logits `[B, 1, 1, num_classes]`, in float32."""
        logits = {}
        for i, (name, _, _) in enumerate(self.stages[:-1]):
            x = stages[name]
            for later, size, stride in self.stages[i + 1 :]:
                x = self._block(x, size, stride, train, f"{name}_{later}")
            x = x.mean(axis=(1, 2), keepdims=True)
            logits[name] = nn.Dense(self.num_classes, name=f"classify_{name}")(x)
        return logits

    def _block(self, x: Array, size: int, stride: int, train: bool, name: str) -> Array:
        def half(x: Array, size: int, stride: int, half_name: str) -> Array:
            depthwise = nn.Conv(
                x.shape[-1],
                (3, 3),
                stride,
                1,
                feature_group_count=x.shape[-1],
                use_bias=False,
                name=f"depthwise_{half_name}",
            )
            x = Conv(size, kernel=1, name=f"pointwise_{half_name}")(depthwise(x))
            return nn.relu(BatchNorm(train, name=f"norm_{half_name}")(x))

        shortcut = Conv(size, kernel=1, stride=stride, name=f"shortcut_{name}")(x)
        y = half(half(x, x.shape[-1], stride, f"{name}_1"), size, 1, f"{name}_2")
        return nn.relu(BatchNorm(train, name=f"norm_shortcut_{name}")(shortcut) + y)


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
        connected = OrderedDict()
        for name, size in self.channels:
            x = BatchNorm(train, name=f"norm_{name}")(Conv(size, kernel=1, name=f"conv_{name}")(stages[name]))
            if self.blur:
                x = mask_channels(blur_key, x, BLUR_RATIO)
                x = Conv(size, name=f"generate_{name}_2")(nn.relu(Conv(size, name=f"generate_{name}_1")(x)))
            connected[name] = x
        return connected
