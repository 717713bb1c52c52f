"""The layers of the architectures; they treat all axes before `[H, W, C]`, batch or batch and time, alike.

Padding is explicit: "same" with a stride pads even sizes unevenly, which neuromorphic formats cannot express.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from snnkd_jax.errors import InputError
from snnkd_jax.models.remat import MOMENTS
from snnkd_jax.models.stages import is_collected

Norm = Callable[..., nn.Module]
"""The constructor of a normalisation layer: `norm(name="norm1", branches=2)(x)`."""


def channels(base: int, width: float) -> int:
    """`base` channels scaled by the width multiplier, at least one."""
    return max(1, round(base * width))


HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Weights by fan-out (He et al. 2015)."""

UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Weights in +-1 / sqrt(fan-in), as in PyTorch's layers."""


def dirac(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A kernel `[k, k, C_in, C_out]` whose first min(C_in, C_out) outputs are its inputs; the others are `UNIFORM`.

    The initialisation of Zagoruyko & Komodakis 2017 (arXiv 1706.00388), as used by Jordan 2024 (arXiv 2404.00498).
    """
    *window, c_in, c_out = shape
    i = jnp.arange(min(c_in, c_out))
    centre = tuple(n // 2 for n in window)
    return UNIFORM(key, shape, dtype).at[..., : len(i)].set(0).at[(*centre, i, i)].set(1)


class Conv(nn.Module):
    """Square convolution without bias, padding `kernel // 2`."""

    features: int
    kernel: int = 3
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    kernel_init: Callable[..., Array] = HE_NORMAL

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., ceil(H / stride), ceil(W / stride), features]` for odd kernels."""
        options: dict[str, Any] = {"use_bias": False, "kernel_init": self.kernel_init, "conv_general_dilated": convolve}
        window, padding = (self.kernel, self.kernel), self.kernel // 2
        return nn.Conv(self.features, window, self.stride, padding, dtype=self.dtype, name="conv", **options)(x)


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: Sequence[tuple[int, int]], **options) -> Array:
    """`lax.conv_general_dilated` in NHWC and HWIO, but a matrix product where the map is smaller than the kernel.

    For a 3x3 kernel on a 2x2 map with 512 channels, that is 100 times faster in XLA's CPU backend. `options` are
    passed to `lax.conv_general_dilated`, which is called for every map if they include dilations or groups.
    """
    h, w = x.shape[1:3]
    kh, kw = kernel.shape[:2]
    dilated = any(set(options.get(f"{side}_dilation") or (1,)) != {1} for side in ("lhs", "rhs"))
    if dilated or kernel.shape[2] != x.shape[3] or (h >= kh and w >= kw):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows = [slice(i, x.shape[1] - kh + 1 + i, strides[0]) for i in range(kh)]
    columns = [slice(j, x.shape[2] - kw + 1 + j, strides[1]) for j in range(kw)]
    patches = jnp.concatenate([x[:, r, c] for r in rows for c in columns], axis=-1)
    return patches @ kernel.reshape(-1, kernel.shape[-1])


