"""Loss terms as pure functions of one example each; the letters are those of `snnkd_jax.distill.logit_terms`.

Leading axes are free unless a function says otherwise: a term over logits `[B, K]` gives `[B]`, over `[B, T, K]` it
gives `[B, T]`. p and q are the teacher's and the student's soft labels, `softmax(zA / tau)` and `softmax(z / tau)`.
No gradient flows into a teacher, nor into the steps that play it within the student. The terms over feature maps are
in `snnkd_jax.distill.feature_losses`. What has a temperature is computed in float32, or in float64 if the logits are,
and raises `InputError` for one that is not positive and finite. Constants that are traced are not looked at.
"""

import math

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer

from snnkd_jax.errors import InputError


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """`-sum_k q[k] log softmax(z)[k]`, q = (1 - eps) onehot(y) + eps / K; in nats.

    Args:
        logits: z, `[..., K]`.
        labels: y, integers `[...]` that broadcast against the leading axes of `logits`.
        label_smoothing: eps in [0, 1) (Szegedy et al., CVPR 2016).

    Raises:
        InputError: for another eps.
    """
    check_in_range("label_smoothing", label_smoothing, 0, 1)
    q = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), label_smoothing)
    return -jnp.sum(q * jax.nn.log_softmax(logits), axis=-1)


