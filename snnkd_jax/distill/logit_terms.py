"""Loss terms over logits: frozen dataclasses of their constants, called as `(student, teacher, labels) -> [B]`.

z[t] are the student's logits at step t, z their mean over T steps, zA the teacher's logits, y the labels. With
`per_step`, a term of z becomes the mean over t of that term of z[t].

| term           | value                                                                                    |
| -------------- | ---------------------------------------------------------------------------------------- |
| `CrossEntropy` | CE(z, y)                                                                                 |
| `KL`           | tau^2 KL(zA || z)                                                                        |
| `HeadTail`     | forward and reverse KL, weighted by where the student is wrong                           |
| `Dist`         | tau^2 (1 - correlation with zA), between classes plus between examples                   |
| `Ensemble`     | mean_t tau^2 KL(z || z[t]): the mean of all steps teaches each step; 0 for T = 1         |
| `Sharing`      | mean_t tau^2 KL(z' || z[t]), z' the mean of the steps that are right                     |
| `StrongToWeak` | tau^2 KL(z[s] || z[w]): the most confident step teaches the least confident; 0 for T = 1 |
| `Entropy`      | - mean_t H(z[t]), entropy regularisation                                                 |
| `Deviation`    | mean_tk (z[t][k] - phi)^2                                                                |

`snnkd_jax.distill.losses` has the equations and their sources.
"""

import dataclasses
from typing import Any, ClassVar

from jax import Array

from snnkd_jax.distill.losses import (
    check_in_range,
    check_temperature,
    cross_entropy,
    dist_distance,
    head_tail_divergence,
    kd_divergence,
    logit_deviation,
    negative_entropy,
    strong_to_weak,
    temporal_sharing,
)
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs


def _read_outs(student: StudentOutputs, per_step: bool) -> Array:
    """z[t] or z, `[B, T or 1, K]`."""
    return student.logits if per_step else student.mean_logits[:, None]


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """`cross_entropy`, the loss of direct training."""

    per_step: bool = False
    label_smoothing: float = 0.0
    needs: ClassVar = ()

    def __post_init__(self):
        check_in_range("label_smoothing", self.label_smoothing, 0, 1)

    def __call__(self, student: StudentOutputs, _: Any, labels: Array) -> Array:
        z = _read_outs(student, self.per_step)
        return cross_entropy(z, labels[:, None], self.label_smoothing).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Softened:
    """The softmax temperature tau of the terms that have one."""

    temperature: float = 4.0
    needs: ClassVar = ()

    def __post_init__(self):
        check_temperature(self.temperature)


@dataclasses.dataclass(frozen=True)
class KL(Softened):
    """`kd_divergence` from the teacher's soft labels."""

    per_step: bool = False
    needs: ClassVar = ("teacher",)
    divergence: ClassVar = staticmethod(kd_divergence)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        z = _read_outs(student, self.per_step)
        return self.divergence(z, teacher.logits[:, None], self.temperature).mean(axis=1)


class HeadTail(KL):
    """`head_tail_divergence` of HTA-KL in the place of the KL divergence."""

    divergence = staticmethod(head_tail_divergence)


class Dist(KL):
    """`dist_distance` in the place of the KL divergence."""

    divergence = staticmethod(dist_distance)


class Ensemble(Softened):
    """`kd_divergence` of each step from the mean of all steps."""

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return kd_divergence(student.logits, _read_outs(student, per_step=False), self.temperature).mean(axis=1)


class Sharing(Softened):
    """`temporal_sharing` of TKS."""

    def __call__(self, student: StudentOutputs, _: Any, labels: Array) -> Array:
        return temporal_sharing(student.logits, labels, self.temperature).mean(axis=1)


class StrongToWeak(Softened):
    """`strong_to_weak`, self-distillation between two steps."""

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return strong_to_weak(student.logits, self.temperature)


class Entropy(Softened):
    """`negative_entropy` of TSER."""

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return negative_entropy(student.logits, self.temperature).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class Deviation:
    """`logit_deviation` of TET."""

    phi: float = 1.0
    needs: ClassVar = ()

    def __call__(self, student: StudentOutputs, *_: Any) -> Array:
        return logit_deviation(student.logits, self.phi).mean(axis=1)