class BatchNorm(nn.Module):
    """Batch norm over all axes but the channels, so over batch, time and space; optionally tdBN.

        y = gain gamma (x - mu) / sqrt(sigma^2 + eps) + beta
        gain = 1                               batch norm (Ioffe & Szegedy 2015)
        gain = v_threshold / sqrt(branches)    threshold-dependent BN (Zheng et al., AAAI 2021, arXiv 2011.05280)

    v_threshold is counted from the resting potential, which is 0 there: tdBN scales currents to the neurons' threshold.
    `branches` is the number of normalised signals that are summed before the neuron. In training, mu and sigma^2
    (biased) are those of the whole batch, sharded or not, and their running means with decay `momentum` are kept for
    evaluation; one value per channel raises `InputError`. Computed in float32 whatever the dtype of x. Without
    `use_scale`, gamma is 1. The collection "rates", if it is mutable, receives what `snnkd_jax.models.rate` needs.
    """

    train: bool
    v_threshold: float | None = None
    branches: int = 1
    use_scale: bool = True
    momentum: float = 0.9
    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The normalised `x`, of its shape and dtype."""
        size = x.shape[-1:]
        gamma, beta = self.affine(size)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, size, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, size, jnp.float32)
        y = lax.stop_gradient(x.astype(jnp.float32)) if self.train else x.astype(jnp.float32)
        if self.train:
            if x.size == x.shape[-1]:
                found = f"one value per channel (shape {x.shape}); train on more images at a time"
                raise InputError(f"batch norm {self.name!r} is trained on {found} (batch_size, accumulate)")
            axes = tuple(range(x.ndim - 1))
            mu = checkpoint_name(y.mean(axes), MOMENTS)
            var = checkpoint_name(jnp.square(y - mu).mean(axes), MOMENTS)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mu
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
            if is_collected(self, "rates"):
                for name, value in (("input", y.mean(axis=1, keepdims=True)), ("mean", mu), ("var", var)):
                    self.put_variable("rates", name, value)
            return normalise(x, mu, var + self.eps, gamma, beta)
        mu, var = running_mean.value, running_var.value
        return ((y - mu) * (gamma * lax.rsqrt(var + self.eps)) + beta).astype(x.dtype)

    @property
    def gain(self) -> float:
        """The constant factor of gamma."""
        return 1.0 if self.v_threshold is None else self.v_threshold / self.branches**0.5

    def affine(self, size: tuple[int, ...]) -> tuple[Array, Array]:
        """The parameters `gain gamma` and `beta`."""
        ones = nn.initializers.ones
        gamma = self.param("scale", ones, size, jnp.float32) if self.use_scale else jnp.ones(size, jnp.float32)
        return self.gain * gamma, self.param("bias", nn.initializers.zeros, size, jnp.float32)


@jax.custom_vjp
def normalise(x: Array, mu: Array, var: Array, gamma: Array, beta: Array) -> Array:
    """`gamma (x - mu) / sqrt(var) + beta`, where mu and var are the moments of x itself over all axes but the last.

        dx = gamma / sqrt(var) (dy - mean dy - x' mean(dy x')),  x' = (x - mu) / sqrt(var)

    is the gradient with the dependence of the moments on x included, for which only x is kept; that with respect to
    `mu` and `var` is 0. `var` may include a constant. x is `[..., C]` of any floating dtype, and so is the result; the
    other arguments are float32 `[C]`, as is the arithmetic.

    Source: Ioffe & Szegedy 2015, section 3.
    """
    return ((x.astype(jnp.float32) - mu) * (gamma * lax.rsqrt(var)) + beta).astype(x.dtype)


def _normalise_forward(x, mu, var, gamma, beta):
    return normalise(x, mu, var, gamma, beta), (x, mu, var, gamma)


def _normalise_backward(residuals, dy):
    x, mu, var, gamma = residuals
    axes = tuple(range(x.ndim - 1))
    dy = dy.astype(jnp.float32)
    normalised = (x.astype(jnp.float32) - mu) * lax.rsqrt(var)
    dbeta, dgamma = dy.sum(axes), (dy * normalised).sum(axes)
    n = x.size // x.shape[-1]
    dx = gamma * lax.rsqrt(var) * (dy - dbeta / n - normalised * (dgamma / n))
    return dx.astype(x.dtype), jnp.zeros_like(mu), jnp.zeros_like(var), dgamma, dbeta


normalise.defvjp(_normalise_forward, _normalise_backward)


Pooling = Callable[..., nn.Module]
"""The constructor of a pooling layer, over 2x2 windows by default: `pool(name="pool1")(x)`."""


class AvgPool(nn.Module):
    """`avg_pool` over 2x2 windows."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., H // 2, W // 2, C]`."""
        return avg_pool(x)


