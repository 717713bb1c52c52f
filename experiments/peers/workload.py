"""What every library is given to do: the data, the constants, the operation count, and the shape of an answer.

Network: LIF neurons, `h[t] = v[t-1] + (x[t] - v[t-1]) / 2`, threshold 1, hard reset to 0, surrogate atan(2), or the
nearest that a library's own neuron can do. Input: one static image, repeated T times.

| task         | one step is                                                                                 |
| ------------ | ------------------------------------------------------------------------------------------- |
| `train`      | forward, backpropagation through time, SGD with momentum; cross-entropy of the logits' mean |
| `rate`       | the same with rate-based backpropagation (snnkd_jax only)                                   |
| `integer`    | `train` of integer neurons in one time step, of up to D = T spikes (snnkd_jax, SpikingJelly) |
| `kd`         | `train` with 0.5 CE + 0.5 KD (temperature 4) and a frozen ANN of the same body as teacher   |
| `kd-rate`    | `kd` with rate-based backpropagation (snnkd_jax only)                                       |
| `kd-integer` | `kd` of integer neurons                                                                     |
| `inference`  | forward, batch norm by its running statistics                                               |

Integer neurons: `s = clip(round(x), 0, D)`, gradient 1 for x from 0 to D. T x D = 1 x 4 has as many binary sub-steps as
LIF neurons in T = 4, and a quarter of their multiplications in training.

In bfloat16 convolutions and the head are computed in it, and the parameters are float32. What autocast adds to that in
PyTorch (norms, pooling) and what type a library gives the potentials of its neurons is its own.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

Task = Literal["train", "rate", "integer", "kd", "kd-rate", "kd-integer", "inference"]
TASKS: tuple[Task, ...] = get_args(Task)
Device = Literal["cpu", "gpu"]
Dtype = Literal["float32", "bfloat16"]

TAU, V_THRESHOLD, ALPHA = 2.0, 1.0, 2.0
CE_WEIGHT, KD_WEIGHT, TEMPERATURE = 0.5, 0.5, 4.0
LEARNING_RATE, MOMENTUM = 0.01, 0.9
NUM_CLASSES = 10
SIZE, CHANNELS = 32, 3
MEAN, STD = 0.5, 0.25


def steps_and_levels(task: str, num_steps: int) -> tuple[int, int]:
    """T and D of a task: (1, D) of integer neurons, (T, 1) of all others; for `snnkd_jax.runs.models.time_steps`."""
    return (1, num_steps) if task.endswith("integer") else (num_steps, 1)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What one library is given to do.

    Attributes:
        task: one of `TASKS`.
        model: resnet18, vgg11 or airbench94.
        num_steps: T, or D of integer neurons.
        width: multiplier of all channels.
        batch_size: B.
        device: where the step runs.
        dtype: of convolutions and the head.
    """

    task: str
    model: str
    num_steps: int
    width: float
    batch_size: int
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @property
    def has_teacher(self) -> bool:
        """Whether a frozen ANN takes part."""
        return self.task.startswith("kd")

    @property
    def has_rates(self) -> bool:
        """Whether the backward pass goes through firing rates."""
        return self.task.endswith("rate")

    @property
    def has_integers(self) -> bool:
        """Whether neurons fire several spikes in a single time step."""
        return self.task.endswith("integer")

    @property
    def time_steps(self) -> int:
        """How often the network is computed for an image: T, or 1 with integer neurons."""
        return 1 if self.has_integers else self.num_steps


@dataclasses.dataclass
class Step:
    """A step that is ready to be repeated.

    Attributes:
        parameters: trained numbers of the spiking network, without the neurons' constants.
        advance: makes one step, waits for it, and returns the loss (inference: the logits' mean).
        stem_steps: how often a step computes the first convolution of an image: T, or 1 if it knows that it is static.
        temp_bytes: memory for intermediate results as the compiler planned it, known after the first step; or None.
        device_bytes: the most that was allocated on an accelerator so far; None on CPU.
        program: the text of the compiled program, known after the first step; or None.
        flags: the options that the library was given, in words.
    """

    parameters: int
    advance: Callable[[], float]
    stem_steps: int
    temp_bytes: Callable[[], int | None] = lambda: None
    device_bytes: Callable[[], int | None] = lambda: None
    program: Callable[[], str | None] = lambda: None
    flags: tuple[str, ...] = ()
    losses: list[float] = dataclasses.field(default_factory=list)

    def run(self, n: int) -> list[float]:
        """Makes n steps and returns the seconds of each."""
        seconds = []
        for _ in range(n):
            start = time.perf_counter()
            loss = self.advance()
            seconds.append(time.perf_counter() - start)
            self.losses.append(loss)
        return seconds


