"""The sections of a configuration that describe networks: teacher, student and the student's neurons."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnkd_jax.errors import InputError, check_choice, check_counts, match_choice
from snnkd_jax.files import absolute, as_path
from snnkd_jax.runs.option import Section

if TYPE_CHECKING:
    from snnkd_jax.dynamics.integration import Neuron
    from snnkd_jax.models import Network

TORCH, GIVEN = "torch:", "given:"
"""Prefixes of a teacher's name: read from a PyTorch file, or passed to `experiment.run` as a function."""

MODELS = ("convnet", "vgg11", "vgg13", "vgg16", "resnet18", "resnet34", "resnet20", "resnet20-a", "resnet19")
MODELS += ("wrn-16-2", "wrn-28-4", "pyramidnet18", "airbench94", "airbench95", "airbench94-whitened")
MODELS += ("resnet18-imagenet", "resnet34-imagenet", "vgg11-imagenet", "vgg13-imagenet", "vgg16-imagenet")
MODELS += ("sew-resnet18", "sew-resnet34")
"""The keys of `models.MODELS`, without importing JAX."""


_SUFFIXES = (".pt", ".pth", ".th", ".tar", ".ckpt", ".bin", ".pkl", ".safetensors")
"""Suffixes of files with weights of PyTorch."""


@dataclasses.dataclass(frozen=True)
class TeacherConfig(Section):
    """The teacher: an architecture to train, or a trained network."""

    teacher: str = "pyramidnet18"
    """Architecture: convnet, vgg11/13/16, resnet18/34/20/19, resnet20-a, wrn-16-2, wrn-28-4, pyramidnet18,
    airbench94/95 or airbench94-whitened; for large images resnet18/34-imagenet, vgg11/13/16-imagenet or
    sew-resnet18/34;
    or torch:FILE, a state dict trained in PyTorch (see models/torch_weights.py), with the width and pooling it has."""
    teacher_width: float | None = None
    """Width multiplier of the teacher's channels; None: --width."""
    teacher_epochs: int | None = None
    """Training epochs of the teacher; None: --epochs."""
    teacher_checkpoint: str | None = None
    """Run directory with a trained teacher, which is used instead of training one."""
    teacher_levels: int | None = None
    """Levels of quantised activations (QCFS) in the teacher, for `snnkd convert` at few time steps; None: ReLU."""
    teacher_pool: str = "avg"
    """Pooling in the teacher, avg or max (convnet, vgg and airbench)."""
    teacher_frames: str = "mean"
    """What the teacher sees of events: mean (the mean of the frames over time), channels (all of them, as channels),
    each (one by one, with the mean of the logits), or images, those that belong to event_digits and nmnist."""
    teacher_entry: str | None = None
    """Which network of torch:FILE, if it has several, such as state_dict_ema; None: the one that is no moving average.
    What floating-point tensors are beside it in its state dict is left out."""
    teacher_normalisation: str = "dataset"
    """Normalisation of pixels in [0, 1] that the teacher of torch:FILE was trained with:
    dataset (mean and std of the training set), cifar (mean 0.4914 0.4822 0.4465, std 0.2023 0.1994 0.2010), imagenet,
    half (mean and std 0.5), or MEAN/STD, such as 0.49,0.48,0.45/0.25,0.24,0.26."""
    store_teacher: str | None = None
    """Folder that caches the teacher's outputs of every training step; their size is printed first.
    Students with the same teacher, data, seed, batch size and augmentation read them instead of running it.
    Logits take 4 bytes per class, image and epoch; features, which some presets compare, take far more."""
    teacher_only: bool = False
    """Train the teacher and stop; other runs can use it as --teacher-checkpoint."""

    def check(self) -> None:
        """Raises `InputError` for an unknown architecture or options that do not go together."""
        check_counts(self, "teacher_epochs")
        check_choice("teacher_frames", self.teacher_frames, ("mean", "channels", "each", "images"))
        if self.teacher_entry is not None and self.file is None:
            raise InputError(f"teacher_entry={self.teacher_entry!r} goes with teacher='torch:FILE'")
        if not self.is_foreign:
            _check_model(self.teacher)
            return
        for name in ("teacher_checkpoint", "teacher_levels", "teacher_epochs", "teacher_pool"):
            if getattr(self, name) != getattr(TeacherConfig, name):
                raise InputError(f"{name}={getattr(self, name)!r}: leave it out, as {self.teacher!r} is trained")

    @property
    def file(self) -> Path | None:
        """FILE of `torch:FILE`."""
        return as_path("teacher", self.teacher.removeprefix(TORCH)) if self.teacher.startswith(TORCH) else None

    @property
    def is_foreign(self) -> bool:
        """Whether the teacher is a trained network from outside: a PyTorch file or a function."""
        return self.teacher.startswith((TORCH, GIVEN))

    @property
    def sees_images(self) -> bool:
        """Whether the teacher is trained on the images that belong to the events, and sees them instead."""
        return self.teacher_frames == "images"

    def canonical(self) -> dict[str, Any]:
        """Canonical name and absolute paths; raises `InputError` for a wrong normalisation."""
        from snnkd_jax.data.normalisation import parse_normalisation

        if parse_normalisation(self.teacher_normalisation) is not None and self.file is None:
            raise InputError(f"teacher_normalisation={self.teacher_normalisation!r} goes with teacher='torch:FILE'")
        teacher = self.teacher if self.is_foreign else match_choice("teacher: model", self.teacher, MODELS)
        if self.file is not None:
            teacher = f"{TORCH}{absolute('teacher', self.file)}"
        given = self.teacher_checkpoint
        checkpoint = None if given is None else absolute("teacher_checkpoint", given)
        return {"teacher": teacher, "teacher_checkpoint": checkpoint}

    def build(self, num_classes: int, num_frames: int | None, **options: Any) -> "Network":
        """The network, for sequences of `num_frames` or for images; `options` are further ones of `models.build`."""
        from snnkd_jax.models import Frames, build

        pool, reading = self.teacher_pool, self.teacher_frames
        frames = None if num_frames is None else Frames(reading, num_frames)  # pyright: ignore[reportArgumentType]
        given: dict[str, Any] = {"pool": pool, "levels": self.teacher_levels, "frames": frames, **options}
        return build(self.teacher, num_classes, **given)


