"""Loss terms as pure functions per example; the letters are those of `snnkd_jax.distill.terms`.

Leading axes are free unless stated otherwise: a term maps logits `[B, K]` to `[B]`, and `[B, T, K]` to `[B, T]`. p and
q are the teacher's and the student's soft labels, `softmax(zA / tau)` and `softmax(z / tau)`, of `teacher_logits` zA,
broadcastable to `[..., K]`, and `student_logits` z, `[..., K]`; `temperature` is tau. Terms of feature maps
`[B, H, W, C]` return `[B]`: F is the student's map averaged over time, and A the teacher's; sums and means are in
float32, and maps of different sizes raise `InputError`. No gradient flows into a teacher, nor into the student's steps
that serve as targets. Terms with a temperature are computed in float32, or in float64 if the logits are, and raise
`InputError` unless it is positive and finite. Traced constants are not checked.
"""

import math

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.core import Tracer

from snnkd_jax.errors import InputError

MAP = (1, 2, 3)  # axes of one example


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """`-sum_k q[k] log softmax(z)[k]`, q = (1 - eps) onehot(y) + eps / K; in nats.

    z are `logits` `[..., K]`, y integer `labels` that broadcast against `[...]`, and eps is `label_smoothing` in [0, 1)
    (Szegedy et al., CVPR 2016).
    """
    check_in_range("label_smoothing", label_smoothing, 0, 1)
    q = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), label_smoothing)
    return -jnp.sum(q * jax.nn.log_softmax(logits), axis=-1)


