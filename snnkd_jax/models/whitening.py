"""Fixed whitening filters as a first layer, made from the training images before the training begins.

    Sigma = mean of p p^T over all k x k patches p of the normalised images
    Sigma = V diag(lambda) V^T
    w[j] = V[:, j] / sqrt(lambda[j] + eps),  j = 1 ... k^2 C;  the filters are w and -w

The outputs w p have the second moments diag(lambda / (lambda + eps)): nearly uncorrelated, of variance 1. Filters of
both signs keep what an activation that is 0 for negative inputs would lose.

Source: Page 2019, "How to train your ResNet"; Jordan 2024, arXiv 2404.00498, with eps = 5e-4 and k = 2.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array, lax
from jax.typing import ArrayLike, DTypeLike
from numpy.typing import NDArray

from snnkd_jax.models.layers import convolve, windows
from snnkd_jax.models.network import Variables

NAME = "whitening"
"""The name of a `WhiteningConv` in its module, by which its filters are found."""

KERNEL = 2
EPS = 5e-4


class WhiteningConv(nn.Module):
    """Convolution by whitening filters, without padding, with a bias; it must be called `NAME`.

    The filters have no gradient, and `training.optim` does not decay them. They are random until `with_filters` has
    set them, as `fit` does.
    """

    kernel: int = KERNEL
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[..., H, W, C]` to `[..., H - k + 1, W - k + 1, 2 k^2 C]`."""
        features, window = 2 * self.kernel**2 * x.shape[-1], (self.kernel, self.kernel)
        options: dict[str, Any] = {"padding": 0, "conv_general_dilated": _convolve_fixed}
        return nn.Conv(features, window, dtype=self.dtype, name="conv", **options)(x)


def _convolve_fixed(x: Array, kernel: Array, *arguments: Any, **options: Any) -> Array:
    return convolve(x, lax.stop_gradient(kernel), *arguments, **options)


def is_filter(path: tuple[Any, ...]) -> bool:
    """Whether a path of JAX in a tree of parameters is that of whitening filters."""
    return [getattr(key, "key", None) for key in path[-3:]] == [NAME, "conv", "kernel"]


def is_bias(path: tuple[Any, ...]) -> bool:
    """Whether a path of JAX in a tree of parameters is that of the bias of whitening filters."""
    return [getattr(key, "key", None) for key in path[-3:]] == [NAME, "conv", "bias"]


def has_filters(variables: Variables) -> bool:
    """Whether a network has whitening filters."""
    return any(is_filter(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables))


def patch_moments(images: Array) -> Array:
    """Sigma, float32 `[k^2 C, k^2 C]`, of normalised images `[..., H, W, C]`; rows are in the order k, k, C."""
    patches = jnp.concatenate(windows(images.astype(jnp.float32), KERNEL, 1, 0), axis=-1)
    patches = patches.reshape(-1, patches.shape[-1])
    return jnp.matmul(patches.T, patches, precision="highest") / len(patches)


def filters(sigma: ArrayLike) -> NDArray:
    """The filters of Sigma, float32 `[k, k, C, 2 k^2 C]`, in descending order of lambda."""
    eigenvalues, eigenvectors = np.linalg.eigh(np.asarray(sigma, np.float64))
    w = (eigenvectors / np.sqrt(eigenvalues.clip(0) + EPS))[:, ::-1]
    return np.concatenate([w, -w], axis=1).reshape(KERNEL, KERNEL, -1, 2 * len(w)).astype(np.float32)


def with_filters(variables: Variables, sigma: ArrayLike) -> Variables:
    """A network's variables with the whitening filters of Sigma."""
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables)
    found = filters(sigma)
    for path in flat:
        if path[-3:] == (NAME, "conv", "kernel"):
            flat[path] = jnp.asarray(found)
    return traverse_util.unflatten_dict(flat)
