"""Loss terms over features: frozen dataclasses of their constants, called as `(student, teacher, labels) -> [B]`.

F_i is the student's i-th stage (spikes) averaged over time and A_i the teacher's that is paired with it, i = 1..n; zA
are the teacher's logits. A term declares what it reads of the teacher (`needs`) and the connectors that map F_i.

| term         | value                                                                                             |
| ------------ | ------------------------------------------------------------------------------------------------- |
| `Margin`     | sum_i 2^(i-n) d(connector_i(F_i), A_i before the ReLU) / 1000, d the partial L2 distance          |
| `LastStage`  | sum (connector_n(F_n) - A_n)^2; with BKDSNN's generator, its output in the connector's place      |
| `StageMeans` | sum_i mean (connector_i(F_i) - A_i)^2                                                             |
| `Attention`  | sum_i of the distance between the spatial attention of F_i and of A_i                             |
| `Classifier` | tau^2 KL(zA || the teacher's classifier applied to F, the student's last stage averaged over its map) |

`snnkd_jax.distill.losses` and `snnkd_jax.distill.feature_losses` have the equations and their sources.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.feature_losses import attention_distance, mean_squared_distance, squared_distance
from snnkd_jax.distill.logit_terms import Softened
from snnkd_jax.distill.losses import classifier_divergence, margin_distance, negative_mean
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs, time_mean


@dataclasses.dataclass(frozen=True)
class Margin:
    """`margin_distance`, the margin of each channel being the mean of its negative responses in the batch."""

    needs: ClassVar = ("pre_activations",)
    connector: ClassVar = Connector()

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        n = len(student.connected)
        terms = [
            2.0 ** (i - n) * margin_distance(x, t := teacher.pre_activations[name], negative_mean(t))
            for i, (name, x) in enumerate(student.connected.items(), start=1)
        ]
        return sum(terms, jnp.zeros(())) / 1000


@dataclasses.dataclass(frozen=True)
class LastStage:
    """`squared_distance` of the last pair."""

    needs: ClassVar = ("stages",)
    connector: ClassVar = Connector(last=True)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        last = max(student.connected)
        return squared_distance(student.connected[last], teacher.stages[last])


@dataclasses.dataclass(frozen=True)
class StageMeans:
    """`mean_squared_distance`, summed over the pairs."""

    needs: ClassVar = ("stages",)
    connector: ClassVar = Connector()

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        terms = (mean_squared_distance(x, teacher.stages[name]) for name, x in student.connected.items())
        return sum(terms, jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class Attention:
    """`attention_distance`, summed over the pairs; it compares maps of any numbers of channels, without connectors."""

    needs: ClassVar = ("stages",)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        terms = (attention_distance(time_mean(student.stages[name]), a) for name, a in teacher.stages.items())
        return sum(terms, jnp.zeros(()))


@dataclasses.dataclass(frozen=True)
class Classifier(Softened):
    """`classifier_divergence` of EnOF."""

    needs: ClassVar = ("head",)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs, _: Array) -> Array:
        assert teacher.head is not None
        feature = time_mean(student.stages[max(student.stages)]).mean(axis=(1, 2))
        return classifier_divergence(feature, *teacher.head, teacher.logits, self.temperature)
