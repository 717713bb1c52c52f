"""Encoders: images `[B, ...]` to currents or spikes `[B, T, ...]`."""

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.errors import check_count


def direct(images: Array, num_steps: int) -> Array:
    """The image as a constant current: `x[:, t] = images`; the first convolution and its neurons do the coding.

    Reference: Rueckauer et al., Front. Neurosci. 2017 (constant analogue input).
    """
    check_count("num_steps", num_steps)
    return jnp.broadcast_to(images[:, None], (images.shape[0], num_steps, *images.shape[1:]))


def poisson(key: Array, images: Array, num_steps: int) -> Array:
    """Rate code: independent spikes with `P(s[b, t, i] = 1) = images[b, i]`, for images in [0, 1].

    Values outside [0, 1] act as 0 or 1. Spikes have the dtype of `images`.
    """
    rates = direct(images, num_steps).astype(jnp.float32)  # in bfloat16, they would be off by percents
    return (jax.random.uniform(key, rates.shape, jnp.float32) < rates).astype(images.dtype)


def latency(images: Array, num_steps: int) -> Array:
    """Time-to-first-spike code: one spike per pixel, at step `t = round((T - 1) (1 - images))`, images in [0, 1].

    The brightest pixel fires at step 0, a black one at step T - 1, and with T = 1 all fire at once. Values outside
    [0, 1] act as 0 or 1. Spikes have the dtype of `images`.
    """
    check_count("num_steps", num_steps)
    step = jnp.round((num_steps - 1) * (1 - jnp.clip(images.astype(jnp.float32), 0, 1)))
    spikes = step[:, None] == jnp.arange(num_steps).reshape(1, -1, *[1] * (images.ndim - 1))
    return spikes.astype(images.dtype)
