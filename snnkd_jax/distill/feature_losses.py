"""Loss terms over feature maps `[B, H, W, C]`, one value an example; the logit terms are in `snnkd_jax.distill.losses`.

F is the student's map, its mean over time, and A the teacher's; no gradient flows into A. Sums and means are in float32
whatever the type of the maps. Maps of different sizes raise `InputError`: they would be broadcast.
"""

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.distill.losses import check_in_range, check_same_shape, unit_vector

MAP = (1, 2, 3)  # axes of one example


def _squares(student: Array, teacher: Array) -> Array:
    check_same_shape(student.shape, teacher.shape)
    return jnp.square(student - jax.lax.stop_gradient(teacher.astype(jnp.float32)))


def squared_distance(student: Array, teacher: Array) -> Array:
    """`sum_hwc (F - A)^2` over maps of one shape, `[B]`: the plain feature loss on the last stage, and BKDSNN's.

    Reference: the code of Xu et al., BKDSNN, ECCV 2024, arXiv 2407.09083, which calls the plain one KDSNN.
    """
    return jnp.sum(_squares(student, teacher), axis=MAP)


def mean_squared_distance(student: Array, teacher: Array) -> Array:
    """`mean_hwc (F - A)^2` over maps of one shape, `[B]`: SAKD's loss of a stage; the stages are summed.

    Reference: Qiu et al., Self-architectural knowledge distillation, Neural Networks 178, 2024.
    """
    return jnp.mean(_squares(student, teacher), axis=MAP)


def attention_distance(student: Array, teacher: Array) -> Array:
    """Attention transfer: compares where two maps are active, whatever their numbers of channels.

        Q(F)[h, w] = sum_c F[h, w, c]^2
        d = mean_hw (Q(F) / ||Q(F)|| - Q(A) / ||Q(A)||)^2

    A map of zeros, or one with ||Q|| below 1e-6, has the attention 0 and no gradient. The distance is that of Zagoruyko
    & Komodakis' code; their equation has the norm instead of its square. That LaSNN's distance is this one is a guess.

    Args:
        student: F, `[B, H, W, C]`.
        teacher: A, `[B, H, W, C']`; no gradient flows into it.

    Returns:
        d, float32 `[B]`.

    Reference: Zagoruyko & Komodakis, ICLR 2017, arXiv 1612.03928; for SNNs Hong et al., LaSNN, arXiv 2304.09101.
    """
    check_same_shape(student.shape[:3], teacher.shape[:3])
    f, a = (
        unit_vector(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1), axis=(1, 2))
        for x in (student, jax.lax.stop_gradient(teacher))
    )
    return jnp.mean(jnp.square(f - a), axis=(1, 2))


def mask_channels(key: Array, feature: Array, ratio: float) -> Array:
    """BKDSNN's blur: each channel of each example is set to 0 with probability `ratio`, the others are not rescaled.

    The authors take ratio 0.15. What is left goes through a generator, whose output `squared_distance` compares with
    the teacher's map.

    Args:
        key: of `jax.random`, a fresh one every step.
        feature: F, `[B, H, W, C]`, after the connector, where there is one.
        ratio: in [0, 1).

    Returns:
        The masked feature, `[B, H, W, C]`.

    Raises:
        InputError: for another ratio.

    Reference: Xu et al., BKDSNN, ECCV 2024, arXiv 2407.09083, and its code.
    """
    check_in_range("ratio", ratio, 0, 1)
    batch, _, _, channels = feature.shape
    keep = jax.random.bernoulli(key, 1 - ratio, (batch, 1, 1, channels))
    return jnp.where(keep, feature, 0)
