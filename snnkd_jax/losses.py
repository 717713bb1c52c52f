"""Loss terms as pure functions of one example each; the letters are those of `snnkd_jax.distill`.

Leading axes are free: a term over logits `[B, K]` gives `[B]`, over `[B, T, K]` it gives `[B, T]`.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """`-sum_k q[k] log softmax(z)[k]`, q = (1 - eps) onehot(y) + eps / K; in nats.

    Args:
        logits: z, `[..., K]`.
        labels: y, integers `[...]` that broadcast against the leading axes of `logits`.
        label_smoothing: eps in [0, 1) (Szegedy et al., CVPR 2016).
    """
    q = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), label_smoothing)
    return -jnp.sum(q * jax.nn.log_softmax(logits), axis=-1)


def kd_divergence(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """`tau^2 KL(softmax(zA / tau) || softmax(z / tau))` in nats; tau^2 keeps the gradients' scale (Hinton et al. 2015).

    Args:
        student_logits: z, `[..., K]`.
        teacher_logits: zA, broadcastable to `[..., K]`; no gradient flows into it.
        temperature: tau > 0.
    """
    log_p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_logits) / temperature)
    log_q = jax.nn.log_softmax(student_logits / temperature)
    return temperature**2 * jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def negative_mean(x: Array) -> Array:
    """Mean of the negative values of each channel, `[..., C]` to float32 `[C]`; 0 for a channel that has none."""
    x = x.astype(jnp.float32)
    negative = x < 0
    axes = tuple(range(x.ndim - 1))
    return jnp.sum(jnp.where(negative, x, 0), axes) / jnp.maximum(jnp.sum(negative, axes, dtype=x.dtype), 1)


def margin_distance(student: Array, teacher: Array, margin: Array) -> Array:
    """Partial L2 distance to the teacher's pre-ReLU feature, summed over the map.

        t' = max(t, m)                                margin ReLU, m < 0
        d = sum (s - t')^2 1[s > t' or t' > 0]        a student below a negative target is left in peace

    Args:
        student: s, `[B, H, W, C]`.
        teacher: t, `[B, H, W, C]`, before the ReLU; no gradient flows into it.
        margin: m, `[C]`; Heo et al. take the expectation of the negative responses.

    Returns:
        d, float32 `[B]`.

    Reference: Heo et al., ICCV 2019, arXiv 1904.01866, eq. 2-4.
    """
    t = jax.lax.stop_gradient(jnp.maximum(teacher.astype(jnp.float32), margin))
    counts = (student > t) | (t > 0)
    return jnp.sum(jnp.where(counts, jnp.square(student - t), 0), axis=(1, 2, 3))