@dataclasses.dataclass(frozen=True)
class StudentConfig(Section):
    """The spiking student: architecture, time steps and differentiation."""

    student: str = "resnet18"
    """Architecture of the student, one of the list for --teacher."""
    width: float = 1.0
    """Width multiplier of all channels, the student's and, without --teacher-width, the teacher's."""
    num_steps: int = 4
    """Time steps per image, T."""
    student_frames: str = "each"
    """How the student reads the frames of events: each (one per time step), or mean (their mean over time at every
    step), to measure what it learns from time."""
    input_coding: str = "direct"
    """How the student reads static images: direct, as a constant current; poisson, as spikes at the rates of pixels; or
    latency, as one spike per pixel, the earlier the brighter (models/coding.py)."""
    initial_weights: str = "random"
    """random, or teacher: initialise the student from its teacher, which must have its architecture and width."""
    tdbn: bool = False
    """Threshold-dependent batch norm in the student."""
    pool: str = "avg"
    """Pooling in the student, avg or max (convnet, vgg and airbench)."""
    backprop: str = "bptt"
    """bptt: exact, through time; rate: one backward pass for all time steps, faster in less memory (models/rate.py)."""
    bptt_epochs: int = 0
    """With --backprop rate: use bptt, with its memory, in this many epochs at the end."""
    remat: str = "none"
    """Rematerialisation in student and teacher, for less memory and more time: none, stage or block.
    Only the input of each stage or block is kept for the backward pass; the rest is recomputed."""
    dtype: str = "float32"
    """float32 or bfloat16 for convolutions and dense layers; potentials and parameters are always float32."""

    def check(self) -> None:
        """Raises `InputError` for an unknown name or a value out of range."""
        match_choice("student: model", self.student, MODELS)
        check_counts(self, "num_steps")
        check_choice("initial_weights", self.initial_weights, ("random", "teacher"))
        check_choice("student_frames", self.student_frames, ("each", "mean"))
        check_choice("input_coding", self.input_coding, ("direct", "poisson", "latency"))
        check_choice("pool", self.pool, ("avg", "max"))
        check_choice("backprop", self.backprop, ("bptt", "rate"))
        check_choice("remat", self.remat, ("none", "stage", "block"))
        check_choice("dtype", self.dtype, ("float32", "bfloat16"))
        if self.remat != "none" and self.backprop == "rate" and not self.bptt_epochs:
            raise InputError(f"remat={self.remat!r}: backprop='rate' keeps nothing to recompute; use remat='none'")

    def build(self, num_classes: int, neuron: "Neuron") -> "Network":
        """The network."""
        from snnkd_jax.models import Frames, build

        names = ("num_steps", "width", "tdbn", "pool", "backprop", "dtype", "remat", "input_coding")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        options["frames"] = Frames("mean", self.num_steps) if self.student_frames == "mean" else None
        return build(self.student, num_classes, neuron=neuron, **options)


