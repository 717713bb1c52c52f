"""A whole run: teacher, student without and with distillation, and the comparison.

The teacher's and the baseline's results do not depend on the student's: each network starts from its own seed.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import jax

from snnkd_jax.backend import check_batch_size, compilation_cache, data_mesh
from snnkd_jax.checkpoint import load_network
from snnkd_jax.config import SPIKING_FIELDS, Config
from snnkd_jax.distill import Objective
from snnkd_jax.errors import InputError
from snnkd_jax.fit import evaluate, fit, variables_of
from snnkd_jax.hosts import check_same, first_then_others, of_first, say, together
from snnkd_jax.inputs import Inputs, open_inputs
from snnkd_jax.interrupt import StopRequest
from snnkd_jax.metrics import MetricsLog
from snnkd_jax.models import Network, Variables
from snnkd_jax.optim import make_optimizer
from snnkd_jax.run_dir import (
    check_network,
    full_disk_told,
    open_run_dir,
    read_json,
    run_directory,
    teacher_directory,
    write_json,
    write_network,
)
from snnkd_jax.train import CompiledSteps, Trainer, compile_steps


def run(config: Config) -> dict[str, Any]:
    """Carries out the run, or what is left of it, and returns what `result.json` holds.

    Raises:
        InputError: for anything the user can put right.
        Interrupted: after SIGTERM or SIGINT, when everything has been saved.
    """
    directory = run_directory(config)
    config = config.checked()
    mesh = data_mesh(config.fsdp)
    check_batch_size(config.batch_size, mesh)
    check_same("their arguments", repr(config).encode())
    with StopRequest() as stop, full_disk_told(directory):
        inputs = first_then_others(lambda: open_inputs(config))
        check_same("their copies of the data set", inputs.identity)
        return _Run(config, directory, mesh, inputs, stop).carry_out()


@dataclasses.dataclass(frozen=True)
class _Run:
    config: Config
    directory: Path
    mesh: jax.sharding.Mesh
    inputs: Inputs
    stop: StopRequest

    def carry_out(self) -> dict[str, Any]:
        config = self.config
        objective = config.objective()
        teacher = config.build_teacher(self.inputs.num_classes) if objective.needs_teacher else None
        student = config.build_student(self.inputs.num_classes)
        trainer = self.trainer("student", student, objective, config.epochs, teacher)
        direct = self.trainer("student", student, Objective(label_smoothing=config.label_smoothing), config.epochs)
        teacher_epochs = config.of_teacher().epochs
        alone = None if teacher is None else self.trainer("teacher", teacher, direct.objective, teacher_epochs)
        teacher_variables: Variables = {}
        if teacher is not None and config.teacher_checkpoint is not None:
            teacher_variables = self.load_teacher(teacher, Path(config.teacher_checkpoint))

        # Only now, so that a run that cannot be carried out leaves nothing behind.
        first_then_others(lambda: open_run_dir(self.directory, config))
        if of_first(int((self.directory / "result.json").exists())):
            return read_json(self.directory / "result.json")
        say(self.summary())
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
        of_first(0)  # the others wait until it is written
        return result

    def summary(self) -> str:
        """Devices, batch and learning rate, in a line."""
        config, mesh = self.config, self.mesh
        scaled = (
            "" if config.base_batch_size is None else f", {config.learning_rate:g} a {config.base_batch_size} images"
        )
        divided = "" if config.fsdp is None else f", parameters divided among {config.fsdp}"
        return (
            f"{mesh.size} {mesh.devices.flat[0].platform} device(s) in {jax.process_count()} process(es){divided}; "
            f"batch {config.batch_size}, {config.batch_size // mesh.size} a device; "
            f"peak learning rate {config.peak_learning_rate:g}{scaled}"
        )

    def trainer(
        self, role: str, network: Network, objective: Objective, epochs: int, teacher: Network | None = None
    ) -> Trainer:
        config = self.config
        steps_per_epoch = self.inputs.training.steps_per_epoch
        optimizer = make_optimizer(
            config.optimizer,  # pyright: ignore[reportArgumentType] checked by make_optimizer
            learning_rate=config.peak_learning_rate,
            num_steps=epochs * steps_per_epoch,
            warmup_steps=min(config.warmup_epochs, epochs - 1) * steps_per_epoch,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
        )
        try:
            return Trainer(
                network,
                objective,
                optimizer,
                self.inputs.normalisation,
                self.inputs.augmentation,
                self.inputs.image_shape,
                config.seed,
                teacher,
            )
        except InputError as error:
            raise InputError(f"{role} {getattr(config, role)!r}: {error}") from error

    def load_teacher(self, network: Network, path: Path) -> Variables:
        """The variables in the run directory `path`, checked to be of the teacher that was asked for."""
        with together():
            directory = teacher_directory(path)
            check_network(directory, self.description("teacher"))
        template = jax.eval_shape(lambda: network.init(jax.random.key(0), self.inputs.image_shape))
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
            self.inputs.training,
            self.inputs.validation,
            epochs=epochs,
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
        write_network(self.directory / phase, self.description(phase))
        variables = variables_of(state)
        return self.test(steps, variables), variables

    def test(self, steps: CompiledSteps, variables: Variables) -> dict[str, Any]:
        result = evaluate(steps, variables, self.inputs.test(), self.mesh)
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
            "num_classes": self.inputs.num_classes,
            "image_shape": list(self.inputs.image_shape),
            "dataset": self.inputs.name,
            "class_names": list(self.inputs.class_names),
            "normalisation": dataclasses.asdict(self.inputs.normalisation),
            "spiking": None if is_teacher else {name: getattr(config, name) for name in SPIKING_FIELDS},
        }


def _in_order(results: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every network's result; those that were not asked for are all None."""
    nothing = dict.fromkeys(("accuracy", "accuracy_by_step", "firing_rate", "parameters"))
    return [(name, results.get(name, nothing)) for name in ("teacher", "student_baseline", "student")]
