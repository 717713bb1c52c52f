"""The layers that every body is made of; the axes before `[H, W, C]`, batch or batch and time, are all alike to them.

Paddings are explicit integers: "same" with a stride pads unevenly on even sizes, which neuromorphic formats cannot say.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from snnkd_jax.errors import InputError

Norm = Callable[..., nn.Module]
"""Makes one normalisation layer: `norm(name="norm1", branches=2)(x)`."""


def channels(base: int, width: float) -> int:
    """`base` channels scaled by the width multiplier, at least one."""
    return max(1, round(base * width))


class Conv(nn.Module):
    """Square convolution without bias, padding `kernel // 2`; weights He-normal by fan-out (He et al. 2015)."""

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., ceil(H / stride), ceil(W / stride), features]` for odd kernels."""
        return nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
            name="conv",
        )(x)


class BatchNorm(nn.Module):
    """Batch norm over all axes but the channels, so over batch, time and space; optionally tdBN.

        y = gain gamma (x - mu) / sqrt(sigma^2 + eps) + beta
        gain = 1                               batch norm (Ioffe & Szegedy 2015)
        gain = v_threshold / sqrt(branches)    threshold-dependent BN (Zheng et al., AAAI 2021, arXiv 2011.05280)

    With tdBN, currents reach the neurons with the scale of their threshold; `branches` is the number of normalised
    signals that are summed before the neuron. In training mu and sigma^2 (biased) are the batch's, and their running
    means, of decay `momentum`, are kept for evaluation. Under `jit` with a sharded batch they are those of the whole
    batch. Computed in float32 whatever the dtype of x.
    """

    train: bool
    v_threshold: float | None = None
    branches: int = 1
    momentum: float = 0.9
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The normalised `x`, of its shape and dtype."""
        size = x.shape[-1:]
        gamma = self.param("scale", nn.initializers.ones, size, jnp.float32)
        beta = self.param("bias", nn.initializers.zeros, size, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, size, jnp.float32)
        y = x.astype(jnp.float32)
        if self.train:
            axes = tuple(range(x.ndim - 1))
            mu = y.mean(axes)
            var = jnp.square(y - mu).mean(axes)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mu
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        else:
            mu, var = running_mean.value, running_var.value
        gain = 1.0 if self.v_threshold is None else self.v_threshold / self.branches**0.5
        return ((y - mu) * (gain * gamma * lax.rsqrt(var + self.eps)) + beta).astype(x.dtype)


def avg_pool(x: Array, window: int = 2) -> Array:
    """Means over windows that do not overlap: `[..., H, W, C]` to `[..., H // window, W // window, C]`.

    Raises `InputError` if the map is smaller than the window: the network has more poolings than the image allows.
    """
    h, w, c = x.shape[-3:]
    if min(h, w) < window:
        raise InputError(f"a {h}x{w} map cannot be pooled by {window}: the images are too small for this model")
    x = x[..., : h - h % window, : w - w % window, :]
    x = x.reshape(*x.shape[:-3], h // window, window, w // window, window, c)
    return x.mean(axis=(-4, -2))


def global_avg_pool(x: Array) -> Array:
    """Mean over the map: `[..., H, W, C]` to `[..., C]`."""
    return x.mean(axis=(-3, -2))
