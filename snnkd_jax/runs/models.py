"""The sections of a configuration that describe networks: teacher, student and the student's neurons."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnkd_jax.errors import InputError, check_choice, check_counts, match_choice

if TYPE_CHECKING:
    from snnkd_jax.dynamics.integration import Neuron
    from snnkd_jax.models import Network

TORCH, GIVEN = "torch:", "given:"
"""What the name of a teacher begins with that is read from a file, or is handed to `experiment.run`."""

MODELS = (
    *("convnet", "vgg11", "vgg13", "vgg16", "resnet18", "resnet34", "resnet20", "resnet19", "wrn-16-2", "wrn-28-4"),
    *("pyramidnet18", "airbench94", "airbench95", "resnet18-imagenet", "resnet34-imagenet"),
    *("sew-resnet18", "sew-resnet34"),
)
"""The keys of `models.MODELS`, known without JAX."""


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """The teacher: an architecture that is trained, or one that is trained already."""

    teacher: str = "pyramidnet18"
    """Architecture of the teacher: convnet, vgg11/13/16, resnet18/34/20/19, wrn-16-2, wrn-28-4,
    pyramidnet18 or airbench94/95; for photographs resnet18/34-imagenet or sew-resnet18/34; or torch:FILE, the state
    dict of one that was trained in PyTorch (models/torch_weights.py says which), of its own width and pooling."""
    teacher_width: float | None = None
    """Multiplier of the teacher's channels; None: as --width."""
    teacher_epochs: int | None = None
    """Training epochs of the teacher; None: as --epochs."""
    teacher_checkpoint: str | None = None
    """Run directory whose teacher is used instead of training one."""
    teacher_levels: int | None = None
    """Levels of quantised activations (QCFS) in the teacher, so that `snnkd convert` can convert it into a spiking
    network of few steps; None: ReLU."""
    teacher_pool: str = "avg"
    """avg or max pooling in the teacher, where it pools (convnet, vgg and airbench)."""
    teacher_normalisation: str = "dataset"
    """What the teacher of torch:FILE was trained with, of pixels in [0, 1]: dataset (mean and std of the training set),
    cifar (mean 0.4914 0.4822 0.4465, std 0.2023 0.1994 0.2010), imagenet, half (0.5, 0.5), or MEAN/STD, such as
    0.49,0.48,0.45/0.25,0.24,0.26."""
    store_teacher: str | None = None
    """Folder in which the teacher's outputs are kept for every training step: other students with the same teacher,
    data, seed, batch size and augmentation read them and do not run the teacher. Logits take 4 bytes per class, image
    and epoch; the features of a preset that compares them take far more, and the size is told first."""
    teacher_only: bool = False
    """Train the teacher and stop; other runs take it as their --teacher-checkpoint."""

    def check(self) -> None:
        """Raises `InputError` for an unknown architecture or options that do not go together."""
        check_counts(self, "teacher_epochs")
        if not self.is_foreign:
            match_choice("teacher: model", self.teacher, MODELS)
            return
        for name in ("teacher_checkpoint", "teacher_levels", "teacher_epochs", "teacher_pool"):
            if getattr(self, name) != getattr(TeacherConfig, name):
                raise InputError(f"{name}={getattr(self, name)!r}: the teacher {self.teacher!r} is given as it is")

    @property
    def file(self) -> Path | None:
        """FILE of `torch:FILE`."""
        return Path(self.teacher.removeprefix(TORCH)) if self.teacher.startswith(TORCH) else None

    @property
    def is_foreign(self) -> bool:
        """Whether the teacher is none of this library's architectures by name, and is trained already."""
        return self.teacher.startswith((TORCH, GIVEN))

    def spelled(self) -> dict[str, Any]:
        """Name and paths in one spelling; raises `InputError` for a normalisation that is not as it should be."""
        from snnkd_jax.data.normalisation import parse_normalisation

        if parse_normalisation(self.teacher_normalisation) is not None and self.file is None:
            raise InputError(f"teacher_normalisation={self.teacher_normalisation!r} goes with teacher='torch:FILE'")
        if self.file is not None:
            teacher = f"{TORCH}{self.file.absolute()}"
        else:
            teacher = self.teacher if self.is_foreign else match_choice("teacher: model", self.teacher, MODELS)
        checkpoint = None if self.teacher_checkpoint is None else str(Path(self.teacher_checkpoint).absolute())
        return {"teacher": teacher, "teacher_checkpoint": checkpoint}

    def build(self, num_classes: int, **options: Any) -> "Network":
        """The network; `options` of `models.build` are those that it shares with the student."""
        from snnkd_jax.models import build

        pool: Any = self.teacher_pool
        return build(self.teacher, num_classes, pool=pool, levels=self.teacher_levels, **options)


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """The spiking student, and how it is differentiated."""

    student: str = "resnet18"
    """Architecture of the student, from the same list as the teacher's."""
    width: float = 1.0
    """Multiplier of all channels, the student's and, without --teacher-width, the teacher's; 0.25 is cheap."""
    num_steps: int = 4
    """T, the student's time steps per image."""
    initial_weights: str = "random"
    """random, or teacher: the student is initialised from its teacher, which has its architecture and width."""
    tdbn: bool = False
    """Threshold-dependent batch norm in the student."""
    pool: str = "avg"
    """avg or max pooling in the student, where it is left open (convnet, vgg and airbench)."""
    backprop: str = "bptt"
    """bptt, exact, or rate: one backward pass for all time steps, in less time and memory (see models/rate.py)."""
    bptt_epochs: int = 0
    """With --backprop rate: so many epochs at the end are differentiated through time, and need the memory for it."""
    remat: str = "none"
    """stage or block: keep only what enters each stage or block for the backward pass, and compute the rest again, in
    less memory and more time, of student and teacher; none: keep everything."""
    dtype: str = "float32"
    """float32 or bfloat16, of convolutions and dense layers; potentials and parameters are float32 always."""

    def check(self) -> None:
        """Raises `InputError` for an unknown name or a value out of range."""
        match_choice("student: model", self.student, MODELS)
        check_counts(self, "num_steps")
        for name, choices in (
            ("initial_weights", ("random", "teacher")),
            ("pool", ("avg", "max")),
            ("backprop", ("bptt", "rate")),
            ("remat", ("none", "stage", "block")),
            ("dtype", ("float32", "bfloat16")),
        ):
            check_choice(name, getattr(self, name), choices)
        if self.remat != "none" and self.backprop == "rate" and not self.bptt_epochs:
            raise InputError(f"remat={self.remat!r}: backprop='rate' keeps nothing to compute again; use remat='none'")

    def build(self, num_classes: int, neuron: "Neuron") -> "Network":
        """The network."""
        from snnkd_jax.models import build

        names = ("num_steps", "width", "tdbn", "pool", "backprop", "dtype", "remat")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        return build(self.student, num_classes, neuron=neuron, **options)


