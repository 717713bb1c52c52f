"""SpikingJelly 2: multi-step mode (time folded into the batch by its layers), its fused LIF, channels_last.

Inference fuses convolution and norm. The image is repeated T times before the first convolution.
"""

import functools

import torch  # pyright: ignore[reportMissingImports]
from spikingjelly.activation_based import functional, layer, neuron, surrogate  # pyright: ignore[reportMissingImports]
from spikingjelly.activation_based.functional import conv_bn_fusion  # pyright: ignore[reportMissingImports]

from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.dynamics.surrogate import atan

from .torch_step import Body, Layers, make_torch_step, to_channels_last
from .workload import ALPHA, TAU, V_THRESHOLD, Step


def body(model: str, width: float, n: LIF) -> Body:
    """The spiking network with these LIF neurons, in multi-step mode: `[T, B, C, H, W]` to logits `[T, B, K]`."""
    layers = Layers(
        neuron=lambda: neuron.LIFNode(
            tau=n.tau,
            v_threshold=n.v_threshold,
            v_reset=n.v_reset,
            decay_input=n.decay_input,
            detach_reset=n.detach_reset,
            surrogate_function=surrogate.ATan(n.surrogate.alpha),
            step_mode="m",
        ),
        conv=functools.partial(layer.Conv2d, step_mode="m"),
        norm=functools.partial(layer.BatchNorm2d, step_mode="m"),
        pool=functools.partial(layer.AvgPool2d, step_mode="m"),
    )
    return Body(layers, model, width)


def make_step(task: str, model: str, num_steps: int, width: float, batch_size: int, *, compiled: bool = False) -> Step:
    """The step; `compiled` passes the network through torch.compile, which needs a C++ compiler."""
    neurons = LIF(tau=TAU, v_threshold=V_THRESHOLD, surrogate=atan(ALPHA))
    network = to_channels_last(body(model, width, neurons))
    parameters = sum(p.numel() for p in network.parameters())
    if task == "inference":
        network = to_channels_last(conv_bn_fusion.fuse_conv_bn_eval_modules(network.eval()))
    call = torch.compile(network) if compiled else network

    def forward(images):
        functional.reset_net(network)
        return call(images.unsqueeze(0).repeat(num_steps, 1, 1, 1, 1)).mean(0)

    step = make_torch_step(task, model, width, batch_size, network, forward, stem_steps=num_steps)
    step.parameters = parameters  # before the fusion
    return step
