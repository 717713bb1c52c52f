"""Distillation objectives: which loss terms guide the student, with which weights.

`z[t]` are the student's logits at step t, `z` their mean over T steps, `zA` the teacher's logits, y the labels:

    ce         CE(z, y)                                  or mean_t CE(z[t], y) with `per_step`
    kd         tau^2 KL(zA || z)                         or mean_t tau^2 KL(zA || z[t]) with `per_step`
    ensemble   mean_t tau^2 KL(z || z[t])                the mean of all steps teaches each one
    feature    sum_i 2^(i-n) d(connector_i(mean_t F_i), A_i) / 1000,   i = 1..n

F_i are the student's stage outputs (spikes), A_i the teacher's pre-ReLU stage ends, d the margin distance of
`snnkd_jax.losses`. Stages are paired by the size of their maps. The loss is the weighted sum of the terms' means over
the batch.

| preset           | source                                                                                     |
| ---------------- | ------------------------------------------------------------------------------------------ |
| `none`           | direct training, no teacher                                                                |
| `kdsnn-response` | KDSNN, CVPR 2023, arXiv 2304.05627; the weights and the temperature are guesses            |
| `kdsnn-feature`  | the same; the distance is a guess at what the paper means (Heo et al. 2019), its weight    |
|                  | the largest that did no harm on the validation split of `digits`                           |
| `kdsnn`          | the sum of both                                                                            |
| `temporal`       | temporal decoupling, ICML 2025, arXiv 2501.15925, weights as published                     |

Departure from Heo et al.: the margin is the mean of the negative responses in the batch, not the one that the
teacher's batch-norm parameters predict; it needs nothing of the teacher but its features.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from snnkd_jax.errors import InputError
from snnkd_jax.losses import cross_entropy, kd_divergence, margin_distance, negative_mean


@dataclasses.dataclass(frozen=True)
class Objective:
    """Weights of the loss terms; a term of weight 0 is not computed. Raises `InputError` for values out of range."""

    ce_weight: float = 1.0
    kd_weight: float = 0.0
    ensemble_weight: float = 0.0
    feature_weight: float = 0.0
    temperature: float = 4.0
    per_step: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self):
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"{name}_weight={weight!r} must be a finite number >= 0")
        if not any(self.weights.values()):
            raise InputError("every loss weight is 0; give ce_weight, kd_weight or feature_weight a positive value")
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature={self.temperature!r} must be a positive finite number")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing={self.label_smoothing!r} must be in [0, 1)")

    @property
    def weights(self) -> dict[str, float]:
        """Term name to weight."""
        names = ("ce", "kd", "ensemble", "feature")
        return {name: getattr(self, f"{name}_weight") for name in names}

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with the teacher."""
        return self.kd_weight > 0 or self.feature_weight > 0


PRESETS: dict[str, Objective] = {
    "none": Objective(),
    "kdsnn-response": Objective(ce_weight=0.5, kd_weight=0.5),
    "kdsnn-feature": Objective(feature_weight=0.03),
    "kdsnn": Objective(ce_weight=0.5, kd_weight=0.5, feature_weight=0.03),
    "temporal": Objective(kd_weight=0.2, ensemble_weight=0.5, temperature=3.0, per_step=True),
}


def pair_stages(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, str]:
    """Student stage to teacher stage by equal map size, the teacher's last of that size; others are left out.

    Args:
        student: stage outputs, `[..., H, W, C]` each (arrays or shapes).
        teacher: stage currents, `[..., H, W, C]` each.

    Raises:
        InputError: if no two stages have maps of the same size.
    """
    by_size = {x.shape[-3:-1]: name for name, x in teacher.items()}
    pairs = {name: by_size[x.shape[-3:-1]] for name, x in student.items() if x.shape[-3:-1] in by_size}
    if not pairs:
        raise InputError("no stage of the student has a map of the size of one of the teacher's; use a logit preset")
    return pairs


def loss_terms(
    objective: Objective,
    logits: Array,
    labels: Array,
    teacher_logits: Array | None = None,
    features: list[tuple[Array, Array]] | None = None,
) -> dict[str, Array]:
    """The terms of the table above, unweighted, one value an example.

    Args:
        objective: a term is computed if its weight is positive.
        logits: z[t], `[B, T, K]`.
        labels: y, `[B]`.
        teacher_logits: zA, `[B, K]`.
        features: pairs of (connector output, teacher current), `[B, H, W, C]` each, first stage first.

    Returns:
        Term name to `[B]`.
    """
    mean_logits = logits.mean(axis=1)
    z = logits if objective.per_step else mean_logits[:, None]
    terms = {}
    if objective.ce_weight:
        terms["ce"] = cross_entropy(z, labels[:, None], objective.label_smoothing).mean(axis=1)
    if objective.kd_weight:
        assert teacher_logits is not None
        terms["kd"] = kd_divergence(z, teacher_logits[:, None], objective.temperature).mean(axis=1)
    if objective.ensemble_weight:
        terms["ensemble"] = kd_divergence(logits, mean_logits[:, None], objective.temperature).mean(axis=1)
    if objective.feature_weight:
        assert features
        n = len(features)
        distances = [margin_distance(s, t, negative_mean(t)) for s, t in features]
        weights = [2.0 ** (i - n) for i in range(1, n + 1)]
        terms["feature"] = sum(w * d for w, d in zip(weights, distances, strict=True)) / 1000
    return terms


def weighted_sum(objective: Objective, terms: dict[str, Array]) -> Array:
    """The loss: the sum over the terms of weight times mean over the batch, a scalar."""
    return sum((objective.weights[name] * term.mean() for name, term in terms.items()), jnp.zeros(()))
