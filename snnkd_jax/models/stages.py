"""What a module returns beside its logits: its stage outputs, before and after the activation."""

import dataclasses

import flax.linen as nn
from jax import Array

Features = dict[str, dict[str, Array]]
"""Kind of intermediate values to their names to arrays."""


def records(module: nn.Module, collection: str) -> bool:
    """Whether a layer is to leave its entry in a collection: the caller asked for it (`init` asks for all of them)."""
    return module.is_mutable_collection(collection) and not module.is_initializing()


@dataclasses.dataclass
class Stages:
    """Collects, as "stage1", "stage2", ..., the `pre_activations` and `outputs` of the last activation of a stage.

    They are `[B, H, W, C]` in an ANN, `[B, T, H, W, C]` in a spiking network; a current that is constant has `T = 1`.
    """

    pre_activations: dict[str, Array] = dataclasses.field(default_factory=dict)
    outputs: dict[str, Array] = dataclasses.field(default_factory=dict)

    def add(self, current: Array, output: Array) -> None:
        """Records the end of the next stage."""
        name = f"stage{len(self.outputs) + 1}"
        self.pre_activations[name], self.outputs[name] = current, output

    def features(self) -> Features:
        """The dictionary that a module returns."""
        return {"stages": self.outputs, "pre_activations": self.pre_activations}
