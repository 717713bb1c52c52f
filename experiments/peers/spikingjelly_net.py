"""SpikingJelly 2: multi-step mode (time folded into the batch by its layers), its fused neurons, channels_last.

Inference fuses convolution and norm. The image is repeated T times before the first convolution. On a GPU SpikingJelly
chooses the implementation of its neurons, Triton unless its own CUDA kernels were built; the flags name it.

Departure of `ILIFNode`: halves are rounded to even numbers, and up in this library. Its gradient is the same, and with
a threshold of 1 spikes have the height 1 in both.
"""

import functools

import torch  # pyright: ignore[reportMissingImports]
from spikingjelly.activation_based import functional, layer, neuron, surrogate  # pyright: ignore[reportMissingImports]
from spikingjelly.activation_based.functional import conv_bn_fusion  # pyright: ignore[reportMissingImports]

from snnkd_jax.dynamics.neurons import ILIF, LIF

from . import neurons
from .torch_step import Body, Layers, device_of, make_torch_step, to_channels_last
from .workload import Step, Workload


class _Float32State(neuron.BaseNode):
    """Potentials in float32 whatever the input is: otherwise, SpikingJelly computes a bfloat16 input step by step."""

    def materialize_states(self, inputs, states, step_mode):
        v, *others = super().materialize_states(inputs, states, step_mode)
        return (v.float(), *others)


class LIFNode(_Float32State, neuron.LIFNode):
    """SpikingJelly's LIF neurons, fused in bfloat16 too."""


class ILIFNode(_Float32State, neuron.ILIFNode):
    """SpikingJelly's integer LIF neurons, fused in bfloat16 too."""


def node(n: LIF | ILIF) -> torch.nn.Module:
    """SpikingJelly's neurons with the constants of these."""
    if isinstance(n, ILIF):
        return ILIFNode(
            tau=n.tau,
            v_threshold=n.v_threshold,
            detach_reset=n.detach_reset,
            surrogate_function=surrogate.MultiLevelSpikeCount(n.levels),
            step_mode="m",
        )
    return LIFNode(
        tau=n.tau,
        v_threshold=n.v_threshold,
        v_reset=n.v_reset,
        decay_input=n.decay_input,
        detach_reset=n.detach_reset,
        surrogate_function=surrogate.ATan(n.surrogate.alpha),
        step_mode="m",
    )


def body(model: str, width: float, n: LIF | ILIF) -> Body:
    """The spiking network with these neurons, in multi-step mode: `[T, B, C, H, W]` to logits `[T, B, K]`."""
    layers = Layers(
        neuron=functools.partial(node, n),
        conv=functools.partial(layer.Conv2d, step_mode="m"),
        norm=functools.partial(layer.BatchNorm2d, step_mode="m"),
        pool=functools.partial(layer.AvgPool2d, step_mode="m"),
    )
    return Body(layers, model, width)


def make_step(work: Workload, *, compiled: bool = False) -> Step:
    """The step; `compiled` passes the network through torch.compile, which needs a C++ compiler."""
    network = to_channels_last(body(work.model, work.width, neurons.neuron(work)))
    parameters = sum(p.numel() for p in network.parameters())
    execution, kind = ("compile" if compiled else "eager"), ("ilif" if work.has_integers else "lif")
    chosen = functional.neuron_implementation(kind, device_of(work), execution=execution)["implementation"]
    flags = ("step_mode='m'", f"{kind} neurons: {chosen}", *(["torch.compile"] if compiled else []))
    if work.task == "inference":
        network = to_channels_last(conv_bn_fusion.fuse_conv_bn_eval_modules(network.eval()))
        flags = (*flags, "norm fused into convolutions in inference")
    call = torch.compile(network) if compiled else network

    def forward(images):
        functional.reset_net(network)
        return call(images.unsqueeze(0).repeat(work.time_steps, 1, 1, 1, 1)).mean(0)

    step = make_torch_step(work, network, forward, flags)
    step.parameters = parameters  # before the fusion
    return step
