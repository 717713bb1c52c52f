"""The arguments of `build`, which say all that is needed to build a network again."""

import dataclasses
from typing import Any

from snnkd_jax.digest import title
from snnkd_jax.dynamics.description import describe_neuron
from snnkd_jax.dynamics.neurons import Neuron


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Those of `build` that matter to a trained network; see there."""

    name: str
    neuron: Neuron | None
    width: float
    tdbn: bool
    pool: str
    levels: int | None
    dtype: str

    def described(self, num_steps: int | None) -> dict[str, Any]:
        """The network as JSON values; a neuron that is none of this library's by its title."""
        spiking = None
        if self.neuron is not None:
            neuron = describe_neuron(self.neuron) or {"neuron": title(self.neuron)}
            spiking = {"num_steps": num_steps, **neuron, "tdbn": self.tdbn, "pool": self.pool}
        return {
            "model": self.name,
            "width": self.width,
            "levels": self.levels,
            "pool": self.pool if spiking is None else None,
            "dtype": self.dtype,
            "spiking": spiking,
        }
