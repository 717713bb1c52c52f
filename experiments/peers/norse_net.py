"""Norse 1: the whole network is called once a time step with the neurons' states, channels_last.

Departures: Norse has no arctangent surrogate; its default, SuperSpike, is taken. Batch norm sees one step at a time.
"""

import torch  # pyright: ignore[reportMissingImports]
from norse.torch import LIFBoxCell, LIFBoxParameters  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]

from .torch_step import Body, Layers, make_torch_step, time_loop, to_channels_last
from .workload import ALPHA, TAU, V_THRESHOLD, Step, Workload


class Neuron(nn.Module):
    """An LIF cell that keeps its state from call to call, so that it can stand in a body with shortcuts."""

    def __init__(self):
        super().__init__()
        constants = LIFBoxParameters(
            tau_mem_inv=torch.tensor(1 / TAU), v_th=torch.tensor(V_THRESHOLD), alpha=torch.tensor(ALPHA)
        )
        self.cell = LIFBoxCell(constants, dt=1.0)
        self.state = None

    def forward(self, x):
        """Currents of one step to spikes."""
        spikes, self.state = self.cell(x, self.state)
        return spikes


def make_step(work: Workload) -> Step:
    """The step."""
    network = to_channels_last(Body(Layers(Neuron), work.model, work.width))
    network.train(work.task != "inference")
    neurons = [module for module in network.modules() if isinstance(module, Neuron)]

    def reset() -> None:
        for neuron in neurons:
            neuron.state = None

    return make_torch_step(work, network, time_loop(network, reset, work.num_steps))
