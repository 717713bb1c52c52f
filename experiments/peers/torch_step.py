"""What the PyTorch libraries share: one body made of a library's layers, and the step around it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from .workload import (
    CE_WEIGHT,
    KD_WEIGHT,
    LEARNING_RATE,
    MOMENTUM,
    NUM_CLASSES,
    TEMPERATURE,
    Step,
    Unit,
    Workload,
    batch,
    normalised,
    units,
)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Constructors with the arguments of their `torch.nn` namesakes; `neuron()` makes one activation layer."""

    neuron: Callable[[], nn.Module]
    conv: Callable[..., nn.Module] = nn.Conv2d
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    pool: Callable[[int], nn.Module] = nn.AvgPool2d


class Basic(nn.Module):
    """A residual block; the neuron comes after the sum."""

    def __init__(self, layers: Layers, unit: Unit):
        super().__init__()
        self.conv1 = layers.conv(unit.inputs, unit.outputs, 3, stride=unit.stride, padding=1, bias=False)
        self.norm1 = layers.norm(unit.outputs)
        self.act1 = layers.neuron()
        self.conv2 = layers.conv(unit.outputs, unit.outputs, 3, padding=1, bias=False)
        self.norm2 = layers.norm(unit.outputs)
        self.act2 = layers.neuron()
        self.shortcut = nn.Sequential()
        if unit.projects:
            conv = layers.conv(unit.inputs, unit.outputs, 1, stride=unit.stride, bias=False)
            self.shortcut = nn.Sequential(conv, layers.norm(unit.outputs))

    def forward(self, x):
        """`[..., C, H, W]` to spikes of the block's shape."""
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        return self.act2(y + self.shortcut(x))


class Body(nn.Module):
    """A model of `workload.units`: images `[..., C, H, W]` to logits `[..., K]`."""

    def __init__(self, layers: Layers, model: str, width: float):
        super().__init__()
        parts: list[nn.Module] = []
        body = units(model, width)
        for unit in body:
            if unit.kind == "pool":
                parts.append(layers.pool(2))
            elif unit.kind == "basic":
                parts.append(Basic(layers, unit))
            else:
                parts.append(layers.conv(unit.inputs, unit.outputs, 3, padding=1, bias=False))
                parts += [layers.pool(2)] if unit.pooled else []
                parts += [layers.norm(unit.outputs), layers.neuron()]
        self.body = nn.Sequential(*parts)
        self.head = nn.Linear(body[-1].outputs, NUM_CLASSES)

    def forward(self, x):
        """The logits."""
        return self.head(self.body(x).mean((-2, -1)))


def to_channels_last(network: Any) -> Any:
    """The network with its convolutions' weights in channels_last, which makes their outputs so."""
    return network.to(memory_format=torch.channels_last)


def time_loop(network: nn.Module, reset: Callable[[], None], num_steps: int) -> Callable[[Any], Any]:
    """The mean logits of a stateful one-step network that is called T times: images `[B, C, H, W]` to `[B, K]`."""

    def forward(images):
        reset()
        return torch.stack([network(images) for _ in range(num_steps)]).mean(0)

    return forward


def make_torch_step(
    work: Workload, network: nn.Module, forward: Callable[[Any], Any], flags: tuple[str, ...] = ()
) -> Step:
    """The step of a network in channels_last; the first convolution reads every time step.

    Args:
        work: gives the teacher of `kd` its body, the device and the dtype.
        network: holds the parameters; it is moved to the device.
        forward: images `[B, C, H, W]` to mean logits `[B, K]`; uses `network`, in the mode that the task needs.
        flags: what the library was given beyond what all PyTorch libraries are given here.
    """
    device = device_of(work)
    in_dtype = torch.autocast(device.type, torch.bfloat16, enabled=work.dtype == "bfloat16")
    flags = ("channels_last", *(["autocast to bfloat16"] if work.dtype == "bfloat16" else []), *flags)
    if work.device == "gpu":
        torch.backends.cudnn.benchmark = True  # JAX chooses its convolutions by measuring, too
        flags = (*flags, "cudnn.benchmark")
    network.to(device)
    raw, classes = batch(work.batch_size)
    images = torch.from_numpy(normalised(raw)).to(device).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(classes).long().to(device)
    parameters = sum(p.numel() for p in network.parameters())

    def ready(advance: Callable[[], float], *more: str) -> Step:
        return Step(
            parameters, advance, work.time_steps, device_bytes=lambda: device_bytes(device), flags=(*flags, *more)
        )

    def infer() -> float:
        with torch.inference_mode(), in_dtype:
            return forward(images).mean().item()  # which waits for the device

    if work.task == "inference":
        return ready(infer)

    teacher = None
    if work.has_teacher:
        teacher = to_channels_last(Body(Layers(nn.ReLU), work.model, work.width)).eval().requires_grad_(False)
        teacher.to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)

    def train() -> float:
        optimizer.zero_grad(set_to_none=True)
        with in_dtype:
            logits = forward(images).float()
        loss = F.cross_entropy(logits, labels)
        if teacher is not None:
            with torch.no_grad(), in_dtype:
                target = F.log_softmax(teacher(images).float() / TEMPERATURE, 1)
            guess = F.log_softmax(logits / TEMPERATURE, 1)
            kd = TEMPERATURE**2 * F.kl_div(guess, target, reduction="batchmean", log_target=True)
            loss = CE_WEIGHT * loss + KD_WEIGHT * kd
        loss.backward()
        optimizer.step()
        if work.device == "gpu":
            torch.cuda.synchronize()
        return loss.item()

    return ready(train, "fused SGD")


def device_of(work: Workload) -> torch.device:
    """PyTorch's name of the device."""
    return torch.device("cuda" if work.device == "gpu" else "cpu")


def device_bytes(device: torch.device) -> int | None:
    """The most that PyTorch allocated on a GPU so far; None on CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
