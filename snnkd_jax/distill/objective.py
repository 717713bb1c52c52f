"""Distillation objectives: which loss terms guide the student, with which weights.

`z[t]` are the student's logits at step t, `z` their mean over T steps, `zA` the teacher's logits, y the labels, F_i the
student's stage outputs (spikes) averaged over time, A_i the teacher's. A loss has up to four terms; the last three are
of a kind. With `per_step`, `ce` and `kd` are means over t of the term of z[t] instead of the term of z.

| term      | kind          | value                                                                                  |
| --------- | ------------- | -------------------------------------------------------------------------------------- |
| `ce`      |               | CE(z, y)                                                                               |
| `kd`      | `kl`          | tau^2 KL(zA || z)                                                                      |
|           | `head-tail`   | forward and reverse KL, weighted by where the student is wrong                         |
|           | `dist`        | tau^2 (1 - correlation with zA), between classes plus between examples                 |
| `steps`   | `ensemble`    | mean_t tau^2 KL(z || z[t]): the mean of all steps teaches each one                     |
|           | `sharing`     | mean_t tau^2 KL(z' || z[t]): the mean of the steps that are right does                 |
|           | `strong2weak` | tau^2 KL(z[s] || z[w]): the most confident step teaches the least; `weak2strong`       |
|           | `entropy`     | - mean_t H(z[t]): no step is to be too sure                                            |
|           | `deviation`   | mean_tk (z[t] - 1)^2                                                                   |
| `feature` | `margin`      | sum_i 2^(i-n) d(connector_i(F_i), A_i before the ReLU) / 1000, i = 1..n, d partial L2  |
|           | `last`        | sum (connector_n(F_n) - A_n)^2                                                         |
|           | `stages`      | sum_i mean (connector_i(F_i) - A_i)^2                                                  |
|           | `attention`   | sum_i of the distance between where F_i and A_i are active                             |
|           | `blur`        | sum (generator(connector_n(F_n) with channels blanked) - A_n)^2                        |
|           | `classifier`  | tau^2 KL(zA || F_n, averaged over the map, read by the teacher's classifier)           |

`snnkd_jax.distill.losses` and `snnkd_jax.distill.feature_losses` have the equations. Stages are paired by the size of
their maps; n is the last pair. The loss is the weighted sum of the terms' means over the batch. With T = 1, `ensemble`,
`strong2weak` and `weak2strong` are 0.

| preset           | source                               | weights and temperature                                  |
| ---------------- | ------------------------------------ | -------------------------------------------------------- |
| `none`           | direct training, no teacher          |                                                          |
| `kdsnn-response` | KDSNN, CVPR 2023, 2304.05627         | a guess                                                  |
| `kdsnn-feature`  | the same, read as Heo et al. 2019    | a guess: the largest that did no harm on `digits`        |
| `kdsnn`          | both: response and its `feature`     | as theirs                                                |
| `kdsnn-last`     | what others call KDSNN               | BKDSNN's code, ImageNet                                  |
| `lasnn`          | LaSNN 2023, 2304.09101               | attention transfer's code; that LaSNN has them: a guess  |
| `sakd`           | SAKD, Neural Networks 2024           | its code, CIFAR; goes with initial_weights="teacher"     |
| `bkdsnn`         | BKDSNN, ECCV 2024, 2407.09083        | its code, CIFAR-10; its `kd` term weighs the examples    |
| `enof`           | EnOF, NeurIPS 2024                   | a guess; it also has a ReLU as the last activation       |
| `tet`            | TET, ICLR 2022, 2202.11946           | its code, CIFAR10-DVS                                    |
| `temporal`       | temporal decoupling, ICML 2025,      | published, CIFAR                                         |
|                  | 2501.15925                           |                                                          |
| `tks`            | TKS 2024, 2304.06540                 | the mean over training of its schedule from 0 to 0.7     |
| `tser`           | TSER, CVPR 2025, 2503.03144          | a guess                                                  |
| `hta-kl`         | HTA-KL 2025, 2504.20445              | a guess, of the term too                                 |
| `dist`           | DIST, NeurIPS 2022, 2205.10536       | its code, CIFAR-100                                      |
| `strong2weak`    | Strong2Weak, NeurIPS 2025,           | as reported by others                                    |
|                  | 2510.07924                           |                                                          |

Departures. Heo et al.: the margin is the mean of the negative responses in the batch, not the one that the teacher's
batch-norm parameters predict; it needs nothing of the teacher but its features. Connectors are 1x1 convolutions with
batch norm for all methods, and BKDSNN's generator has no biases; its weight is that of its Spikingformer. SAKD's code
gives its KL the weight 0. TET: phi is 1, whatever the threshold is. Codes that could be read were those of BKDSNN,
SAKD, TET, TKS, DIST and temporal decoupling.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax.numpy as jnp
from jax import Array

from snnkd_jax.distill.feature_losses import attention_distance, mean_squared_distance, squared_distance
from snnkd_jax.distill.losses import (
    check_in_range,
    check_temperature,
    classifier_divergence,
    cross_entropy,
    head_tail_divergence,
    inter_class_distance,
    intra_class_distance,
    kd_divergence,
    logit_deviation,
    margin_distance,
    negative_entropy,
    negative_mean,
    strong_to_weak,
    temporal_sharing,
    weak_to_strong,
)
from snnkd_jax.errors import InputError, check_choice

KD = Literal["kl", "head-tail", "dist"]
Steps = Literal["ensemble", "sharing", "strong2weak", "weak2strong", "entropy", "deviation"]
Feature = Literal["margin", "last", "stages", "attention", "blur", "classifier"]


@dataclasses.dataclass(frozen=True)
class Objective:
    """Kinds and weights of the loss terms; a term of weight 0 is not computed.

    Raises `InputError` for unknown kinds and values out of range.
    """

    ce_weight: float = 1.0
    kd_weight: float = 0.0
    steps_weight: float = 0.0
    feature_weight: float = 0.0
    temperature: float = 4.0
    per_step: bool = False
    label_smoothing: float = 0.0
    kd: KD = "kl"
    steps: Steps = "ensemble"
    feature: Feature = "margin"

    def __post_init__(self):
        for name, kinds in (("kd", KD), ("steps", Steps), ("feature", Feature)):
            check_choice(name, getattr(self, name), get_args(kinds))
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise InputError(f"{name}_weight={weight!r} must be a finite number >= 0")
        if not any(self.weights.values()):
            raise InputError(
                "every loss weight is 0; give ce_weight, kd_weight, steps_weight or feature_weight a positive value"
            )
        check_temperature(self.temperature)
        check_in_range("label_smoothing", self.label_smoothing, 0, 1)

    @property
    def weights(self) -> dict[str, float]:
        """Term name to weight."""
        names = ("ce", "kd", "steps", "feature")
        return {name: getattr(self, f"{name}_weight") for name in names}

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with the teacher."""
        return self.kd_weight > 0 or self.feature_weight > 0

    @property
    def compares_stages(self) -> bool:
        """Whether stages of the student are compared with the teacher's."""
        return self.feature_weight > 0 and self.feature != "classifier"

    @property
    def teacher_features(self) -> Literal["stages", "pre_activations"]:
        """Which of the teacher's stage ends are compared: after the activation, or before it."""
        return "pre_activations" if self.feature == "margin" else "stages"

    @property
    def reads_with_head(self) -> bool:
        """Whether the teacher's classifier reads the student."""
        return self.feature_weight > 0 and self.feature == "classifier"


