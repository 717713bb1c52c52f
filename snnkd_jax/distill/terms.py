"""Loss terms: frozen dataclasses of their constants, called as `(student, teacher, labels) -> [B]`.

z[t] are the student's logits at step t, z their mean over T steps, zA the teacher's logits, y the labels. With
`per_step`, a term of z becomes the mean over t of that term of z[t]. F_i is the student's i-th stage (spikes) averaged
over time and A_i the teacher's stage paired with it, i = 1..n. A term declares what it reads of the teacher (`needs`)
and the connectors that map F_i. The equations and their sources are in `snnkd_jax.distill.losses`.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from snnkd_jax.distill import losses
from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.losses import check_in_range, check_temperature
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs, time_mean


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
    """mean_t tau^2 KL(z || z[t]): the mean of all steps teaches each step; 0 for T = 1."""

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return losses.kd_divergence(student.logits, student.read_out, self.temperature).mean(axis=1)


class Sharing(Softened):
    """TKS: mean_t tau^2 KL(z' || z[t]), z' the mean of the correct steps."""

    def __call__(self, student: StudentOutputs, _: Any, labels: Array) -> Array:
        return losses.temporal_sharing(student.logits, labels, self.temperature).mean(axis=1)


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
    """sum (connector_n(F_n) - A_n)^2; with BKDSNN's generator, its output in the connector's place."""

    needs: ClassVar = ("stages",)
    connector: ClassVar = Connector(last=True)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        name, x = list(student.connected.items())[-1]
        return losses.squared_distance(x, teacher.stages[name])


@dataclasses.dataclass(frozen=True)
class StageMeans:
    """sum_i mean (connector_i(F_i) - A_i)^2."""

    needs: ClassVar = ("stages",)
    connector: ClassVar = Connector()

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        terms = (losses.mean_squared_distance(x, teacher.stages[name]) for name, x in student.connected.items())
        return sum(terms, jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class Attention:
    """sum_i of the distance between the spatial attention of F_i and of A_i, whatever their numbers of channels."""

    needs: ClassVar = ("stages",)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        terms = (losses.attention_distance(time_mean(student.stages[name]), a) for name, a in teacher.stages.items())
        return sum(terms, jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class Classifier(Softened):
    """EnOF: tau^2 KL(zA || teacher's classifier applied to F), F the last stage averaged over its map."""

    needs: ClassVar = ("head",)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        assert teacher.head is not None
        feature = time_mean(list(student.stages.values())[-1]).mean(axis=(1, 2))
        return losses.classifier_divergence(feature, *teacher.head, teacher.logits, self.temperature)
