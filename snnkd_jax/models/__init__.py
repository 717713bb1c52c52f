"""Networks by name: an architecture with ReLU is an ANN (a teacher), with neurons a spiking network (a student)."""

import functools
import inspect
from collections.abc import Callable
from typing import Literal, get_args

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from snnkd_jax.dynamics.integration import Neuron, check_neuron
from snnkd_jax.dynamics.neurons import ILIF
from snnkd_jax.errors import InputError, check_choice, check_count, match_choice
from snnkd_jax.models.activation import QCFS, IntegerSpike, ReLU, Spike
from snnkd_jax.models.airbench import Airbench, WhitenedAirbench
from snnkd_jax.models.coding import Coding
from snnkd_jax.models.convnet import ConvNet
from snnkd_jax.models.frames import Frames
from snnkd_jax.models.imagenet_resnet import ImageNetResNet, SEWBlock
from snnkd_jax.models.layers import BatchNorm, MaxPool
from snnkd_jax.models.network import Arguments, Features, Network, Variables, with_weights_of
from snnkd_jax.models.partial import HashablePartial
from snnkd_jax.models.pyramidnet import PyramidNet
from snnkd_jax.models.rate import IntegerRate, Rate, RateBatchNorm, RateMaxPool
from snnkd_jax.models.remat import Remat
from snnkd_jax.models.resnet import PaddedBlock, ResNet
from snnkd_jax.models.vgg import VGG, ImageNetVGG
from snnkd_jax.models.wide_resnet import WideResNet

__all__ = ["MODELS", "Features", "Frames", "Network", "Variables", "build", "with_weights_of"]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "convnet": ConvNet,
    "vgg11": functools.partial(VGG, stage_sizes=(1, 1, 2, 2, 2)),
    "vgg13": functools.partial(VGG, stage_sizes=(2, 2, 2, 2, 2)),
    "vgg16": functools.partial(VGG, stage_sizes=(2, 2, 3, 3, 3)),
    "resnet18": ResNet,
    "resnet34": functools.partial(ResNet, stage_sizes=(3, 4, 6, 3)),
    "resnet20": functools.partial(ResNet, stage_sizes=(3, 3, 3), stage_channels=(16, 32, 64)),
    "resnet20-a": functools.partial(ResNet, stage_sizes=(3, 3, 3), stage_channels=(16, 32, 64), block=PaddedBlock),
    "resnet19": functools.partial(ResNet, stage_sizes=(3, 3, 2), stage_channels=(128, 256, 512), hidden=256),
    "wrn-16-2": functools.partial(WideResNet, depth=16, widen=2),
    "wrn-28-4": functools.partial(WideResNet, depth=28, widen=4),
    "pyramidnet18": PyramidNet,
    "airbench94": Airbench,
    "airbench95": functools.partial(Airbench, stage_channels=(128, 384, 384)),
    "airbench94-whitened": WhitenedAirbench,
    "resnet18-imagenet": ImageNetResNet,
    "resnet34-imagenet": functools.partial(ImageNetResNet, stage_sizes=(3, 4, 6, 3)),
    "vgg11-imagenet": ImageNetVGG,
    "vgg13-imagenet": functools.partial(ImageNetVGG, stage_sizes=(2, 2, 2, 2, 2)),
    "vgg16-imagenet": functools.partial(ImageNetVGG, stage_sizes=(2, 2, 3, 3, 3)),
    "sew-resnet18": functools.partial(ImageNetResNet, block=SEWBlock),
    "sew-resnet34": functools.partial(ImageNetResNet, block=SEWBlock, stage_sizes=(3, 4, 6, 3)),
}

MAX_WIDTH = 8.0

Backprop = Literal["bptt", "rate"]
Pool = Literal["avg", "max"]


