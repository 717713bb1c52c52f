"""The configuration of a run: nested frozen dataclasses with one default per field, checked before anything starts.

A field has the name of its flag on the command line, so names are unique over all sections: `Config.flat` returns all
options by name, and `Config.replace` changes them by name. Parsing needs no JAX, which `build` methods import.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError, check_choice, check_counts, match_choice
from snnkd_jax.runs.data import EVENT_FOLDER, EVENT_SETS, PAIRED_SETS, DataConfig
from snnkd_jax.runs.models import GIVEN, MODELS, NeuronConfig, StudentConfig, TeacherConfig, teacher_label, time_steps
from snnkd_jax.runs.objective import ObjectiveConfig
from snnkd_jax.runs.optimisation import OptimisationConfig
from snnkd_jax.runs.option import Section


@dataclasses.dataclass(frozen=True)
class RunConfig(Section):
    """Seed, run directory, devices and checkpoints."""

    seed: int = 0
    """Random seed of weights, batches, augmentation, noise and the validation split."""
    recipe: str | None = None
    """airbench: other defaults, those of a published training (see runs/config.py); None: the data set's."""
    run_dir: str | None = None
    """Directory of configuration, metrics, checkpoints and result; None: one in runs/, named after the main options."""
    baseline: bool = False
    """Also train the same student without the teacher."""
    distributed: bool | None = None
    """Train together with other processes, on this host or others; None: if JAX detects a cluster."""
    fsdp: int | None = None
    """Shard parameters and optimiser state over this many devices; None: replicated on every device."""
    checkpoint_every: int | None = None
    """Training steps between checkpoints; None: one checkpoint per epoch."""
    keep_checkpoints: int = 3
    """Number of checkpoints kept per network."""
    profile: bool = False
    """Write a trace of a few training steps of the student to <run_dir>/profile, for TensorBoard or Perfetto."""

    def check(self) -> None:
        """Raises `InputError` for a value out of range."""
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed!r} must be in [0, 2^32)")
        if self.recipe is not None:
            check_choice("recipe", self.recipe, RECIPES)
        check_counts(self, "keep_checkpoints", "fsdp", "checkpoint_every")