PRESETS: dict[str, Objective] = {
    "none": Objective(),
    "kdsnn-response": Objective(ce_weight=0.5, kd_weight=0.5),
    "kdsnn-feature": Objective(feature_weight=0.03),
    "kdsnn": Objective(ce_weight=0.5, kd_weight=0.5, feature_weight=0.03),
    "kdsnn-last": Objective(feature="last", feature_weight=7e-5),
    "lasnn": Objective(feature="attention", feature_weight=1e3),
    "sakd": Objective(feature="stages", feature_weight=100.0),
    "bkdsnn": Objective(kd_weight=1.0, temperature=2.0, feature="blur", feature_weight=2e-3),
    "enof": Objective(feature="classifier", feature_weight=1.0),
    "tet": Objective(ce_weight=0.999, steps="deviation", steps_weight=0.001, per_step=True),
    "temporal": Objective(kd_weight=0.2, steps_weight=0.5, temperature=3.0, per_step=True),
    "tks": Objective(ce_weight=0.65, steps="sharing", steps_weight=0.35, temperature=3.0),
    "tser": Objective(ce_weight=0.5, kd_weight=0.5, steps="entropy", steps_weight=0.1, per_step=True),
    "hta-kl": Objective(kd="head-tail", kd_weight=1.0),
    "dist": Objective(kd="dist", kd_weight=2.0),
    "strong2weak": Objective(steps="strong2weak", steps_weight=1.0, temperature=2.0),
}


