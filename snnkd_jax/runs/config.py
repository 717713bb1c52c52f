"""The configuration of a run: one frozen dataclass, one default each, checked before anything starts."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from snnkd_jax.data import NAMES
from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.normalisation import parse_normalisation
from snnkd_jax.distill.objective import PRESETS, Objective
from snnkd_jax.dynamics.neurons import IF, LIF, neuron_of
from snnkd_jax.dynamics.surrogate import SURROGATES
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.models import Network, build, canonical_name

SPIKING_FIELDS = (
    "num_steps",
    "neuron",
    "tau",
    "v_threshold",
    "v_reset",
    "decay_input",
    "detach_reset",
    "surrogate",
    "surrogate_alpha",
    "tdbn",
    "pool",
)
"""What `network.json` says of a student beyond what it says of a teacher."""

TORCH, GIVEN = "torch:", "given:"
"""What the name of a teacher begins with that is read from a file, or is handed to `experiment.run`."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Config:
    """Distil a spiking student from an ordinary teacher on an image data set.

    The defaults depend on --dataset; those below are CIFAR-10's unless --dataset is given with --help.
    """

    dataset: str = "cifar10"
    """digits (ships with scikit-learn, needs no download), mnist, fashion_mnist, cifar10 or cifar100, held in memory;
    or any image classification set that TFDS has prepared as array_record, read from disk, such as imagenet2012."""
    data_dir: str | None = None
    """Folder of the data sets, as TFDS keeps them; None: TFDS_DATA_DIR, or ~/tensorflow_datasets."""
    image_size: int = 224
    """Side in pixels to which images that are read from disk are brought."""
    workers: int = 16
    """Threads that read and decode images from disk, in each process; no result depends on it."""
    teacher: str = "pyramidnet18"
    """Architecture of the teacher: convnet, vgg11/13/16, resnet18/34/20/19, wrn-16-2, wrn-28-4,
    pyramidnet18 or airbench94/95; for photographs resnet18/34-imagenet or sew-resnet18/34; or torch:FILE, the state
    dict of one that was trained in PyTorch (torch_weights.py says which), of its own width and pooling."""
    student: str = "resnet18"
    """Architecture of the student, from the same list."""
    width: float = 1.0
    """Multiplier of all channels, the student's and, without --teacher-width, the teacher's; 0.25 is cheap."""
    teacher_width: float | None = None
    """Multiplier of the teacher's channels; None: as --width."""
    preset: str = "kdsnn-feature"
    """Distillation objective: none, kdsnn-response, kdsnn-feature, kdsnn (both), kdsnn-last, lasnn, sakd, bkdsnn, enof,
    tet, temporal, tks, tser, hta-kl, dist or strong2weak."""
    initial_weights: str = "random"
    """random, or teacher: the student begins with the weights of its teacher, which has its architecture and width."""
    num_steps: int = 4
    """T, the student's time steps per image."""
    epochs: int = 200
    """Training epochs of the student."""
    teacher_epochs: int | None = None
    """Training epochs of the teacher; None: as --epochs."""
    batch_size: int = 128
    """Images per training step, over all devices of all hosts; a multiple of their number."""
    distributed: bool | None = None
    """Whether other processes, of this host or others, train with this one; None: wherever JAX detects a cluster."""
    fsdp: int | None = None
    """Divide parameters and optimiser state among so many devices; None: all of them whole on every device."""
    seed: int = 0
    """Of weights, batches, augmentation and the validation split."""
    run_dir: str | None = None
    """Where configuration, metrics, checkpoints and result go; None: runs/ and the run's main arguments. The same
    command goes on where it was interrupted."""
    teacher_checkpoint: str | None = None
    """Run directory whose teacher is used instead of training one."""
    teacher_levels: int | None = None
    """Levels of quantised activations (QCFS) in the teacher, so that experiments/convert.py can convert it into a
    spiking network of few steps; None: ReLU."""
    teacher_pool: str = "avg"
    """avg or max pooling in the teacher, where it pools (convnet, vgg and airbench)."""
    teacher_normalisation: str = "dataset"
    """What the teacher of torch:FILE was trained with, of pixels in [0, 1]: dataset (mean and std of the training set),
    cifar (mean 0.4914 0.4822 0.4465, std 0.2023 0.1994 0.2010), imagenet, half (0.5, 0.5), or MEAN/STD, such as
    0.49,0.48,0.45/0.25,0.24,0.26."""
    store_teacher: str | None = None
    """Folder in which the teacher's outputs are kept for every training step: other students with the same teacher,
    data, seed, batch size and augmentation read them and do not run the teacher. Logits take 4 bytes a class and image
    and epoch; the features of a preset that compares them take far more, and the size is told first."""
    teacher_only: bool = False
    """Train the teacher and stop; other runs take it as their --teacher-checkpoint."""
    baseline: bool = False
    """Also train the same student without the teacher."""

    neuron: str = "lif"
    """lif, plif (learnable time constant) or if."""
    tau: float = 2.0
    """Membrane time constant in steps, >= 1 (of plif: its start, > 1)."""
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
    """Its sharpness; None: 2, 4, 1, 1 and 25 in the order above."""
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
    accumulate: int = 1
    """Parts of a batch that are computed one after another, in the memory of one; batch norm sees one at a time."""

    ce_weight: float | None = None
    """Weight of the cross-entropy; None: the preset's."""
    kd_weight: float | None = None
    """Weight of the distance from the teacher's soft labels; None: the preset's."""
    steps_weight: float | None = None
    """Weight of what the time steps teach each other; None: the preset's."""
    feature_weight: float | None = None
    """Weight of the distance from the teacher's features; None: the preset's."""
    temperature: float | None = None
    """Of the soft labels; None: the preset's."""
    label_smoothing: float = 0.0
    """Of the cross-entropy, for teacher and student."""

    optimizer: str = "sgd"
    """sgd (Nesterov) or adamw, for teacher and student."""
    learning_rate: float = 0.1
    """Its peak; the schedule is a half cosine to 0."""
    base_batch_size: int | None = None
    """The learning rate is that of a batch of this size, and grows in proportion to --batch-size; None: it does not."""
    warmup_epochs: int = 5
    """Epochs of linear warm-up; at most all epochs but one."""
    momentum: float = 0.9
    """Of sgd."""
    weight_decay: float = 5e-4
    """On the weights of convolutions and dense layers, not on norms, biases and neuron parameters."""
    clip_norm: float | None = None
    """Largest global gradient norm; None: no clipping."""
    crop_padding: int = 4
    """Random shift by up to this many pixels. Images from disk are cropped by area before, in any case."""
    flip: bool = True
    """Random mirroring."""
    cutout: int = 8
    """Side of the blanked square in pixels; 0: none."""
    dtype: str = "float32"
    """float32 or bfloat16, of convolutions and dense layers; potentials and parameters are float32 always."""
    validation_fraction: float = 0.1
    """Share of the training set that is held out; the test set is used once, after the last epoch."""

    checkpoint_every: int | None = None
    """Training steps between checkpoints; None: one an epoch."""
    keep_checkpoints: int = 3
    """Checkpoints kept for each network."""
    profile: bool = False
    """Write a trace of a few training steps of the student to <run_dir>/profile, for TensorBoard or Perfetto."""

    def neurons(self) -> LIF | IF:
        """The student's neurons."""
        check_choice("surrogate", self.surrogate, SURROGATES)
        make = SURROGATES[self.surrogate]
        spike = make() if self.surrogate_alpha is None else make(self.surrogate_alpha)
        return neuron_of(
            self.neuron,
            tau=self.tau,
            v_threshold=self.v_threshold,
            v_reset=self.v_reset,
            decay_input=self.decay_input,
            detach_reset=self.detach_reset,
            surrogate=spike,
        )

    def build_student(self, num_classes: int) -> Network:
        """The spiking network."""
        return build(
            self.student,
            num_classes,
            neuron=self.neurons(),
            num_steps=self.num_steps,
            width=self.width,
            tdbn=self.tdbn,
            pool=self.pool,  # pyright: ignore[reportArgumentType] checked by build
            backprop=self.backprop,  # pyright: ignore[reportArgumentType] checked by build
            dtype=DTYPES[self.dtype],
            remat=self.remat,  # pyright: ignore[reportArgumentType] checked by build
        )

    def build_teacher(self, num_classes: int) -> Network:
        """The ordinary network."""
        config = self.of_teacher()
        return build(
            config.teacher,
            num_classes,
            width=config.width,
            pool=config.teacher_pool,  # pyright: ignore[reportArgumentType] checked by build
            levels=config.teacher_levels,
            dtype=DTYPES[config.dtype],
            remat=config.remat,  # pyright: ignore[reportArgumentType] checked by build
        )

    @property
    def teacher_file(self) -> Path | None:
        """FILE of `torch:FILE`."""
        return Path(self.teacher.removeprefix(TORCH)) if self.teacher.startswith(TORCH) else None

    @property
    def has_foreign_teacher(self) -> bool:
        """Whether the teacher is none of this library's architectures by name, and is trained already."""
        return self.teacher.startswith((TORCH, GIVEN))

    def published(self) -> "Config":
        """The same without the paths of this machine: of files and folders, their names."""
        checkpoint = None if self.teacher_checkpoint is None else Path(self.teacher_checkpoint).name
        return dataclasses.replace(
            self, teacher=shown(self.teacher), teacher_checkpoint=checkpoint, run_dir=None, store_teacher=None
        )

    def objective(self) -> Objective:
        """The student's objective: the preset, with the weights that were given."""
        check_choice("preset", self.preset, PRESETS)
        return dataclasses.replace(PRESETS[self.preset], label_smoothing=self.label_smoothing, **self.given_weights)

    @property
    def given_weights(self) -> dict[str, float]:
        """The weights of loss terms and the temperature that stand in the place of the preset's."""
        names = ("ce_weight", "kd_weight", "steps_weight", "feature_weight", "temperature")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def method(self) -> str:
        """How the student is taught, in words: the preset, initial weights that are not random, changed weights."""
        initial = ["teacher's weights"] * (self.initial_weights == "teacher")
        changed = [f"{name.replace('_', ' ')} {value:g}" for name, value in self.given_weights.items()]
        return ", ".join([self.preset, *initial, *changed])

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate of a batch of `batch_size`, lr · B / B_base (Goyal et al. 2017, arXiv 1706.02677, 2.1)."""
        if self.base_batch_size is None:
            return self.learning_rate
        return self.learning_rate * self.batch_size / self.base_batch_size

    @property
    def needs_teacher(self) -> bool:
        """Whether the student owes its objective or its initial weights to a teacher."""
        return self.objective().needs_teacher or self.initial_weights == "teacher"

    @property
    def is_plain(self) -> bool:
        """Whether the student has random weights and the cross-entropy alone, so that it is the baseline of others."""
        return self.has_no_guidance and self.initial_weights == "random"

    @property
    def has_no_guidance(self) -> bool:
        """Whether the cross-entropy alone trains the student, whatever it begins with."""
        return self.objective() == Objective(label_smoothing=self.label_smoothing)

    def augmentation(self) -> Augmentation:
        """What is done to training images."""
        return Augmentation(self.crop_padding, self.flip, self.cutout)

    def of_teacher(self) -> "Config":
        """The same with the teacher's width and epochs in the place of the student's."""
        width = self.width if self.teacher_width is None else self.teacher_width
        epochs = self.epochs if self.teacher_epochs is None else self.teacher_epochs
        return dataclasses.replace(self, width=width, epochs=epochs)

    def checked(self) -> "Config":
        """The same with names and paths in one spelling.

        Raises `InputError` for whatever can be seen to be wrong without data and devices.
        """
        spelled: dict[str, Any] = {}
        for name in ("student",) if self.has_foreign_teacher else ("teacher", "student"):
            try:
                spelled[name] = canonical_name(getattr(self, name))
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        if self.teacher_file is not None:
            spelled["teacher"] = f"{TORCH}{self.teacher_file.absolute()}"
        if parse_normalisation(self.teacher_normalisation) is not None and self.teacher_file is None:
            raise InputError(
                f"teacher_normalisation={self.teacher_normalisation!r} goes with teacher='torch:FILE'; other teachers "
                "are trained with the data set's"
            )
        if self.teacher_checkpoint is not None:
            spelled["teacher_checkpoint"] = str(Path(self.teacher_checkpoint).absolute())
        counts = ("num_steps", "epochs", "teacher_epochs", "batch_size", "base_batch_size", "fsdp", "accumulate")
        for name in (*counts, "checkpoint_every", "keep_checkpoints", "image_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}={value!r} must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed!r} must be in [0, 2^32)")
        if self.warmup_epochs < 0:
            raise InputError(f"warmup_epochs={self.warmup_epochs!r} must be at least 0")
        if not 0 <= self.bptt_epochs <= self.epochs or (self.bptt_epochs and self.backprop != "rate"):
            raise InputError(
                f"bptt_epochs={self.bptt_epochs!r} must be in 0 to epochs={self.epochs}, and goes with backprop='rate'"
            )
        if self.remat != "none" and self.backprop == "rate" and not self.bptt_epochs:
            raise InputError(
                f"remat={self.remat!r}: backprop='rate' keeps nothing that could be computed again; use remat='none'"
            )
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("initial_weights", self.initial_weights, ("random", "teacher"))
        if self.initial_weights == "teacher" and self.teacher.startswith(GIVEN):
            raise InputError("initial_weights='teacher': a function has no weights that a student could begin with")
        self.build_student(2)
        if not self.has_foreign_teacher:
            try:
                self.build_teacher(2)
            except InputError as error:
                raise InputError(f"teacher (--teacher-width, --teacher-pool, --teacher-levels): {error}") from None
        self.augmentation()
        self.objective()
        given = self.has_foreign_teacher or self.teacher_checkpoint is not None
        if self.teacher_only and (given or not self.needs_teacher):
            raise InputError(
                "teacher_only: this run trains no teacher; use a preset with one, and a teacher that is to be trained"
            )
        of_teacher = ("teacher_checkpoint", "teacher_levels", *["teacher"] * self.has_foreign_teacher)
        unused = () if self.needs_teacher else of_teacher
        for name in (*unused, *["store_teacher"] * (not self.objective().needs_teacher)):
            if getattr(self, name) is not None:
                raise InputError(f"{name}={getattr(self, name)!r}: preset {self.preset!r} uses no teacher")
        for name in ("teacher_checkpoint", "teacher_levels", "teacher_epochs", "teacher_pool"):
            if getattr(self, name) != getattr(Config, name) and self.has_foreign_teacher:
                raise InputError(f"{name}={getattr(self, name)!r}: the teacher {self.teacher!r} is given as it is")
        return dataclasses.replace(self, **spelled)


def shown(teacher: str) -> str:
    """The name of a teacher in tables and records, without the folder of its file."""
    return f"{TORCH}{Path(teacher).name}" if teacher.startswith(TORCH) else teacher


_MNIST = {
    "teacher": "convnet",
    "student": "convnet",
    "epochs": 20,
    "warmup_epochs": 1,
    "crop_padding": 2,
    "flip": False,
    "cutout": 0,
}

# The student's: Fang et al. 2021, but for the weight decay, which is 0 there. The teacher's: torchvision's, but for the
# schedule. What is held out for validation is a guess.
_IMAGENET = {
    "teacher": "resnet34-imagenet",
    "student": "sew-resnet18",
    "epochs": 320,
    "teacher_epochs": 90,
    "batch_size": 256,
    "neuron": "if",
    "detach_reset": True,
    "weight_decay": 1e-4,
    "crop_padding": 0,
    "cutout": 0,
    "validation_fraction": 0.02,
}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "teacher": "convnet",
        "student": "convnet",
        "width": 0.25,
        "teacher_width": 1.0,
        "preset": "temporal",
        "num_steps": 2,
        "epochs": 60,
        "batch_size": 64,
        "baseline": True,
        "warmup_epochs": 1,
        "crop_padding": 1,
        "flip": False,
        "cutout": 0,
    },
    "mnist": _MNIST,
    "fashion_mnist": _MNIST | {"flip": True},
}


def default_config(dataset: str) -> Config:
    """The default configuration for a data set; those that are not held in memory have ImageNet's."""
    return Config(dataset=dataset, **_DEFAULTS.get(dataset, {} if dataset in NAMES else _IMAGENET))
