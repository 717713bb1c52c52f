"""A whole run: teacher, student without and with distillation, and the comparison.

The teacher's and the baseline's results do not depend on the student's: each network starts from its own seed.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from snnkd_jax import data
from snnkd_jax.backend import check_batch_size, compilation_cache, data_mesh
from snnkd_jax.batches import Batch, split_validation
from snnkd_jax.checkpoint import load_network
from snnkd_jax.config import SPIKING_FIELDS, Config
from snnkd_jax.distill import Objective
from snnkd_jax.errors import InputError
from snnkd_jax.fit import evaluate, fit, variables_of
from snnkd_jax.interrupt import StopRequest
from snnkd_jax.metrics import MetricsLog
from snnkd_jax.models import Network, Variables
from snnkd_jax.optim import make_optimizer
from snnkd_jax.run_dir import check_network, open_run_dir, read_json, run_directory, teacher_directory, write_json
from snnkd_jax.train import CompiledSteps, Normalisation, Trainer, compile_steps


def run(config: Config) -> dict[str, Any]:
    """Carries out the run, or what is left of it, and returns what `result.json` holds.

    Raises:
        InputError: for anything the user can put right.
        Interrupted: after SIGTERM or SIGINT, when everything has been saved.
    """
    directory = run_directory(config)
    config = config.checked()
    mesh = data_mesh()
    check_batch_size(config.batch_size, mesh, config.accumulate)
    with StopRequest() as stop:
        dataset = data.load(config.dataset)
        training, validation = split_validation(dataset, config.validation_fraction, config.seed)
        if config.batch_size > len(training["labels"]):
            raise InputError(f"batch_size={config.batch_size!r} is above the {len(training['labels'])} training images")
        return _Run(config, directory, mesh, dataset, training, validation, stop).carry_out()


@dataclasses.dataclass(frozen=True)
class _Run:
    config: Config
    directory: Path
    mesh: jax.sharding.Mesh
    dataset: data.Dataset
    training: Batch
    validation: Batch
    stop: StopRequest

    def carry_out(self) -> dict[str, Any]:
        config = self.config
        objective = config.objective()
        teacher = config.build_teacher(self.dataset.num_classes) if objective.needs_teacher else None
        student = config.build_student(self.dataset.num_classes)
        trainer = self.trainer("student", student, objective, config.epochs, teacher)
        direct = self.trainer("student", student, Objective(label_smoothing=config.label_smoothing), config.epochs)
        teacher_epochs = config.of_teacher().epochs
        alone = None if teacher is None else self.trainer("teacher", teacher, direct.objective, teacher_epochs)
        teacher_variables: Variables = {}
        if teacher is not None and config.teacher_checkpoint is not None:
            teacher_variables = self.load_teacher(teacher, Path(config.teacher_checkpoint))

        # Only now, so that a run that cannot be carried out leaves nothing behind.
        open_run_dir(self.directory, config)
        if (self.directory / "result.json").exists():
            return read_json(self.directory / "result.json")
        results: dict[str, Any] = {}
        log = MetricsLog(self.directory)
        with contextlib.closing(log), compilation_cache(self.directory / "compilation-cache"):
            if alone is not None and teacher_variables:
                results["teacher"] = self.test(compile_steps(alone, self.mesh), teacher_variables)
            elif alone is not None:
                results["teacher"], teacher_variables = self.train("teacher", alone, {}, teacher_epochs, log)
            if config.baseline and objective != direct.objective and not config.teacher_only:
                results["student_baseline"], _ = self.train("student_baseline", direct, {}, config.epochs, log)
            if not config.teacher_only:
                results["student"], _ = self.train("student", trainer, teacher_variables, config.epochs, log)
        result = {
            "test_accuracy": {name: r["accuracy"] for name, r in _in_order(results)},
            "test_accuracy_by_step": {name: r["accuracy_by_step"] for name, r in _in_order(results)},
            "firing_rate": {name: r["firing_rate"] for name, r in _in_order(results)},
            "parameters": {name: r["parameters"] for name, r in _in_order(results)},
            "seconds": log.seconds(),
            **read_json(self.directory / "config.json"),
        }
        write_json(self.directory / "result.json", result)
        return result

    def trainer(
        self, role: str, network: Network, objective: Objective, epochs: int, teacher: Network | None = None
    ) -> Trainer:
        config = self.config
        steps_per_epoch = len(self.training["labels"]) // config.batch_size
        optimizer = config_optimizer(config, epochs, steps_per_epoch)
        try:
            return Trainer(
                network,
                objective,
                optimizer,
                pixel_statistics(self.dataset),
                config.augmentation(),
                self.dataset.image_shape,
                config.seed,
                teacher,
                config.accumulate,
            )
        except InputError as error:
            raise InputError(f"{role} {getattr(config, role)!r}: {error}") from error

    def load_teacher(self, network: Network, path: Path) -> Variables:
        """The variables in the run directory `path`, checked to be of the teacher that was asked for."""
        directory = teacher_directory(path)
        check_network(directory, self.description("teacher"))
        template = jax.eval_shape(lambda: network.init(jax.random.key(0), self.dataset.image_shape))
        try:
            return load_network(directory, template, self.mesh)
        except InputError as error:
            raise InputError(f"teacher_checkpoint: {error}") from error

    def train(
        self, phase: str, trainer: Trainer, teacher_variables: Variables, epochs: int, log: MetricsLog
    ) -> tuple[dict[str, Any], Variables]:
        """Trains one network, or what is left of it, and returns its test result and variables."""
        config = self.config
        state, steps = fit(
            phase,
            trainer,
            teacher_variables,
            self.training,
            self.validation,
            epochs=epochs,
            batch_size=config.batch_size,
            mesh=self.mesh,
            run_dir=self.directory,
            log=log,
            stop=self.stop,
            checkpoint_every=config.checkpoint_every,
            keep_checkpoints=config.keep_checkpoints,
            profile=config.profile and phase == "student",
            bptt_epochs=0 if phase == "teacher" else config.bptt_epochs,
        )
        # Written last: a network without it is not trained to its end.
        write_json(self.directory / phase / "network.json", self.description(phase))
        variables = variables_of(state)
        return self.test(steps, variables), variables

    def test(self, steps: CompiledSteps, variables: Variables) -> dict[str, Any]:
        test_set = {"images": self.dataset.test_images, "labels": self.dataset.test_labels}
        result = evaluate(steps, variables, test_set, self.config.batch_size, self.mesh)
        return result | {"parameters": sum(x.size for x in jax.tree.leaves(variables["params"]))}

    def description(self, phase: str) -> dict[str, Any]:
        """What `network.json` says of a network, enough to build it again and to feed it."""
        is_teacher = phase == "teacher"
        config = self.config.of_teacher() if is_teacher else self.config
        return {
            "model": config.teacher if is_teacher else config.student,
            "width": config.width,
            "levels": config.teacher_levels if is_teacher else None,
            "dtype": config.dtype,
            "num_classes": self.dataset.num_classes,
            "image_shape": list(self.dataset.image_shape),
            "dataset": self.dataset.name,
            "class_names": list(self.dataset.class_names),
            "normalisation": dataclasses.asdict(pixel_statistics(self.dataset)),
            "spiking": None if is_teacher else {name: getattr(config, name) for name in SPIKING_FIELDS},
        }


def config_optimizer(config: Config, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of a training that takes so many epochs."""
    return make_optimizer(
        config.optimizer,  # pyright: ignore[reportArgumentType] checked by make_optimizer
        learning_rate=config.learning_rate,
        num_steps=epochs * steps_per_epoch,
        warmup_steps=min(config.warmup_epochs, epochs - 1) * steps_per_epoch,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )


def pixel_statistics(dataset: data.Dataset) -> Normalisation:
    """Of the whole training set, so that they do not depend on the seed; computed from counts, hence exactly."""
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in np.moveaxis(dataset.train_images, -1, 0):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        mean.append(round(float(share @ values), 6))
        std.append(round(float(np.sqrt(share @ (values - share @ values) ** 2)), 6))
    return Normalisation(tuple(mean), tuple(std))


def _in_order(results: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every network's result; those that were not asked for are all None."""
    nothing = dict.fromkeys(("accuracy", "accuracy_by_step", "firing_rate", "parameters"))
    return [(name, results.get(name, nothing)) for name in ("teacher", "student_baseline", "student")]
