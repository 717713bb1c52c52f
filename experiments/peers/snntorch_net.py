"""snnTorch 1: the whole network is called once a time step, channels_last.

Departures of `snn.Leaky`: the input is not divided by tau, the reset happens at the start of the next step (the same
spikes) and lets no gradient through. Batch norm sees one step at a time.
"""

import snntorch  # pyright: ignore[reportMissingImports]
import snntorch.surrogate  # pyright: ignore[reportMissingImports]

from .torch_step import Body, Layers, make_torch_step, time_loop, to_channels_last
from .workload import ALPHA, TAU, V_THRESHOLD, Step, Workload


def make_step(work: Workload) -> Step:
    """The step."""

    def leaky():
        return snntorch.Leaky(
            beta=1 - 1 / TAU,
            threshold=V_THRESHOLD,
            spike_grad=snntorch.surrogate.atan(ALPHA),
            reset_mechanism="zero",
            init_hidden=True,
        )

    network = to_channels_last(Body(Layers(leaky), work.model, work.width))
    network.train(work.task != "inference")
    neurons = [module for module in network.modules() if isinstance(module, snntorch.Leaky)]

    def reset() -> None:  # snntorch.utils.reset finds no neurons inside blocks
        for neuron in neurons:
            neuron.reset_mem()

    return make_torch_step(work, network, time_loop(network, reset, work.num_steps))