def batch(batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, uint8 `[B, 32, 32, 3]`, and labels, int32 `[B]`; always the same."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, SIZE, SIZE, CHANNELS), dtype=np.uint8)
    return images, rng.integers(0, NUM_CLASSES, batch_size).astype(np.int32)


def normalised(images: np.ndarray) -> np.ndarray:
    """Bytes to float32 of about mean 0 and standard deviation 1."""
    return ((images.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Unit:
    """A part of a body: "conv" (3x3, norm, neuron), "basic" (residual block) or "pool" (2x2 mean).

    `pooled`: a "conv" with a "pool" between convolution and norm.
    """

    kind: Literal["conv", "basic", "pool"]
    inputs: int
    outputs: int
    stride: int = 1
    pooled: bool = False

    @property
    def projects(self) -> bool:
        """Whether a residual block has a 1x1 convolution in its shortcut."""
        return self.stride != 1 or self.inputs != self.outputs


def units(model: str, width: float) -> tuple[Unit, ...]:
    """The body of `snnkd_jax.models.build(model, 10, width=width)`; global pooling and a linear head follow it."""
    channels = [max(1, round(base * width)) for base in (64, 128, 256, 512)]
    body: list[Unit] = []

    def add(kind: Literal["conv", "basic", "pool"], outputs: int, **options: Any) -> None:
        body.append(Unit(kind, body[-1].outputs if body else CHANNELS, outputs, **options))

    if model == "resnet18":
        add("conv", channels[0])
        for i, c in enumerate(channels):
            add("basic", c, stride=1 if i == 0 else 2)
            add("basic", c)
    elif model == "vgg11":
        for i, size in enumerate((1, 1, 2, 2, 2)):
            if i:
                add("pool", body[-1].outputs)
            for _ in range(size):
                add("conv", channels[min(i, 3)])
    elif model == "airbench94":
        add("conv", max(1, round(24 * width)))
        for c in (channels[0], channels[2], channels[2]):
            add("conv", c, pooled=True)
            add("conv", c)
    else:
        raise ValueError(f"model {model!r} is not one of resnet18, vgg11, airbench94")
    return tuple(body)


def multiplications(model: str, width: float) -> tuple[int, int]:
    """Multiplications of one image in one time step, convolutions and head: (the first convolution's, all others')."""
    size, macs = SIZE, []
    for unit in units(model, width):
        if unit.kind == "pool":
            size //= 2
            continue
        size //= unit.stride
        macs.append(9 * unit.inputs * unit.outputs * size**2)
        if unit.kind == "basic":
            macs.append(9 * unit.outputs**2 * size**2)
            macs.append(unit.inputs * unit.outputs * size**2 if unit.projects else 0)
        size //= 2 if unit.pooled else 1
    return macs[0], sum(macs[1:]) + units(model, width)[-1].outputs * NUM_CLASSES


def step_flops(work: Workload, stem_steps: int) -> int:
    """Floating-point operations (two a multiplication) of the convolutions and the head that a step cannot do without.

    Backward is two convolutions for one forward, weight and input gradient, but the images need no gradient. With
    rate-based backpropagation one backward pass serves all steps. The teacher runs forward once.
    """
    stem, rest = multiplications(work.model, work.width)
    macs = stem_steps * stem + work.time_steps * rest
    if work.has_rates:
        macs += stem + 2 * rest
    elif work.task != "inference":
        macs += stem_steps * stem + 2 * work.time_steps * rest
    if work.has_teacher:
        macs += stem + rest
    return 2 * macs * work.batch_size
