"""The inputs of a loss term: the outputs of a student and of its teacher for a batch of B images."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Maps = Mapping[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StudentOutputs:
    """A student's outputs, for T time steps and K classes; an ANN has T = 1. Names of stages are in forward order.

    | value             | shape                                                                            |
    | ----------------- | -------------------------------------------------------------------------------- |
    | `logits`          | `[B, T, K]`                                                                      |
    | `mean_logits`     | `[B, K]`, their mean over time                                                   |
    | `read_out`        | `[B, 1, K]`, the same, computed once for all terms                               |
    | `stages`          | name to `[B, T or 1, H, W, C]`, stage outputs: spikes, or their mean over time   |
    | `pre_activations` | name to `[B, T or 1, H, W, C]`, stages before the activation                     |
    | `firing_rates`    | layer to `[B]`, spikes per neuron and step                                       |
    | `connected`       | stage to `[B, H, W, C]`, its mean over time through the connector of this term   |
    """

    logits: Array
    read_out: Array
    stages: Maps = dataclasses.field(default_factory=dict)
    pre_activations: Maps = dataclasses.field(default_factory=dict)
    firing_rates: Maps = dataclasses.field(default_factory=dict)
    connected: Maps = dataclasses.field(default_factory=dict)

    @property
    def mean_logits(self) -> Array:
        """The logits averaged over time, `[B, K]`."""
        return self.read_out[:, 0]

    @classmethod
    def of(cls, logits: Array, features: Mapping[str, Any]) -> "StudentOutputs":
        """Wraps what a network returns; an ANN's logits `[B, K]` and stages `[B, H, W, C]` become one time step."""
        maps = {
            kind: {name: x if x.ndim == 5 else x[:, None] for name, x in features.get(kind, {}).items()}
            for kind in ("stages", "pre_activations")
        }
        logits = logits if logits.ndim == 3 else logits[:, None]
        return cls(logits, logits.mean(axis=1, keepdims=True), **maps, firing_rates=features.get("firing_rates", {}))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's outputs, float32, without a gradient; empty or None, except logits, if no term declares them.

    | value             | shape                                                                            |
    | ----------------- | -------------------------------------------------------------------------------- |
    | `logits`          | `[B, K]`                                                                         |
    | `stages`          | name of the paired stage of the student to `[B, H, W, C]`, the teacher's output  |
    | `pre_activations` | likewise, before the teacher's activation                                        |
    | `head`            | `(kernel [C, K], bias [K])` of the teacher's classifier                          |
    """

    logits: Array
    stages: Maps = dataclasses.field(default_factory=dict)
    pre_activations: Maps = dataclasses.field(default_factory=dict)
    head: tuple[Array, Array] | None = None


def time_mean(stage: Array) -> Array:
    """Averages a stage of the student over time, `[B, T, H, W, C]` to `[B, H, W, C]`, in float32."""
    return stage.mean(axis=1).astype(jnp.float32)