@dataclasses.dataclass(frozen=True)
class NeuronConfig:
    """The student's neurons."""

    neuron: str = "lif"
    """lif, plif (learnable time constant) or if."""
    tau: float = 2.0
    """Membrane time constant in steps, >= 1 (of plif: its initial value, > 1)."""
    v_threshold: float = 1.0
    """A neuron fires when its potential reaches this."""
    v_reset: float | None = 0.0
    """Potential after a spike; None subtracts the threshold instead (soft reset)."""
    decay_input: bool = True
    """Divide the input current by tau."""
    detach_reset: bool = False
    """No gradient through the reset."""
    surrogate: str = "atan"
    """Surrogate derivative of the spike: atan, sigmoid, triangle, rectangle or fast_sigmoid."""
    surrogate_alpha: float | None = None
    """Sharpness of the surrogate derivative; None: 2, 4, 1, 1 and 25 in the order above."""

    def check(self) -> None:
        """Raises `InputError` for an unknown neuron or surrogate."""
        check_choice("neuron", self.neuron, ("lif", "plif", "if"))
        check_choice("surrogate", self.surrogate, ("atan", "sigmoid", "triangle", "rectangle", "fast_sigmoid"))

    def build(self) -> "Neuron":
        """The neurons; raises `InputError` for constants that their equations do not allow."""
        from snnkd_jax.dynamics.neurons import neuron_from

        return neuron_from(dataclasses.asdict(self))


def shown(teacher: str) -> str:
    """The name of a teacher in tables and records, without the folder of its file."""
    return f"{TORCH}{Path(teacher).name}" if teacher.startswith(TORCH) else teacher
