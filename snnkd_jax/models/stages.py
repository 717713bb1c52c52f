"""What a body returns beside its logits: the ends of its stages."""

import dataclasses

import flax.linen as nn
from jax import Array


def records(module: nn.Module, collection: str) -> bool:
    """Whether a layer is to leave its entry in a collection: the caller asked for it (`init` asks for all of them)."""
    return module.is_mutable_collection(collection) and not module.is_initializing()


@dataclasses.dataclass
class Stages:
    """Collects, by the name "stage1", "stage2", ..., what enters and what leaves the last activation of a stage.

    `currents` are the values before the activation (pre-ReLU, or the neurons' input current), `outputs` those after
    it (ReLU values or spikes): `[B, H, W, C]` in an ordinary network, `[B, T, H, W, C]` in a spiking one, where a
    current that is constant in time has `T = 1`.
    """

    currents: dict[str, Array] = dataclasses.field(default_factory=dict)
    outputs: dict[str, Array] = dataclasses.field(default_factory=dict)

    def add(self, current: Array, output: Array) -> None:
        """Records the end of the next stage."""
        name = f"stage{len(self.outputs) + 1}"
        self.currents[name], self.outputs[name] = current, output