def presets_of_logits() -> str:
    """The presets that read nothing of a teacher but its logits, as "a, b or c"."""
    *names, last = [name for name, x in PRESETS.items() if x.needs_teacher and not x.feature_weight]
    return f"{', '.join(names)} or {last}"


@dataclasses.dataclass(frozen=True)
class StagePair:
    """The end of a stage of the student and of the teacher, `[B, H, W, C]` each, averaged over time.

    `connected` is the student's through its connector, which has the teacher's channels, and for the kind `blur`
    through the generator; None where the kind of feature term needs none. `teacher` is before the activation for the
    kind `margin`, and after it for the others.
    """

    student: Array
    connected: Array | None
    teacher: Array


@dataclasses.dataclass(frozen=True)
class Guidance:
    """What the teacher gives: logits `[B, K]`, paired stages, first stage first, and the head `(kernel, bias)`.

    `last` is the student's last stage, `[B, H, W, C]`, which the kind `classifier` reads with the teacher's head.
    """

    logits: Array
    pairs: tuple[StagePair, ...] = ()
    last: Array | None = None
    head: tuple[Array, Array] | None = None


def _kl(objective: Objective, z: Array, teacher_logits: Array) -> Array:
    return kd_divergence(z, teacher_logits, objective.temperature)


def _head_tail(objective: Objective, z: Array, teacher_logits: Array) -> Array:
    return head_tail_divergence(z, teacher_logits, objective.temperature)


def _dist(objective: Objective, z: Array, teacher_logits: Array) -> Array:
    intra = intra_class_distance(z, teacher_logits, objective.temperature)
    return inter_class_distance(z, teacher_logits, objective.temperature) + intra.mean(axis=-1)


_KD_TERMS: dict[str, Callable[[Objective, Array, Array], Array]] = {
    "kl": _kl,
    "head-tail": _head_tail,
    "dist": _dist,
}
"""Kind to a function of z `[B, T, K]` and zA `[B, 1, K]` that returns `[B, T]`."""


def _ensemble(objective: Objective, logits: Array, labels: Array) -> Array:
    del labels
    return kd_divergence(logits, logits.mean(axis=1, keepdims=True), objective.temperature)


_STEPS_TERMS: dict[str, Callable[[Objective, Array, Array], Array]] = {
    "ensemble": _ensemble,
    "sharing": lambda objective, logits, labels: temporal_sharing(logits, labels, objective.temperature),
    "strong2weak": lambda objective, logits, _: strong_to_weak(logits, objective.temperature)[:, None],
    "weak2strong": lambda objective, logits, _: weak_to_strong(logits, objective.temperature)[:, None],
    "entropy": lambda objective, logits, _: negative_entropy(logits, objective.temperature),
    "deviation": lambda _objective, logits, _labels: logit_deviation(logits, 1.0),
}
"""Kind to a function of z[t] `[B, T, K]` and y `[B]` that returns `[B, T]` or `[B, 1]`."""