def kd_divergence(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """`tau^2 KL(p || q)` in nats; tau^2 preserves the gradients' scale (Hinton et al. 2015)."""
    log_p, log_q = _soft_labels(teacher_logits, student_logits, temperature)
    return temperature**2 * _expectation(log_p, log_p - log_q)


def check_in_range(name: str, value: float, low: float, high: float) -> None:
    """Raises `InputError` unless `value` is in [low, high), or traced."""
    if not isinstance(value, Tracer) and not low <= float(value) < high:  # float: arrays may be constants of a trace
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
    """Converts half precision to float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _log_soft_labels(logits: Array, temperature: float) -> Array:
    """`log softmax(z / tau)`."""
    check_temperature(temperature)
    return jax.nn.log_softmax(_wide(logits) / temperature)


def _soft_labels(teacher_logits: Array, student_logits: Array, temperature: float) -> tuple[Array, Array]:
    """Returns log p and log q."""
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    return _log_soft_labels(teacher_logits, temperature), _log_soft_labels(student_logits, temperature)


def _expectation(log_p: Array, x: Array) -> Array:
    """`sum_k p[k] x[k]`; a class of probability 0 contributes 0, whatever its x."""
    p = jnp.exp(log_p)
    return jnp.sum(p * jnp.where(p > 0, x, 0), axis=-1)


def negative_mean(x: Array) -> Array:
    """Averages the negative values of each channel, `[..., C]` to float32 `[C]`; 0 for a channel without any."""
    x = x.astype(jnp.float32)
    negative = x < 0
    axes = tuple(range(x.ndim - 1))
    return jnp.sum(jnp.where(negative, x, 0), axes) / jnp.maximum(jnp.sum(negative, axes, dtype=x.dtype), 1)


def margin_distance(student: Array, teacher: Array, margin: Array) -> Array:
    """Partial L2 distance to the teacher's pre-ReLU feature, summed over the map.

        t' = max(t, m)                                margin ReLU, m < 0
        d = sum (s - t')^2 1[s > t' or t' > 0]        a student below a negative target contributes no loss

    s and t are `[B, H, W, C]`, and d is float32 `[B]`; m, `[C]`, is the expectation of the negative responses in Heo et
    al. Raises `InputError` for maps of different shapes.

    Reference: Heo et al., ICCV 2019, arXiv 1904.01866, eq. 2-4.
    """
    check_same_shape(student.shape, teacher.shape)
    t = jax.lax.stop_gradient(jnp.maximum(teacher.astype(jnp.float32), margin))
    counts = (student > t) | (t > 0)
    return jnp.sum(jnp.where(counts, jnp.square(student - t), 0), axis=MAP)


def classifier_divergence(
    feature: Array, kernel: Array, bias: Array, teacher_logits: Array, temperature: float
) -> Array:
    """EnOF's feature alignment (L_AF): the student's feature, classified by the teacher's classifier.

        d = tau^2 KL(softmax(zA / tau) || softmax((f W + b) / tau))      in nats

    f, `[..., C]`, is the input of the student's own classifier, W `[C, K]` and b `[K]` are the teacher's. The factor
    tau^2 is a guess; the authors average f over time.

    Reference: Guo et al., EnOF-SNN, NeurIPS 2024.
    """
    kernel, bias = jax.lax.stop_gradient((kernel, bias))
    return kd_divergence(_wide(feature) @ kernel + bias, teacher_logits, temperature)


def logit_deviation(logits: Array, phi: float) -> Array:
    """TET's regulariser `mean_k (z[k] - phi)^2`, `[..., K]` to `[...]`, against outliers at single steps.

    Reference: Deng et al., TET, ICLR 2022, arXiv 2202.11946; phi is the firing threshold.
    """
    return jnp.mean(jnp.square(logits - phi), axis=-1)


def _correct(logits: Array, labels: Array) -> Array:
    """1[argmax_k z[t][k] = y], `[B, T, 1]`, of logits `[B, T, K]` and labels `[B]`."""
    return (jnp.argmax(logits, axis=-1) == labels[:, None])[..., None]


def temporal_sharing(logits: Array, labels: Array, temperature: float) -> Array:
    """TKS: the mean of the correct steps teaches every step.

        z' = mean of z[t] over {t: argmax_k z[t][k] = y}; 0, the uniform distribution, if no step is correct
        d[t] = tau^2 KL(softmax(z' / tau) || softmax(z[t] / tau))      in nats; no gradient through z'

    z[t] is `[B, T, K]`, y `[B]`, d `[B, T]`. The code of TKS differs: it sums the correct steps, softens only the
    target, which ties the temperature to the number of such steps, and lets the gradient flow into the target. Its
    gradient is seven to thirteen times this one, and its weight grows from 0; at a constant weight it would teach, at
    first, the uniform distribution. This is also the self-target (`make_teacher`) in the code of temporal decoupling,
    whose paper has the mean of all steps.

    Reference: Dong et al., TKS, arXiv 2304.06540; code of temporal decoupling, ICML 2025, arXiv 2501.15925.
    """
    logits = _wide(logits)
    right = _correct(logits, labels)
    total = jnp.sum(jnp.where(right, logits, 0), axis=1, keepdims=True)
    mean = total / jnp.maximum(jnp.sum(right, axis=1, keepdims=True), 1)
    return kd_divergence(logits, mean, temperature)


def reliable_sharing(logits: Array, labels: Array, temperature: float) -> Array:
    """Enhanced Self-Distillation: `temporal_sharing` between outputs, in the examples of which one is correct.

        r = 1 if an output of the example is correct, else 0
        d'[j] = r d[j] / mean_b r      d of `temporal_sharing`, in nats; 0 if no example has a correct output

    So the mean over the batch is that over the examples with r = 1, as in the authors' code. z[j] of N outputs are
    `[B, N, K]`, y `[B]`, d' `[B, N]`.

    Reference: Enhanced Self-Distillation, arXiv 2510.06254, and its code (Intelli-Chip-Lab).
    """
    reliable = _correct(logits, labels).any(axis=1)
    d = jnp.where(reliable, temporal_sharing(logits, labels, temperature), 0)
    return d / jnp.maximum(jnp.mean(reliable, dtype=d.dtype), 1 / len(logits))


def negative_entropy(logits: Array, temperature: float) -> Array:
    """TSER's regulariser `-H(q) = sum_k q[k] log q[k]` in nats, in [-log K, 0]; minimising it softens the output.

    The authors subtract `gamma mean_t H` from the loss; that H is of the softened output is a guess.

    Reference: Yu et al., TSER, CVPR 2025, arXiv 2503.03144.
    """
    log_q = _log_soft_labels(logits, temperature)
    return _expectation(log_q, log_q)


def head_tail_divergence(
    student_logits: Array, teacher_logits: Array, temperature: float, head_mass: float = 0.5
) -> Array:
    """HTA-KL: forward and reverse KL, each weighted by where the student is wrong.

        head = the most probable classes while their probabilities p sum to at most `head_mass`, and always the first
        w = sum_head |p - q| / sum_k |p - q|
        d = tau^2 (w KL(p || q) + (1 - w) KL(q || p))      in nats; no gradient through w

    The paper names the parts (a mask by cumulative probability, forward and reverse KL, adaptive weights); how they
    combine, and `head_mass`, are a guess after the code of adaptive KL (Wu et al., COLING 2025, arXiv 2404.02657),
    which has no temperature. The class that crosses `head_mass` is in the tail, as there. Raises `InputError` unless
    `head_mass` is in (0, 1]; with 1 all classes are in the head.

    Reference: Zhang et al., HTA-KL, IJCNN 2025, arXiv 2504.20445.
    """
    if not isinstance(head_mass, Tracer) and not 0 < float(head_mass) <= 1:
        raise InputError(f"head_mass={head_mass!r} must be a probability in (0, 1]")
    log_p, log_q = _soft_labels(teacher_logits, student_logits, temperature)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    gap = jnp.abs(p - jax.lax.stop_gradient(q))
    order = jnp.argsort(-jnp.broadcast_to(p, gap.shape), axis=-1)
    p_sorted, gap_sorted = (jnp.take_along_axis(jnp.broadcast_to(x, gap.shape), order, axis=-1) for x in (p, gap))
    first = jnp.arange(p.shape[-1]) == 0
    # Sums are rounded, and may exceed 1.
    head = (jnp.cumsum(p_sorted, axis=-1) <= head_mass) | first | (head_mass == 1)
    # Where q = p both divergences are 0, whatever the weight.
    total = jnp.maximum(jnp.sum(gap, axis=-1), jnp.finfo(gap.dtype).tiny)
    w = jnp.sum(jnp.where(head, gap_sorted, 0), axis=-1) / total
    forward, reverse = _expectation(log_p, log_p - log_q), _expectation(log_q, log_q - log_p)
    return temperature**2 * (w * forward + (1 - w) * reverse)


def unit_vector(x: Array, axis: int | tuple[int, ...]) -> Array:
    """`x / ||x||` over `axis`; 0 with gradient 0 where the norm is below 1e-6, which may be rounding."""
    square = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    nonzero = square > 1e-12
    # The inner `where`: the branch not taken needs a finite gradient too.
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

    Reference: Huang et al., DIST, NeurIPS 2022, arXiv 2205.10536.
    """
    return _correlation_distance(student_logits, teacher_logits, temperature, axis=-1)


def intra_class_distance(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """DIST between the examples of a class: `tau^2 (1 - corr_b(p[b, k], q[b, k]))`, in tau^2 [0, 2].

    The only term per batch instead of per example: it maps logits `[B, ..., K]` to `[..., K]`, and `[B, K]` to `[K]`. A
    batch of one is constant: tau^2, without a gradient. The rest is as in `inter_class_distance`.
    """
    return _correlation_distance(student_logits, teacher_logits, temperature, axis=0)


def dist_distance(student_logits: Array, teacher_logits: Array, temperature: float) -> Array:
    """DIST: `inter_class_distance` plus the mean over the classes of `intra_class_distance`, `[B, ...]`."""
    intra = intra_class_distance(student_logits, teacher_logits, temperature)
    return inter_class_distance(student_logits, teacher_logits, temperature) + intra.mean(axis=-1)


def strong_to_weak(logits: Array, temperature: float) -> Array:
    """Self-distillation: the most confident step teaches the least confident one.

        c[t] = mean_b max_k softmax(z[t])[k],   s = argmax_t c[t],   w = argmin_t c[t]
        d = tau^2 KL(softmax(z[s] / tau) || softmax(z[w] / tau))      in nats; 0 for T = 1

    z[t] is `[B, T, K]`, d `[B]`. The steps are chosen for the whole batch, as the authors do; examples share nothing
    else. Whether the factor tau^2 is theirs is not certain: it is not in their pseudocode.

    Reference: Ding et al., NeurIPS 2025, arXiv 2510.07924.
    """
    confidence = jnp.mean(jnp.max(jax.nn.softmax(_wide(logits)), axis=-1), axis=0)
    strong, weak = logits[:, jnp.argmax(confidence)], logits[:, jnp.argmin(confidence)]
    return kd_divergence(weak, strong, temperature)


def error_aware_divergence(student_logits: Array, teacher_logits: Array, labels: Array, temperature: float) -> Array:
    """SeAl-KD between teacher and student (error-aware logits alignment): wrong steps leave two classes alone.

        w = argmax_k z[t][k];  where w != y:  z'[t] = z[t] but z'[t][w] = z[t][y]
                                              zA'   = zA   but zA'[w] = zA'[y] = min(zA[w], zA[y])
        d[t] = tau^2 KL(softmax(zA' / tau) || softmax(z'[t] / tau))      in nats

    z[t] are `student_logits` `[B, T, K]`, zA `teacher_logits` `[B, 1, K]`, y `[B]`, d `[B, T]`. The gradient by z[t][y]
    is that of both classes, and there is none by z[t][w].

    Reference: SeAl-KD, arXiv 2605.14252, and its code (KaiSUN1/SeAl).
    """
    z, teacher = _wide(student_logits), jnp.broadcast_to(_wide(teacher_logits), student_logits.shape)
    classes = z.shape[-1]
    predicted, label = jnp.argmax(z, axis=-1), jnp.broadcast_to(labels[:, None], z.shape[:2])
    y, w = (jax.nn.one_hot(x, classes, dtype=bool) for x in (label, predicted))
    wrong = (predicted != label)[..., None]

    def at(x: Array, where: Array) -> Array:
        return jnp.sum(jnp.where(where, x, 0), axis=-1, keepdims=True)

    z = jnp.where(wrong & w, at(z, y), z)
    teacher = jnp.where(wrong & (w | y), jnp.minimum(at(teacher, w), at(teacher, y)), teacher)
    return kd_divergence(z, teacher, temperature)


def similar_steps_divergence(logits: Array, temperature: float) -> Array:
    """SeAl-KD between steps (similarity-aware temporal alignment): sure and similar steps teach each step.

        c[s] = 1 - H(softmax(z[s])) / log K                          confidence
        a[t, s] = softmax over s != t of c[s] cos(z[t], z[s])
        d[t] = tau^2 KL(softmax(sum_s a[t, s] z[s] / tau) || softmax(z[t] / tau))      in nats; 0 for T = 1

    z[t] is `[B, T, K]`, d `[B, T]`; no gradient flows through the target.

    Reference: SeAl-KD, arXiv 2605.14252, and its code (KaiSUN1/SeAl).
    """
    z = _wide(logits)
    steps = z.shape[1]
    if steps == 1:
        return jnp.zeros(z.shape[:2], z.dtype)
    confidence = 1 + negative_entropy(z, 1.0) / math.log(z.shape[-1])
    unit = unit_vector(z, -1)
    scores = confidence[:, None] * jnp.einsum("btk,bsk->bts", unit, unit)
    weights = jax.nn.softmax(jnp.where(jnp.eye(steps, dtype=bool), -jnp.inf, scores))
    return kd_divergence(z, jnp.einsum("bts,bsk->btk", weights, z), temperature)


def noise_smoothed_divergence(student_logits: Array, teacher_logits: Array, noise: Array, temperature: float) -> Array:
    """CKDSNN's logit loss (NLD): the student's soft labels are mixed with those of Gaussian noise.

        n = mean_k z + var_k(z) noise             var with K - 1, where a standard deviation would be expected
        d = tau^2 KL(p || 0.9 softmax(z / tau) + 0.1 softmax(n / tau))      in nats

    `noise` is standard normal, of the shape of z, `[..., K]`; the gradient flows through the variance.

    Reference: CKDSNN, AAAI 2026, arXiv 2511.06902, and its code (SinoLeu/CKDSNN).
    """
    z = _wide(student_logits)
    noisy = z.mean(axis=-1, keepdims=True) + z.var(axis=-1, ddof=1, keepdims=True) * noise
    log_p, log_q = _soft_labels(teacher_logits, z, temperature)
    log_q = jnp.logaddexp(math.log(0.9) + log_q, math.log(0.1) + _log_soft_labels(noisy, temperature))
    return temperature**2 * _expectation(log_p, log_p - log_q)


def saliency_divergence(
    student: Array, teacher: Array, kernel: Array, teacher_logits: Array, temperature: float
) -> Array:
    """CKDSNN's feature loss (SAMD): where the student is active, against where the teacher's class comes from.

        S = sum_c F[..., c]                                       spike activation map
        M = relu(sum_c A[..., c] W[c, argmax_k zA[k]])            class activation map
        x' = (x - min x) / (max x - min x + 0.001)                of either, over all pixels of the batch
        d = KL(softmax_hw(M' / tau) || softmax_hw(S' / tau))      in nats, without a factor tau^2

    F is `[B, H, W, any C]`, A the teacher's last stage `[B, H, W, C]`, W `[C, K]` the kernel of its classifier, which
    reads the mean of A over the map, and d `[B]`. Examples share the minimum and the maximum, as the authors' do.

    Reference: CKDSNN, AAAI 2026, arXiv 2511.06902, and its code (SinoLeu/CKDSNN; this divergence, which its last
    version does not define, is that of the compiled file beside it).
    """
    check_same_shape(student.shape[:3], teacher.shape[:3])
    weights = kernel.T[jnp.argmax(teacher_logits, axis=-1)]
    cam = jax.nn.relu(jnp.einsum("bhwc,bc->bhw", teacher.astype(jnp.float32), weights))
    sam = jnp.sum(student.astype(jnp.float32), axis=-1)

    def scaled(x: Array) -> Array:
        x = x - x.min()
        return (x / (x.max() + 1e-3)).reshape(len(x), -1)

    log_p, log_q = _soft_labels(scaled(cam), scaled(sam), temperature)
    return _expectation(log_p, log_p - log_q)


def _squares(student: Array, teacher: Array) -> Array:
    check_same_shape(student.shape, teacher.shape)
    return jnp.square(student - jax.lax.stop_gradient(teacher.astype(jnp.float32)))


def pooled_distance(student: Array, teacher: Array) -> Array:
    """`sum_c (mean_hw F - mean_hw A)^2`, maps of C channels to `[B]`: the loss on the last stage, and BKDSNN's.

    Reference: code of Xu et al., BKDSNN, ECCV 2024, arXiv 2407.09083, where the plain one is called KDSNN. What it
    calls LaSNN is the sum of squares over whole maps, of all stages.
    """
    pooled = (x.mean(axis=(1, 2), dtype=jnp.float32) for x in (student, teacher))
    return jnp.sum(_squares(*pooled), axis=-1)


def mean_squared_distance(student: Array, teacher: Array) -> Array:
    """`mean_hwc (F - A)^2` over maps of one shape, `[B]`: SAKD's loss of a stage; the stages are summed.

    Reference: Qiu et al., Self-architectural knowledge distillation, Neural Networks 178, 2024.
    """
    return jnp.mean(_squares(student, teacher), axis=MAP)


def attention_distance(student: Array, teacher: Array) -> Array:
    """Attention transfer: compares where two maps `[B, H, W, any C]` are active; returns float32 `[B]`.

        Q(F)[h, w] = sum_c F[h, w, c]^2
        d = sum_hw (Q(F) / ||Q(F)|| - Q(A) / ||Q(A)||)^2      in [0, 2]

    A map of zeros, or one with ||Q|| below 1e-6, has attention 0 and no gradient. The distance is that of Zagoruyko &
    Komodakis' code, but for its mean over the map, which would divide a number that does not grow with the map by the
    map's size; their equation has the norm instead of its square. That LaSNN uses this distance is a guess.

    Reference: Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928; for SNNs Hong et al., LaSNN, arXiv 2304.09101.
    """
    check_same_shape(student.shape[:3], teacher.shape[:3])
    f, a = (
        unit_vector(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1), axis=(1, 2))
        for x in (student, jax.lax.stop_gradient(teacher))
    )
    return jnp.sum(jnp.square(f - a), axis=(1, 2))


def mask_channels(key: Array, feature: Array, ratio: float) -> Array:
    """BKDSNN's blur: each channel of each example is set to 0 with probability `ratio`, the others are not rescaled.

    `feature` is F, after the connector if there is one. The authors' ratio is 0.15; a generator maps the result to the
    teacher's map. Raises `InputError` unless the ratio is in [0, 1).

    Reference: Xu et al., BKDSNN, ECCV 2024, arXiv 2407.09083, and its code.
    """
    check_in_range("ratio", ratio, 0, 1)
    batch, _, _, channels = feature.shape
    keep = jax.random.bernoulli(key, 1 - ratio, (batch, 1, 1, channels))
    return jnp.where(keep, feature, 0)