@dataclasses.dataclass(frozen=True)
class NeuronConfig(Section):
    """The student's neurons."""

    neuron: str = "lif"
    """lif, plif (learnable time constant), if, or ilif (integer LIF: up to --levels spikes per step, soft reset)."""
    levels: int | None = None
    """Largest number of spikes per step of ilif, D; None: 4. It runs in T x D binary sub-steps (`Trained.expanded`)."""
    tau: float = 2.0
    """Membrane time constant in steps, >= 1; the initial value for plif, > 1."""
    v_threshold: float = 1.0
    """Firing threshold of the membrane potential; with ilif, potential per spike."""
    v_reset: float | None = 0.0
    """Potential after a spike (hard reset); None subtracts the threshold instead (soft reset)."""
    decay_input: bool = True
    """Divide the input current by tau."""
    detach_reset: bool = False
    """Detach the reset from the gradient."""
    surrogate: str = "atan"
    """Surrogate derivative of the spike: atan, sigmoid, triangle, rectangle or fast_sigmoid."""
    surrogate_alpha: float | None = None
    """Sharpness of the surrogate derivative; None: 2, 4, 1, 1 and 25, in the order of --surrogate."""

    def check(self) -> None:
        """Raises `InputError` for an unknown neuron or surrogate, or for options that do not go together."""
        check_choice("neuron", self.neuron, ("lif", "plif", "if", "ilif"))
        check_choice("surrogate", self.surrogate, ("atan", "sigmoid", "triangle", "rectangle", "fast_sigmoid"))
        check_counts(self, "levels")
        if self.neuron != "ilif":
            if self.levels is not None:
                raise InputError(f"levels={self.levels!r}: neuron={self.neuron!r} fires once a step; use neuron='ilif'")
            return
        if self.v_reset not in (None, NeuronConfig.v_reset):
            raise InputError(f"v_reset={self.v_reset!r}: neuron='ilif' subtracts v_threshold per spike; use None")
        for name in ("surrogate", "surrogate_alpha"):
            if (value := getattr(self, name)) != getattr(NeuronConfig, name):
                found = f"{name}={value!r}: neuron='ilif' has the derivative of the identity"
                raise InputError(f"{found}, and takes no surrogate; leave it out")

    @property
    def spikes_per_step(self) -> int:
        """The largest number of spikes per step, D; 1 but for ilif."""
        return (4 if self.levels is None else self.levels) if self.neuron == "ilif" else 1

    def build(self) -> "Neuron":
        """The neuron; raises `InputError` for constants that its equations do not allow."""
        from snnkd_jax.dynamics.neurons import neuron_from

        return neuron_from(dataclasses.asdict(self))


def _check_model(teacher: str) -> None:
    """Raises `InputError` for an unknown architecture; of a file or a directory, it says how it is given."""
    try:
        match_choice("teacher: model", teacher, MODELS)
    except InputError:
        path = Path(re.sub("^(py)?torch:", "", teacher, flags=re.IGNORECASE))
        if path.is_dir():
            advice = f"a directory; give teacher_checkpoint={str(path)!r}, if it is a run with a trained teacher"
        elif path.suffix.lower() in _SUFFIXES or len(path.parts) > 1 or path.is_file():
            advice = f"a file; give teacher={f'{TORCH}{path}'!r} for weights that were trained in PyTorch"
        else:
            raise
        raise InputError(f"teacher={teacher!r} is no architecture but {advice}") from None


def teacher_label(teacher: str) -> str:
    """The name of a teacher in tables and records, without the folder of its file."""
    return f"{TORCH}{Path(teacher).name}" if teacher.startswith(TORCH) else teacher


def time_steps(num_steps: int | None, levels: int = 1) -> str:
    """Time steps in words: "an ANN", "T = 4", or "T x D = 1 x 4" with the D levels of integer neurons."""
    if num_steps is None:
        return "an ANN"
    return f"{'T' if levels == 1 else 'T x D'} = {number_of_steps(num_steps, levels)}"


def number_of_steps(num_steps: int, levels: int) -> str:
    """T, or T x D with the D levels of integer neurons, in figures: "4" or "1 x 4"."""
    return f"{num_steps}" if levels == 1 else f"{num_steps} x {levels}"
