"""The inputs of a loss term: the outputs of a student and of its teacher for a batch of B images."""

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Maps = Mapping[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StudentOutputs:
    """A student's outputs, for T time steps and K classes; an ANN has T = 1. Stages are in forward order."""

    logits: Array  # [B, T, K]
    read_out: Array  # [B, 1, K], the mean over time, computed once for all terms
    stages: Maps = dataclasses.field(default_factory=dict)  # [B, T or 1, H, W, C] by name: spikes or their time mean
    pre_activations: Maps = dataclasses.field(default_factory=dict)  # the same before the activation
    firing_rates: Maps = dataclasses.field(default_factory=dict)  # [B] by layer: spikes per neuron and step
    connected: Maps = dataclasses.field(default_factory=dict)  # [B, H, W, C] by stage: time means after the connector
    key: Array | None = None  # of terms that draw noise, a new one in each step of training

    @property
    def mean_logits(self) -> Array:
        """The logits averaged over time, `[B, K]`."""
        return self.read_out[:, 0]

    @classmethod
    def of(cls, logits: Array, features: Mapping[str, Any]) -> "StudentOutputs":
        """Wraps what a network returns; an ANN's logits `[B, K]` and stages `[B, H, W, C]` become one time step."""
        maps = {
            kind: OrderedDict((name, x if x.ndim == 5 else x[:, None]) for name, x in features.get(kind, {}).items())
            for kind in ("stages", "pre_activations")
        }
        logits = logits if logits.ndim == 3 else logits[:, None]
        read_out, firing_rates = logits.mean(axis=1, keepdims=True), features.get("firing_rates", {})
        return cls(logits, read_out, maps["stages"], maps["pre_activations"], firing_rates)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's outputs, float32, without a gradient; empty or None, except logits, if no term declares them."""

    logits: Array  # [B, K]
    stages: Maps = dataclasses.field(default_factory=dict)  # [B, H, W, C] by the name of the paired student stage
    pre_activations: Maps = dataclasses.field(default_factory=dict)  # the same before the teacher's activation
    head: tuple[Array, Array] | None = None  # kernel [C, K] and bias [K] of the teacher's classifier


def time_mean(stage: Array) -> Array:
    """Averages a stage of the student over time, `[B, T, H, W, C]` to `[B, H, W, C]`, in float32."""
    return stage.mean(axis=1).astype(jnp.float32)