def build(
    name: str,
    num_classes: int,
    *,
    neuron: Neuron | None = None,
    num_steps: int = 4,
    width: float = 1.0,
    tdbn: bool = False,
    pool: Pool = "avg",
    backprop: Backprop = "bptt",
    levels: int | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: Remat = "none",
    frames: Frames | None = None,
    input_coding: Coding = "direct",
) -> Network:
    """Builds a network by name.

    Args:
        name: a key of `MODELS`; case, "-" and "_" do not matter.
        num_classes: K, the number of logits.
        neuron: the neurons of a spiking network, such as `LIF(tau=2.0)`; None builds an ANN with ReLU.
        num_steps: T of a spiking network.
        width: multiplier of all channels but the logits, in (0, 8].
        tdbn: threshold-dependent batch norm, for spiking networks whose neurons have `v_threshold` and `v_rest`.
        pool: average or max pooling, in the architectures that support both (convnet, vgg and airbench).
        backprop: how a spiking network is differentiated in training: exactly, through time, or through firing rates
            (`snnkd_jax.models.rate`), which takes less time and memory.
        levels: L of the quantised activation `QCFS` instead of ReLU, for an ANN that will be converted into a spiking
            network; None keeps ReLU.
        dtype: of convolutions and dense layers; parameters, norms, potentials and logits are float32.
        remat: what backpropagation through time recomputes instead of storing it (`snnkd_jax.models.remat`); through
            rates nothing is stored.
        frames: how an ANN reads sequences, such as `Frames("mean", 10)`; None: it takes images, and a spiking network
            one frame per step, not their mean.
        input_coding: how a spiking network reads static images (`snnkd_jax.models.coding`).

    Raises:
        InputError: for an unknown name, a number out of range, or neurons that do not fit.
    """
    if not 0 < width <= MAX_WIDTH:
        raise InputError(f"width={width!r} must be a multiplier of the channels in (0, {MAX_WIDTH:g}], such as 0.25")
    check_count("num_classes", num_classes, 2)
    check_count("num_steps", num_steps)
    if levels is not None:
        check_count("levels", levels)
        if neuron is not None:
            advice = "leave one of them out, or give neuron=ILIF(levels=...)"
            raise InputError(f"levels={levels!r} is for ANNs, and neuron is given; {advice}")
    name = match_choice("model", name, MODELS)
    check_choice("pool", pool, get_args(Pool))
    fields = inspect.signature(MODELS[name]).parameters
    if pool == "max" and "pool" not in fields:
        raise InputError(f"pool={pool!r}: {name!r} has a fixed pooling; use pool='avg', or a VGG")
    check_choice("backprop", backprop, get_args(Backprop))
    check_choice("remat", remat, get_args(Remat))
    v_threshold = None
    if neuron is not None:
        check_neuron(neuron)
        if tdbn:
            try:  # counted from the resting potential
                v_threshold = neuron.v_threshold - neuron.v_rest  # pyright: ignore[reportAttributeAccessIssue]
            except AttributeError:
                kind = type(neuron).__name__
                raise InputError(f"tdbn=True needs v_threshold and v_rest of the neuron; {kind} lacks one") from None
    pools = fields.keys() & ({"pool", "max_pool"} if pool == "max" else {"max_pool"})

    def module(activation, norm, max_pool, remat: Remat = "none") -> nn.Module:
        norm = HashablePartial(norm, v_threshold=v_threshold)
        layers = {"activation": activation, "norm": norm} | dict.fromkeys(pools, max_pool)
        return MODELS[name](num_classes=num_classes, width=width, dtype=jnp.dtype(dtype), remat=remat, **layers)

    arguments = Arguments(name, neuron, width, tdbn, pool, levels, jnp.dtype(dtype).name)
    if neuron is None:
        activation = ReLU if levels is None else HashablePartial(QCFS, levels)
        ann = module(activation, BatchNorm, MaxPool, remat)
        return Network(ann, arguments=arguments, frames=frames, coding=input_coding)
    spike, rate = (IntegerSpike, IntegerRate) if isinstance(neuron, ILIF) else (Spike, Rate)
    spiking = module(HashablePartial(spike, neuron, num_steps=num_steps), BatchNorm, MaxPool, remat)
    rates = module(HashablePartial(rate, neuron), RateBatchNorm, RateMaxPool) if backprop == "rate" else None
    return Network(spiking, num_steps, rates, arguments, frames=frames, coding=input_coding)
