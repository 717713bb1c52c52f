"""The objective section of a configuration."""

import dataclasses
import math
from typing import TYPE_CHECKING

from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.runs.option import Section

if TYPE_CHECKING:
    from snnkd_jax.distill.objective import Objective

PRESETS = ("none", "kdsnn-response", "kdsnn-feature", "kdsnn", "kdsnn-last", "lasnn", "sakd", "bkdsnn", "enof")
PRESETS += ("tet", "temporal", "tks", "tser", "hta-kl", "dist", "strong2weak", "esd", "seal", "ckdsnn")
"""The keys of `distill.presets.PRESETS`, without importing JAX."""

WEIGHTS = ("ce_weight", "kd_weight", "steps_weight", "feature_weight")


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Section):
    """The distillation objective: a preset, and weights and constants that override its own."""

    preset: str = "kdsnn-feature"
    """none, kdsnn-response, kdsnn-feature, kdsnn (both), kdsnn-last, lasnn, sakd, bkdsnn, enof,
    tet, temporal, tks, tser, hta-kl, dist, strong2weak, esd, seal or ckdsnn."""
    ce_weight: float | None = None
    """Weight of the cross-entropy; None: the preset's."""
    kd_weight: float | None = None
    """Weight of the distillation loss on the teacher's soft labels; None: the preset's."""
    steps_weight: float | None = None
    """Weight of the loss between time steps, such as self-distillation; None: the preset's."""
    feature_weight: float | None = None
    """Weight of the distillation loss on the teacher's features; None: the preset's."""
    temperature: float | None = None
    """Softmax temperature of the soft labels; None: the preset's."""
    label_smoothing: float = 0.0
    """Label smoothing of the cross-entropy, for teacher and student."""

    def check(self) -> None:
        """Raises `InputError` for an unknown preset or a value out of range."""
        check_choice("preset", self.preset, PRESETS)
        for name, value in self.given.items():
            if not (value > 0 if name == "temperature" else value >= 0) or value == math.inf:
                least = "positive" if name == "temperature" else "non-negative"
                raise InputError(f"{name}={value!r} must be a {least} finite number")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"label_smoothing={self.label_smoothing!r} must be in [0, 1)")

    @property
    def given(self) -> dict[str, float]:
        """Loss weights and temperature that override the preset's."""
        return {name: getattr(self, name) for name in (*WEIGHTS, "temperature") if getattr(self, name) is not None}

    def build(self) -> "Objective":
        """The student's objective."""
        from snnkd_jax.distill.presets import PRESETS

        weights = {name.removesuffix("_weight"): value for name, value in self.given.items() if name in WEIGHTS}
        objective = PRESETS[self.preset].with_weights(weights).with_constants(label_smoothing=self.label_smoothing)
        return objective if self.temperature is None else objective.with_constants(temperature=self.temperature)

    def cross_entropy(self) -> "Objective":
        """The cross-entropy alone, the objective of the teacher and the baseline."""
        return ObjectiveConfig("none", label_smoothing=self.label_smoothing).build()

    @property
    def is_cross_entropy(self) -> bool:
        """Whether the student's objective is the cross-entropy alone."""
        return self.build() == self.cross_entropy()