def _margin(objective: Objective, guidance: Guidance) -> Array:
    del objective
    n = len(guidance.pairs)
    terms = [
        2.0 ** (i - n) * margin_distance(_connected(pair), pair.teacher, negative_mean(pair.teacher))
        for i, pair in enumerate(guidance.pairs, start=1)
    ]
    return sum(terms, jnp.zeros(())) / 1000


def _last(objective: Objective, guidance: Guidance) -> Array:
    del objective
    pair = guidance.pairs[-1]
    return squared_distance(_connected(pair), pair.teacher)


def _stages(objective: Objective, guidance: Guidance) -> Array:
    del objective
    return sum((mean_squared_distance(_connected(pair), pair.teacher) for pair in guidance.pairs), jnp.zeros(()))


def _attention(objective: Objective, guidance: Guidance) -> Array:
    del objective
    return sum((attention_distance(pair.student, pair.teacher) for pair in guidance.pairs), jnp.zeros(()))


def _classifier(objective: Objective, guidance: Guidance) -> Array:
    assert guidance.last is not None
    assert guidance.head is not None
    feature = guidance.last.mean(axis=(1, 2))
    return classifier_divergence(feature, *guidance.head, guidance.logits, objective.temperature)


def _connected(pair: StagePair) -> Array:
    assert pair.connected is not None
    return pair.connected


_FEATURE_TERMS: dict[str, Callable[[Objective, Guidance], Array]] = {
    "margin": _margin,
    "last": _last,
    "stages": _stages,
    "attention": _attention,
    "blur": _last,  # what the student's stage is connected by is another thing
    "classifier": _classifier,
}
"""Kind to a function that returns `[B]`."""


def loss_terms(
    objective: Objective, logits: Array, labels: Array, guidance: Guidance | None = None
) -> dict[str, Array]:
    """The terms of the table above, unweighted, one value an example.

    Args:
        objective: a term is computed if its weight is positive.
        logits: z[t], `[B, T, K]`.
        labels: y, `[B]`.
        guidance: of the teacher; required by the terms `kd` and `feature`.

    Returns:
        Term name to `[B]`.
    """
    z = logits if objective.per_step else logits.mean(axis=1, keepdims=True)
    terms = {}
    if objective.ce_weight:
        terms["ce"] = cross_entropy(z, labels[:, None], objective.label_smoothing).mean(axis=1)
    if objective.steps_weight:
        terms["steps"] = _STEPS_TERMS[objective.steps](objective, logits, labels).mean(axis=1)
    if objective.needs_teacher:
        assert guidance is not None
        if objective.kd_weight:
            terms["kd"] = _KD_TERMS[objective.kd](objective, z, guidance.logits[:, None]).mean(axis=1)
        if objective.feature_weight:
            terms["feature"] = _FEATURE_TERMS[objective.feature](objective, guidance)
    return terms


def weighted_sum(objective: Objective, terms: dict[str, Array]) -> Array:
    """The loss: the sum over the terms of weight times mean over the batch, a scalar."""
    return sum((objective.weights[name] * term.mean() for name, term in terms.items()), jnp.zeros(()))


def pair_stages(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, str]:
    """Student stage to teacher stage by equal map size, the teacher's last of that size; others are left out.

    Args:
        student: stage outputs, `[..., H, W, C]` each (arrays or shapes).
        teacher: stage ends, `[..., H, W, C]` each.

    Raises:
        InputError: if no two stages have maps of the same size.
    """
    by_size = {x.shape[-3:-1]: name for name, x in teacher.items()}
    pairs = {name: by_size[x.shape[-3:-1]] for name, x in student.items() if x.shape[-3:-1] in by_size}
    if not pairs:
        raise InputError("no stage of the student has a map of the size of one of the teacher's; use a logit preset")
    return pairs