class MaxPool(nn.Module):
    """`max_pool`; the collection "rates", if it is mutable, receives what `snnkd_jax.models.rate` needs."""

    window: int = 2
    stride: int = 2
    padding: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., h, w, C]`; see `windows`."""
        y = max_pool(x, self.window, self.stride, self.padding)
        if is_collected(self, "rates"):
            firsts = first_maxima(windows(x, self.window, self.stride, self.padding, -jnp.inf), y)
            routes = jnp.stack([first.mean(axis=1, keepdims=True) for first in firsts])
            self.put_variable("rates", "output", y.mean(axis=1, keepdims=True))
            self.put_variable("rates", "routes", routes.astype(y.dtype))
        return y


def avg_pool(x: Array, window: int = 2) -> Array:
    """Averages over windows that do not overlap: `[..., H, W, C]` to `[..., H // window, W // window, C]`.

    Raises `InputError` if the map is smaller than the window.
    """
    _check_pooled(x, window)
    h, w, c = x.shape[-3] // window, x.shape[-2] // window, x.shape[-1]
    x = x[..., : h * window, : w * window, :].reshape(*x.shape[:-3], h, window, w, window, c)
    return x.mean(axis=(-4, -2))


def max_pool(x: Array, window: int = 2, stride: int = 2, padding: int = 0) -> Array:
    """Maxima over `windows`, padding excluded; shapes and errors as there.

    The gradient goes to the first maximum of each window, row by row, as in PyTorch and in XLA's `reduce_window`:
    spikes tie often, and `jnp.maximum` would split it.
    """
    return _max_pool(window, stride, padding, x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _max_pool(window: int, stride: int, padding: int, x: Array) -> Array:
    return functools.reduce(jnp.maximum, windows(x, window, stride, padding, -jnp.inf))


def _max_pool_forward(window, stride, padding, x):
    y = _max_pool(window, stride, padding, x)
    return y, (x, y)


def _max_pool_backward(window, stride, padding, residuals, dy):
    x, y = residuals
    parts, scatter = jax.vjp(lambda x: windows(x, window, stride, padding, -jnp.inf), x)
    return scatter([jnp.where(first, dy, 0) for first in first_maxima(parts, y)])


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def windows(x: Array, window: int, stride: int, padding: int, fill: float = 0.0) -> list[Array]:
    """The first, second, ... element of every window, row by row: `window^2` arrays `[..., h, w, C]`.

    h = (H + 2 padding - window) // stride + 1, and padding has the value `fill`.
    Raises `InputError` if the padded map `[..., H, W, C]` is smaller than the window.
    """
    if padding:
        edges = [(0, 0)] * (x.ndim - 3) + [(padding, padding), (padding, padding), (0, 0)]
        x = jnp.pad(x, edges, constant_values=fill)
    _check_pooled(x, window)
    h, w = ((n - window) // stride for n in x.shape[-3:-1])  # the index of the last window
    return [
        x[..., i : i + stride * h + 1 : stride, j : j + stride * w + 1 : stride, :]
        for i, j in itertools.product(range(window), repeat=2)
    ]


def first_maxima(parts: list[Array], y: Array) -> list[Array]:
    """Whether each element of a window is the first to equal the window's maximum, y."""
    firsts, taken = [], jnp.zeros(y.shape, bool)
    for part in parts:
        firsts.append((part == y) & ~taken)
        taken |= firsts[-1]
    return firsts


def _check_pooled(x: Array, window: int) -> None:
    h, w = x.shape[-3:-1]
    if min(h, w) < window:
        raise InputError(f"a {h}x{w} map cannot be pooled by {window}: the images are too small for this model")


class GlobalAvgPool(nn.Module):
    """The mean over the map."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., C]`."""
        return x.mean(axis=(-3, -2))


def adaptive_avg_pool(x: Array, size: int) -> Array:
    """The map at `size` x `size`, `[..., H, W, C]` to `[..., size, size, C]`; PyTorch's `adaptive_avg_pool2d`.

    Along each axis, output i is the mean of the inputs from `floor(i n / size)` to before `ceil((i + 1) n / size)`.
    """
    for axis in (x.ndim - 3, x.ndim - 2):
        n = x.shape[axis]
        if n != size:
            bins = [slice(i * n // size, -((i + 1) * -n // size)) for i in range(size)]
            x = jnp.stack([lax.slice_in_dim(x, b.start, b.stop, axis=axis).mean(axis=axis) for b in bins], axis=axis)
    return x