@dataclasses.dataclass(frozen=True)
class Config:
    """All options of a run, by section."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    teacher: TeacherConfig = dataclasses.field(default_factory=TeacherConfig)
    student: StudentConfig = dataclasses.field(default_factory=StudentConfig)
    neuron: NeuronConfig = dataclasses.field(default_factory=NeuronConfig)
    objective: ObjectiveConfig = dataclasses.field(default_factory=ObjectiveConfig)
    optimisation: OptimisationConfig = dataclasses.field(default_factory=OptimisationConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            section: Any = field.type
            if not isinstance(value := getattr(self, field.name), section):
                advice = "Config().replace(...) changes options by name"
                raise InputError(f"{field.name}={value!r} must be a {section.__name__}; {advice}")

    def flat(self) -> dict[str, Any]:
        """All options by name."""
        return {name: value for section in vars(self).values() for name, value in vars(section).items()}

    def replace(self, **options: Any) -> "Config":
        """A copy with these options changed, whichever section they are in; raises `TypeError` for an unknown name."""
        if unknown := options.keys() - self.flat().keys():
            raise TypeError(f"unknown option(s) {', '.join(sorted(unknown))}")
        sections = {}
        for title, section in vars(self).items():
            own = {name: options[name] for name in options.keys() & vars(section).keys()}
            sections[title] = dataclasses.replace(section, **own)
        return Config(**sections)

    @property
    def needs_teacher(self) -> bool:
        """Whether the student needs a teacher for its objective or its initial weights."""
        return self.objective.build().needs_teacher or self.student.initial_weights == "teacher"

    @property
    def is_plain(self) -> bool:
        """Whether the student has random initial weights and the cross-entropy alone, as a baseline has."""
        return self.objective.is_cross_entropy and self.student.initial_weights == "random"

    @property
    def teacher_width(self) -> float:
        """Width multiplier of the teacher's channels."""
        return self.student.width if self.teacher.teacher_width is None else self.teacher.teacher_width

    @property
    def teacher_epochs(self) -> int:
        """Training epochs of the teacher."""
        return self.optimisation.epochs if self.teacher.teacher_epochs is None else self.teacher.teacher_epochs

    def load_data(self) -> Any:
        """The `Dataset` in memory, events in a frame per time step; raises `InputError` as `DataConfig.load` does."""
        return self.data.load(self.student.num_steps, self.teacher.sees_images)

    def open_data(self) -> Any:
        """The data set, in memory or on disk; raises `InputError` as `DataConfig.open` does."""
        return self.data.open(self.student.num_steps, self.teacher.sees_images)

    def build_student(self, num_classes: int) -> Any:
        """The spiking `Network`."""
        return self.student.build(num_classes, self.neuron.build())

    def build_teacher(self, num_classes: int) -> Any:
        """The teacher's `Network`."""
        student = self.student
        options = {"width": self.teacher_width, "dtype": student.dtype, "remat": student.remat}
        frames = student.num_steps if self.data.has_events and not self.teacher.sees_images else None
        return self.teacher.build(num_classes, frames, **options)

    @property
    def time_steps(self) -> str:
        """The student's time steps in words: "T = 4", or "T x D = 1 x 4" with integer neurons."""
        return time_steps(self.student.num_steps, self.neuron.spikes_per_step)

    @property
    def method(self) -> str:
        """The student's training in words: preset, initial weights unless random, changed loss weights, noise."""
        initial = ["teacher's weights"] * (self.student.initial_weights == "teacher")
        changed = [f"{name.replace('_', ' ')} {value:g}" for name, value in self.objective.given.items()]
        noise = [f"noise {' '.join(self.data.student_noise)}"] if self.data.student_noise else []
        return ", ".join([self.objective.preset, *initial, *changed, *noise])

    def published(self) -> "Config":
        """A copy without the paths of this machine: files and folders by name only."""
        teacher, checkpoint = teacher_label(self.teacher.teacher), self.teacher.teacher_checkpoint
        paths = {"dataset": self.data.label, "data_dir": None, "run_dir": None, "store_teacher": None}
        return self.replace(teacher=teacher, teacher_checkpoint=checkpoint and Path(checkpoint).name, **paths)

    def check(self) -> None:
        """Raises `InputError` for whatever can be found to be wrong without JAX."""
        for section in vars(self).values():
            section.check()
        bptt_epochs, backprop, epochs = self.student.bptt_epochs, self.student.backprop, self.optimisation.epochs
        if not 0 <= bptt_epochs <= epochs or (bptt_epochs and backprop != "rate"):
            raise InputError(f"bptt_epochs={bptt_epochs!r} must be in 0 to epochs={epochs}, and needs backprop='rate'")
        given, default = self.flat(), Config().flat()
        for name in ("teacher_frames", "student_frames"):
            if (value := given[name]) != default[name] and not self.data.has_events:
                raise InputError(f"{name}={value!r} is for events, and {self.data.dataset} has images; leave it out")
        if self.teacher.sees_images and self.data.dataset not in PAIRED_SETS:
            has = " and ".join(PAIRED_SETS)
            raise InputError(
                f"teacher_frames='images': {self.data.dataset} has no images that belong to it; {has} have"
            )
        if self.student.input_coding != "direct" and self.data.has_events:
            found = f"input_coding={self.student.input_coding!r} is for static images"
            raise InputError(f"{found}, and {self.data.dataset} has events, which are spikes; leave it out")
        if self.student.initial_weights == "teacher" and self.teacher.teacher.startswith(GIVEN):
            raise InputError("initial_weights='teacher': a teacher function has no weights; use 'random'")

    def checked(self) -> "Config":
        """A copy with canonical names and absolute paths.

        Raises `InputError` for whatever can be found to be wrong without data and devices.
        """
        self.check()
        student = match_choice("student: model", self.student.student, MODELS)
        config = self.replace(student=student, **self.data.canonical(), **self.teacher.canonical())
        teacher = config.teacher
        config.build_student(2)
        config.optimisation.check_stable(config.objective.build())
        if not teacher.is_foreign:
            try:
                config.build_teacher(2)
            except InputError as error:
                raise InputError(f"teacher (--teacher-width, --teacher-pool, --teacher-levels): {error}") from None
        config.data.augmentation()
        config.data.noise()
        given = teacher.is_foreign or teacher.teacher_checkpoint is not None
        if teacher.teacher_only and (given or not config.needs_teacher):
            raise InputError("teacher_only: this run trains no teacher; use a preset with one, which is to be trained")
        unused = [] if config.objective.build().needs_teacher else ["store_teacher"]
        if not config.needs_teacher:
            unused += ["teacher_checkpoint", "teacher_levels", *["teacher"] * teacher.is_foreign]
        for name in unused:
            if (value := getattr(teacher, name)) is not None:
                raise InputError(f"{name}={value!r}: preset {config.objective.preset!r} uses no teacher")
        return config