def kd_divergence(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """`tau^2 KL(softmax(zA / tau) || softmax(z / tau))` in nats; tau^2 keeps the gradients' scale (Hinton et al. 2015).

    Args:
        student_logits: z, `[..., K]`.
        teacher_logits: zA, broadcastable to `[..., K]`; no gradient flows into it.
        temperature: tau > 0.
    """
    log_p = _log_soft_labels(jax.lax.stop_gradient(teacher_logits), temperature)
    log_q = _log_soft_labels(student_logits, temperature)
    return temperature**2 * _mean_of(log_p, log_p - log_q)


def check_in_range(name: str, value: float, low: float, high: float) -> None:
    """Raises `InputError` unless `value` is in [low, high), or traced."""
    if not isinstance(value, Tracer) and not low <= float(value) < high:  # float: within a trace, of an array too
        raise InputError(f"{name}={value!r} must be in [{low:g}, {high:g})")


def check_temperature(temperature: float) -> None:
    """Raises `InputError` unless tau is positive and finite, or traced."""
    if not isinstance(temperature, Tracer) and not 0 < float(temperature) < math.inf:
        raise InputError(f"temperature={temperature!r} must be a positive finite number, such as 4")


def check_same_shape(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    """Raises `InputError` for maps that would be broadcast."""
    if student != teacher:
        raise InputError(f"the student's map has shape {student} and the teacher's {teacher}; they must be the same")


def _wide(x: Array) -> Array:
    """Half precision as float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _log_soft_labels(logits: Array, temperature: float) -> Array:
    """`log softmax(z / tau)`."""
    check_temperature(temperature)
    return jax.nn.log_softmax(_wide(logits) / temperature)


def _mean_of(log_p: Array, x: Array) -> Array:
    """`sum_k p[k] x[k]`, where a class without probability counts for nothing, whatever its x."""
    p = jnp.exp(log_p)
    return jnp.sum(p * jnp.where(p > 0, x, 0), axis=-1)


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

    Raises:
        InputError: for maps of different shapes.

    Reference: Heo et al., ICCV 2019, arXiv 1904.01866, eq. 2-4.
    """
    check_same_shape(student.shape, teacher.shape)
    t = jax.lax.stop_gradient(jnp.maximum(teacher.astype(jnp.float32), margin))
    counts = (student > t) | (t > 0)
    return jnp.sum(jnp.where(counts, jnp.square(student - t), 0), axis=(1, 2, 3))


def classifier_divergence(
    feature: Array, kernel: Array, bias: Array, teacher_logits: Array, temperature: float
) -> Array:
    """EnOF's alignment of features (L_AF): the student's feature read by the teacher's classifier.

        d = tau^2 KL(softmax(zA / tau) || softmax((f W + b) / tau))      in nats

    The factor tau^2 is a guess; the authors average f over time.

    Args:
        feature: f, `[..., C]`, what the student's own classifier reads, with as many features as the teacher's.
        kernel: W, `[C, K]`, of the teacher; no gradient flows into it.
        bias: b, `[K]`, likewise.
        teacher_logits: zA, broadcastable to `[..., K]`.
        temperature: tau > 0.

    Reference: Guo et al., EnOF-SNN, NeurIPS 2024.
    """
    kernel, bias = jax.lax.stop_gradient((kernel, bias))
    return kd_divergence(_wide(feature) @ kernel + bias, teacher_logits, temperature)


def logit_deviation(logits: Array, phi: float) -> Array:
    """TET's regulariser `mean_k (z[k] - phi)^2`, `[..., K]` to `[...]`: it keeps single steps from outliers.

    Reference: Deng et al., TET, ICLR 2022, arXiv 2202.11946; phi is the firing threshold.
    """
    return jnp.mean(jnp.square(logits - phi), axis=-1)


def temporal_sharing(logits: Array, labels: Array, temperature: float) -> Array:
    """TKS: the mean of the steps that are right teaches every step.

        z' = mean of z[t] over {t: argmax_k z[t][k] = y}; 0, the uniform distribution, where no step is right
        d[t] = tau^2 KL(softmax(z' / tau) || softmax(z[t] / tau))      in nats

    Departures from the authors' code, which sums the steps that are right and softens only the target: both would tie
    the temperature to the number of such steps. Nor do they stop the gradient of the target.

    Args:
        logits: z[t], `[B, T, K]`.
        labels: y, `[B]`.
        temperature: tau > 0.

    Returns:
        d[t], `[B, T]`.

    Reference: Dong et al., TKS, arXiv 2304.06540.
    """
    logits = _wide(logits)
    right = (jnp.argmax(logits, axis=-1) == labels[:, None])[..., None]
    total = jnp.sum(jnp.where(right, logits, 0), axis=1, keepdims=True)
    mean = total / jnp.maximum(jnp.sum(right, axis=1, keepdims=True), 1)
    return kd_divergence(logits, mean, temperature)


def negative_entropy(logits: Array, temperature: float) -> Array:
    """TSER's regulariser `-H(q) = sum_k q[k] log q[k]` in nats, in [-log K, 0]; minimising it softens the output.

    The authors subtract `gamma mean_t H` from the loss; that H is of the softened output is a guess.

    Args:
        logits: z or z[t], `[..., K]`.
        temperature: tau > 0.

    Reference: Yu et al., TSER, CVPR 2025, arXiv 2503.03144.
    """
    log_q = _log_soft_labels(logits, temperature)
    return _mean_of(log_q, log_q)


def head_tail_divergence(
    student_logits: Array, teacher_logits: Array, temperature: float, head_mass: float = 0.5
) -> Array:
    """HTA-KL: forward and reverse KL, each weighted by where the student is wrong.

        head = the fewest classes whose probability p sums to `head_mass`, the others are the tail
        w = sum_head |p - q| / sum_k |p - q|
        d = tau^2 (w KL(p || q) + (1 - w) KL(q || p))      in nats; no gradient through w

    The paper names the parts (a mask by cumulative probability, forward and reverse KL, adaptive weights); how they
    combine, and `head_mass`, are a guess after adaptive KL (Wu et al., COLING 2025, arXiv 2404.02657).

    Args:
        student_logits: z, `[..., K]`.
        teacher_logits: zA, broadcastable to `[..., K]`; no gradient flows into it.
        temperature: tau > 0.
        head_mass: in (0, 1]; with 1 all classes are of the head.

    Raises:
        InputError: for another head_mass.

    Reference: Zhang et al., HTA-KL, IJCNN 2025, arXiv 2504.20445.
    """
    if not isinstance(head_mass, Tracer) and not 0 < float(head_mass) <= 1:
        raise InputError(f"head_mass={head_mass!r} must be a probability in (0, 1]")
    log_p = _log_soft_labels(jax.lax.stop_gradient(teacher_logits), temperature)
    log_q = _log_soft_labels(student_logits, temperature)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    gap = jnp.abs(p - jax.lax.stop_gradient(q))
    order = jnp.argsort(-jnp.broadcast_to(p, gap.shape), axis=-1)
    p_sorted, gap_sorted = (jnp.take_along_axis(jnp.broadcast_to(x, gap.shape), order, axis=-1) for x in (p, gap))
    # A class is of the head if those before it fall short of the mass, so the head is never empty.
    # Sums are rounded: the last classes may find nothing left of the mass 1.
    head = (jnp.cumsum(p_sorted, axis=-1) - p_sorted < head_mass) | (head_mass == 1)
    # Where q = p both divergences are 0, whatever the weight.
    total = jnp.maximum(jnp.sum(gap, axis=-1), jnp.finfo(gap.dtype).tiny)
    w = jnp.sum(jnp.where(head, gap_sorted, 0), axis=-1) / total
    forward, reverse = _mean_of(log_p, log_p - log_q), _mean_of(log_q, log_q - log_p)
    return temperature**2 * (w * forward + (1 - w) * reverse)


def unit_vector(x: Array, axis: int | tuple[int, ...]) -> Array:
    """`x / ||x||` over `axis`; 0, with gradient 0, where the norm is below 1e-6, which may be rounding."""
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    nonzero = square > 1e-12
    # The inner `where`: the branch that is not taken must have a finite gradient too.
    return jnp.where(nonzero, x * jax.lax.rsqrt(jnp.where(nonzero, square, 1)), 0)


def _correlation_distance(student_logits: Array, teacher_logits: Array, temperature: float, axis: int) -> Array:
    p = jnp.exp(_log_soft_labels(jax.lax.stop_gradient(teacher_logits), temperature))
    q = jnp.exp(_log_soft_labels(student_logits, temperature))
    a, b = (unit_vector(x - jnp.mean(x, axis=axis, keepdims=True), axis) for x in (p, q))
    return temperature**2 * (1 - jnp.sum(a * b, axis=axis))


def inter_class_distance(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """DIST between the classes of an example: `tau^2 (1 - corr_k(p[k], q[k]))`, in tau^2 [0, 2].

    corr is Pearson's correlation over the K classes, 0 where p or q is constant or deviates from its mean by less than
    1e-6 in the root of the sum of squares. The factor tau^2 is in the authors' code, not in their equation.

    Args:
        student_logits: z, `[..., K]`.
        teacher_logits: zA, broadcastable to `[..., K]`; no gradient flows into it.
        temperature: tau > 0.

    Reference: Huang et al., DIST, NeurIPS 2022, arXiv 2205.10536.
    """
    return _correlation_distance(student_logits, teacher_logits, temperature, axis=-1)


def intra_class_distance(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """DIST between the examples of a class: `tau^2 (1 - corr_b(p[b, k], q[b, k]))`, in tau^2 [0, 2].

    The one term that is of the batch and not of an example: logits `[B, ..., K]` give `[..., K]`, `[B, K]` gives `[K]`.
    A batch of one is constant: tau^2, without a gradient. The rest is as in `inter_class_distance`.
    """
    return _correlation_distance(student_logits, teacher_logits, temperature, axis=0)


def strong_to_weak(logits: Array, temperature: float) -> Array:
    """Self-distillation: the most confident step teaches the least confident one.

        c[t] = mean_b max_k softmax(z[t])[k],   s = argmax_t c[t],   w = argmin_t c[t]
        d = tau^2 KL(softmax(z[s] / tau) || softmax(z[w] / tau))      in nats; 0 for T = 1

    The steps are chosen for the whole batch, as the authors do: that choice is all that examples share. Whether the
    factor tau^2 is theirs is not certain: it is not in their pseudocode.

    Args:
        logits: z[t], `[B, T, K]`.
        temperature: tau > 0.

    Returns:
        d, `[B]`.

    Reference: Ding et al., NeurIPS 2025, arXiv 2510.07924.
    """
    confidence = jnp.mean(jnp.max(jax.nn.softmax(_wide(logits)), axis=-1), axis=0)
    strong, weak = logits[:, jnp.argmax(confidence)], logits[:, jnp.argmin(confidence)]
    return kd_divergence(weak, strong, temperature)
