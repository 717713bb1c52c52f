"""Loss terms: frozen dataclasses of their constants, called as `(student, teacher, labels) -> [B]`.

z[t] are the student's logits at step t, z their mean over T steps, zA the teacher's logits, y the labels. With
`per_step`, a term of z becomes the mean over t of that term of z[t]. F_i is the student's i-th stage (spikes) averaged
over time and A_i the teacher's stage paired with it, i = 1..n. A term declares what it reads of the teacher (`needs`),
the connectors that map F_i, and its largest second derivative by the biases of their norms (`curvature`), where that
may make a training diverge. The equations and their sources are in `snnkd_jax.distill.losses`.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.distill import losses
from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.losses import check_in_range, check_temperature
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs, time_mean
from snnkd_jax.errors import InputError

_NOISE = 1 << 16  # the connectors' masks are drawn from other folds of the same key


def _read_outs(student: StudentOutputs, per_step: bool) -> Array:
    """Returns z[t] or z, `[B, T or 1, K]`."""
    return student.logits if per_step else student.read_out


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """CE(z, y), the loss of direct training."""

    per_step: bool = False
    label_smoothing: float = 0.0
    needs: ClassVar = ()

    def __post_init__(self):
        check_in_range("label_smoothing", self.label_smoothing, 0, 1)

    def __call__(self, student: StudentOutputs, _: Any, labels: Array) -> Array:
        z = _read_outs(student, self.per_step)
        return losses.cross_entropy(z, labels[:, None], self.label_smoothing).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Softened:
    """Base class of terms with a softmax temperature tau."""

    temperature: float = 4.0
    needs: ClassVar = ()

    def __post_init__(self):
        check_temperature(self.temperature)


@dataclasses.dataclass(frozen=True)
class KL(Softened):
    """tau^2 KL(zA || z)."""

    per_step: bool = False
    needs: ClassVar = ("teacher",)
    divergence: ClassVar = staticmethod(losses.kd_divergence)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        z = _read_outs(student, self.per_step)
        return self.divergence(z, teacher.logits[:, None], self.temperature).mean(axis=1)


class HeadTail(KL):
    """HTA-KL: forward and reverse KL, weighted by where the student is wrong."""

    divergence = staticmethod(losses.head_tail_divergence)


class Dist(KL):
    """tau^2 (1 - correlation with zA), between classes plus between examples."""

    divergence = staticmethod(losses.dist_distance)


class Ensemble(Softened):
    """mean_t tau^2 KL(z || z[t]): the mean of all steps teaches each step; 0 for T = 1.

    So the paper of temporal decoupling has it; its code takes the mean of the correct steps, as `Sharing` does.
    """

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return losses.kd_divergence(student.logits, student.read_out, self.temperature).mean(axis=1)


class Sharing(Softened):
    """TKS: mean_t tau^2 KL(z' || z[t]), z' the mean of the correct steps."""

    def __call__(self, student: StudentOutputs, _: Any, labels: Array) -> Array:
        return losses.temporal_sharing(student.logits, labels, self.temperature).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class SelfDistillation(Softened):
    """ESD: sum_j CE(b_j, y) + share sum_j tau^2 KL(z' || b_j), b_j the logits of branch j, in the second sum z as well.

    z' is the mean of the correct ones of b_1, ..., z; an example without any has no second sum.
    """

    share: float = 0.3
    connector: ClassVar = Connector(branches=True)

    def __post_init__(self):
        super().__post_init__()
        check_in_range("share", self.share, 0, math.inf)

    def __call__(self, student: StudentOutputs, _: Any, labels: Array) -> Array:
        branches = jnp.concatenate([x[:, 0] for x in student.connected.values()], axis=1)
        taught = losses.cross_entropy(branches, labels[:, None]).sum(axis=1)
        outputs = jnp.concatenate([branches, student.read_out.astype(branches.dtype)], axis=1)
        return taught + self.share * losses.reliable_sharing(outputs, labels, self.temperature).sum(axis=1)


class SimilarSteps(Softened):
    """SeAl-KD: mean_t tau^2 KL(z'[t] || z[t]), z'[t] the mean of sure and similar other steps; 0 for T = 1."""

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return losses.similar_steps_divergence(student.logits, self.temperature).mean(axis=1)


class ErrorAware(Softened):
    """SeAl-KD: mean_t tau^2 KL(zA' || z'[t]), without the two classes that a wrong step confuses."""

    needs: ClassVar = ("teacher",)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, labels: Array) -> Array:
        d = losses.error_aware_divergence(student.logits, teacher.logits[:, None], labels, self.temperature)
        return d.mean(axis=1)


class NoiseSmoothed(Softened):
    """CKDSNN: tau^2 KL(zA || z mixed with Gaussian noise), which is drawn from the student's key."""

    needs: ClassVar = ("teacher",)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        if student.key is None:
            raise InputError("NoiseSmoothed draws noise, and student.key is None; give the student a key of jax.random")
        z = student.mean_logits
        noise = jax.random.normal(jax.random.fold_in(student.key, _NOISE), z.shape)
        return losses.noise_smoothed_divergence(z, teacher.logits, noise, self.temperature)


class StrongToWeak(Softened):
    """tau^2 KL(z[s] || z[w]): the most confident step teaches the least confident; 0 for T = 1."""

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return losses.strong_to_weak(student.logits, self.temperature)


class Entropy(Softened):
    """TSER: - mean_t H(z[t]), entropy regularisation."""

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return losses.negative_entropy(student.logits, self.temperature).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Deviation:
    """TET: `mean_tk (z[t][k] - phi)^2`."""

    phi: float = 1.0
    needs: ClassVar = ()

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return losses.logit_deviation(student.logits, self.phi).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Margin:
    """sum_i 2^(i-n) d(connector_i(F_i), A_i before the ReLU) / 1000, d the partial L2 distance.

    The margin of each channel is the mean of its negative responses in the batch.
    """

    needs: ClassVar = ("pre_activations",)
    connector: ClassVar = Connector()

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        n = len(student.connected)
        terms = [
            2.0 ** (i - n) * losses.margin_distance(x, t := teacher.pre_activations[name], losses.negative_mean(t))
            for i, (name, x) in enumerate(student.connected.items(), start=1)
        ]
        return sum(terms, jnp.zeros(())) / 1000


@dataclasses.dataclass(frozen=True)
class LastStage:
    """sum_c (connector_n(F_n) - A_n)^2, averaged over the map first; BKDSNN's generator in the connector's place."""

    needs: ClassVar = ("stages",)
    connector: ClassVar = Connector(last=True, pool=True)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        name, x = list(student.connected.items())[-1]
        return losses.pooled_distance(x, teacher.stages[name])


@dataclasses.dataclass(frozen=True)
class StageMeans:
    """C sum_i mean (connector_i(F_i) - A_i)^2, C the fewest channels of an A_i.

    The bias of a connector's norm has the curvature 2 C / C_i of this term, at most 2 whatever the width. The mean
    alone, as in SAKD's code, has 2 / C_i, which at its weight of 100 diverges in narrow networks.
    """

    needs: ClassVar = ("stages",)
    connector: ClassVar = Connector()
    curvature: ClassVar = 2.0

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        terms = (losses.mean_squared_distance(x, teacher.stages[name]) for name, x in student.connected.items())
        return min(x.shape[-1] for x in student.connected.values()) * sum(terms, jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class Attention:
    """sum_i HW / HW_i d(F_i, A_i), d the distance of spatial attention, HW the pixels of the student's largest map.

    So a later stage has a larger weight, as in the code of attention transfer, whose mean over the map has 1 / HW_i.
    """

    needs: ClassVar = ("stages",)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        largest = max(math.prod(x.shape[2:4]) for x in student.stages.values())
        terms = (
            largest / math.prod(a.shape[1:3]) * losses.attention_distance(time_mean(student.stages[name]), a)
            for name, a in teacher.stages.items()
        )
        return sum(terms, jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class Saliency(Softened):
    """CKDSNN: KL(class activation map of the teacher || spike activation map), both of the last stage."""

    needs: ClassVar = ("stages", "head")

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        assert teacher.head is not None
        last, (kernel, _) = list(teacher.stages)[-1], teacher.head
        feature = time_mean(student.stages[last])
        return losses.saliency_divergence(feature, teacher.stages[last], kernel, teacher.logits, self.temperature)


@dataclasses.dataclass(frozen=True)
class Classifier(Softened):
    """EnOF: tau^2 KL(zA || teacher's classifier applied to F), F the last stage averaged over its map."""

    needs: ClassVar = ("head",)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        assert teacher.head is not None
        feature = time_mean(list(student.stages.values())[-1]).mean(axis=(1, 2))
        return losses.classifier_divergence(feature, *teacher.head, teacher.logits, self.temperature)