_SMALL = {"teacher": "convnet", "student": "convnet", "warmup_epochs": 1, "flip": False, "cutout": 0}
_DIGITS = _SMALL | {"width": 0.25, "teacher_width": 1.0, "preset": "temporal", "num_steps": 2, "baseline": True}
_DIGITS |= {"epochs": 60, "batch_size": 64, "crop_padding": 1}
_MNIST = _SMALL | {"epochs": 20, "crop_padding": 2}
# Frames of events are sparse: at a threshold of 1, layers are silent at first. A teacher that sees single frames has
# what their mean does not tell, and `temporal` gained less than `kdsnn-response` on a validation split.
_OF_EVENTS = {"preset": "kdsnn-response", "teacher_frames": "each", "num_steps": 10, "v_threshold": 0.5}
_EVENT_DIGITS = _DIGITS | _OF_EVENTS | {"width": 0.5, "teacher_width": 0.5, "num_steps": 8, "epochs": 12}
_EVENT_DIGITS |= {"teacher_epochs": 10}
_DEFAULTS: dict[str, dict[str, Any]] = {"digits": _DIGITS, "mnist": _MNIST, "fashion_mnist": _MNIST | {"flip": True}}
_DEFAULTS |= {"cifar10": {}, "cifar100": {}, "event_digits": _EVENT_DIGITS}
_EVENTS = _MNIST | _OF_EVENTS

# The student as in Fang et al. 2021, but for the weight decay, which is 0 there, the warm-up and Nesterov's momentum,
# which their code (SEW-ResNet, imagenet/train.py) does without. The teacher as in torchvision, but for
# the schedule. The validation fraction is a guess.
_IMAGENET: dict[str, Any] = {"student": "sew-resnet18", "epochs": 320, "neuron": "if", "detach_reset": True}
_IMAGENET |= {"teacher": "resnet34-imagenet", "teacher_epochs": 90, "batch_size": 256, "weight_decay": 1e-4}
_IMAGENET |= {"crop_padding": 0, "cutout": 0, "validation_fraction": 0.02}


# airbench94 of Jordan 2024 (arXiv 2404.00498), for teacher and student; for CIFAR-10. There, the learning rate is 11.5
# and the weight decay 0.0153 per 1024 examples, for a loss that is summed over the batch, before a division by
# 1 + 1 / (1 - 0.85) for Nesterov's momentum. There it also takes 9.9 epochs, and GELU instead of ReLU.
_AIRBENCH: dict[str, Any] = {
    **dict.fromkeys(("teacher", "student"), "airbench94-whitened"),
    **dict.fromkeys(("teacher_pool", "pool"), "max"),
    **{"epochs": 10, "teacher_epochs": None, "batch_size": 1024, "base_batch_size": 1024, "label_smoothing": 0.2},
    **{"learning_rate": 1.5, "schedule": "triangle", "warmup_epochs": 0, "momentum": 0.85, "lookahead": 5},
    **{"weight_decay": 0.0153 / 11.5, "decay_biases": True, "norm_bias_scale": 64.0, "whitening_bias_epochs": 3},
    **{"crop_padding": 2, "reflect_padding": True, "flip": True, "alternate_flip": True, "cutout": 0},
    "validation_fraction": 0.0,
}
RECIPES: dict[str, dict[str, Any]] = {"airbench": _AIRBENCH}
"""Options of published trainings."""


def default_config(dataset: str, recipe: str | None = None) -> Config:
    """The default configuration of a data set, with the options of a recipe; of ImageNet for any that is on disk.

    Raises `InputError` for an unknown recipe.
    """
    others = _EVENTS if dataset in EVENT_SETS or dataset.startswith(EVENT_FOLDER) else _IMAGENET
    options = _DEFAULTS.get(dataset, others)
    if recipe is not None:
        check_choice("recipe", recipe, RECIPES)
        options = options | RECIPES[recipe]
    return Config().replace(dataset=dataset, recipe=recipe, **options)


def config_of(saved: Mapping[str, Any], where: str) -> Config:
    """The configuration saved as `Config.flat`, with defaults for options that were added later.

    Raises `InputError`, naming `where`, if it is not a configuration of this program.
    """
    try:
        return default_config(saved["dataset"]).replace(**saved)
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{where} is not a configuration of this version ({type(error).__name__}: {error})") from error
