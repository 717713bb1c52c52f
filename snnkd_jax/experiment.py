"""A whole run from a configuration: teacher, student without and with distillation, and the comparison.

The teacher's and the baseline's results do not depend on the student: each network is trained from the run's seed.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snnkd_jax.data.inputs import Data, Inputs, open_inputs
from snnkd_jax.digest import checksum
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError
from snnkd_jax.files import is_remote
from snnkd_jax.fitting import evaluate_on_test, finish_run, fit, is_finished, make_trainer, observe_student, opened_run
from snnkd_jax.inference.trained import Trained
from snnkd_jax.models import Network
from snnkd_jax.parallel.hosts import check_equal_on_all_hosts, host0_first, print_on_host0
from snnkd_jax.parallel.mesh import check_batch_size, data_mesh
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.models import GIVEN, teacher_label
from snnkd_jax.runs.result import read_result
from snnkd_jax.runs.run_dir import content_digests, epochs_extended, epochs_scheduled, report_disk_full, run_directory
from snnkd_jax.runs.teacher import RunTeacher, split_warning
from snnkd_jax.training.compiled import Evaluation, compile_evaluation
from snnkd_jax.training.interrupt import StopRequest
from snnkd_jax.training.loop import RunContext, evaluate
from snnkd_jax.training.metrics import MetricsLog
from snnkd_jax.training.trainer import TeacherNetwork, Trainer


def run(config: Config, teacher: Trained | Teacher | None = None) -> dict[str, Any]:
    """Runs or resumes a configuration, and returns the content of `result.json`.

    A trained `teacher` replaces the one of the configuration. Raises `InputError` for wrong input, and `Interrupted`
    after Ctrl-C, SIGTERM or a scheduler's signal (`StopRequest`), when everything has been saved.
    """
    teacher = teacher.as_teacher() if isinstance(teacher, Trained) else teacher
    if teacher is not None:
        config = config.replace(teacher=f"{GIVEN}{teacher.title}")
    elif config.teacher.teacher.startswith(GIVEN):
        raise InputError(f"teacher {config.teacher.teacher!r} is a function; hand it to snnkd_jax.experiment.run")
    directory = run_directory(config)
    if config.run.profile and is_remote(directory):
        raise InputError(f"profile: JAX writes traces to local directories, not to run_dir {directory}; leave it out")
    config = config.checked()
    mesh = data_mesh(config.run.fsdp)
    check_batch_size(config.optimisation.batch_size, mesh, config.optimisation.accumulate)
    check_equal_on_all_hosts("their arguments", repr(config).encode())
    with StopRequest() as stop, report_disk_full(directory):
        data = host0_first(config.open_data)
        check_equal_on_all_hosts("their copies of the data set", data.identity)
        inputs = open_inputs(data, config.optimisation.batch_size, config.run.seed)
        _ = data.normalisation  # measured here, so that an error in the data is not reported as one of a network
        run_teacher = RunTeacher(config, _seen_by_teacher(data), mesh, teacher)
        return _Run(config, directory, mesh, data, inputs, stop, run_teacher).run()


@dataclasses.dataclass(frozen=True)
class _Run:
    config: Config
    directory: Path
    mesh: jax.sharding.Mesh
    data: Data
    inputs: Inputs
    stop: StopRequest
    run_teacher: RunTeacher

    def run(self) -> dict[str, Any]:
        config = self.config
        _ = self.extended  # before a network is blamed for what is wrong with it
        given = self.run_teacher.load() if config.needs_teacher else None
        untrained = self.run_teacher.build() if config.needs_teacher and given is None else None
        student = config.build_student(len(self.data.class_names))
        self.check(student, untrained, given)
        loaded = None if config.teacher.teacher_checkpoint is None else given
        weights = None if loaded is None else np.asarray(checksum(loaded.variables)).tobytes()
        contents = content_digests(self.data.identity, weights, getattr(self.data, "split_digest", None))
        # Only after the checks, so that a run that cannot start leaves no files behind.
        with opened_run(self.directory, {"config": config.flat()}, contents) as log:
            if log is None:
                result = read_result(self.directory)
                assert result is not None
                return result
            print_on_host0(self.summary())
            results = self.train_networks(student, untrained, given, log)
        return finish_run(self.directory, results, log)

    def train_networks(
        self, student: Network, untrained: Network | None, given: Teacher | None, log: MetricsLog
    ) -> dict[str, dict[str, Any]]:
        """Trains the networks that the configuration asks for, and returns the results by role."""
        config, results, teacher = self.config, {}, given
        if untrained is not None:
            teacher = self.fit("teacher", untrained, log)
            results["teacher"] = teacher.result
        elif given is not None:
            if config.teacher.file is not None:
                self.run_teacher.keep(given.variables, self.directory)
            inputs = self.teacher_inputs
            results["teacher"] = evaluate_on_test(self.evaluation(given), given.variables, inputs, self.mesh)
        if config.teacher.teacher_only:
            return results
        if config.run.baseline and not config.is_plain:
            results["student_baseline"] = self.fit("student_baseline", student, log).result
        trained = self.fit("student", student, log, teacher)
        observe_student(trained, self.inputs, self.directory)
        return results | {"student": trained.result}

    def fit(self, role: str, network: Network, log: MetricsLog, teacher: Trained | Teacher | None = None) -> Trained:
        """Trains one network; all but the student with the cross-entropy alone."""
        config, run, is_student = self.config, self.config.run, role == "student"
        kept = {"checkpoint_every": run.checkpoint_every, "keep_checkpoints": run.keep_checkpoints}
        profile = run.profile and is_student
        context = RunContext(self.directory, role, log, self.stop, **kept, profile=profile, extended=self.extended)
        from_teacher = config.student.initial_weights == "teacher"
        return fit(
            network,
            self.data_of(role),
            **self.options(role, teacher),
            epochs=self.epochs(role),
            extend=self.extend(role),
            run_dir=context,
            lookahead=config.optimisation.lookahead,
            initial=teacher.variables if teacher is not None and from_teacher else None,
            bptt_epochs=0 if role == "teacher" else config.student.bptt_epochs,
            fsdp=run.fsdp,
            store_teacher=config.teacher.store_teacher if is_student else None,
        )

    def data_of(self, role: str) -> Data:
        """What a network sees: the teacher perhaps the images that belong to the student's events."""
        return _seen_by_teacher(self.data) if role == "teacher" else self.data

    @functools.cached_property
    def teacher_inputs(self) -> Inputs:
        return open_inputs(self.data_of("teacher"), self.config.optimisation.batch_size, self.config.run.seed)

    def epochs(self, role: str) -> int:
        return self.config.teacher_epochs if role == "teacher" else self.config.optimisation.epochs

    def extend(self, role: str) -> int:
        """The epochs by which a network is extended: the students, or a teacher that is trained alone."""
        is_extended = role != "teacher" or self.config.teacher.teacher_only
        return self.config.optimisation.extend if is_extended else 0

    @functools.cached_property
    def extended(self) -> int:
        return epochs_extended(self.directory, self.config.optimisation.extend)

    def options(self, role: str, teacher: Any) -> dict[str, Any]:
        """Returns the arguments that `fit` and `make_trainer` share."""
        config = self.config
        scheduled = epochs_scheduled(self.epochs(role), self.extend(role), self.extended)
        return {
            "teacher": teacher,
            "objective": config.objective.build() if role == "student" else config.objective.cross_entropy(),
            "optimizer": config.optimisation.build(scheduled, self.inputs.training.steps_per_epoch),
            "augment": config.data.augmentation(images=self.data_of(role).frames is None),
            "student_noise": None if role == "teacher" else config.data.noise(),
            "batch_size": config.optimisation.batch_size,
            "seed": config.run.seed,
            "accumulate": config.optimisation.accumulate,
        }

    def check(self, student: Network, untrained: Network | None, given: Teacher | None) -> None:
        """Raises `InputError` for what does not fit together, before anything is trained or written."""
        config = self.config
        teacher = given if untrained is None else untrained
        if untrained is not None:
            self.trainer("teacher", untrained)
        trainer = self.trainer("student", student, teacher)
        if given is not None and config.teacher.is_foreign and not is_finished(self.directory):
            split, batches = "training", self.teacher_inputs.training_sample()
            if self.teacher_inputs.validation is not None:
                split, batches = "validation", self.teacher_inputs.validation()
            accuracy = evaluate(self.evaluation(given), given.variables, batches, self.mesh)["accuracy"]
            print_on_host0(f"teacher {teacher_label(config.teacher.teacher)}: {split} accuracy {accuracy:.4f}")
            self.run_teacher.check_accuracy(accuracy, split)
        if teacher is not None and config.student.initial_weights == "teacher":
            try:
                jax.eval_shape(lambda key: trainer.init(teacher.init(key, self.data.image_shape)), jax.random.key(0))
            except InputError as error:
                raise InputError(
                    f"initial_weights='teacher': {error}; the teacher ({teacher_label(config.teacher.teacher)}) must "
                    f"have the architecture, width and image channels of the student ({config.student.student})"
                ) from error

    def trainer(self, role: str, network: Network, teacher: TeacherNetwork | None = None) -> Trainer:
        try:
            return make_trainer(network, self.data_of(role), **self.options(role, teacher))
        except InputError as error:
            raise InputError(f"{role} {self.config.flat()[role]!r}: {error}") from error

    def evaluation(self, teacher: Teacher) -> Evaluation:
        normalisation = teacher.normalisation or self.data_of("teacher").normalisation
        return compile_evaluation(teacher, normalisation, self.mesh)

    def summary(self) -> str:
        """Describes the run: its directory, devices, batch and learning rate; a teacher that saw held-out images."""
        config, mesh, fsdp = self.config.optimisation, self.mesh, self.config.run.fsdp
        base = config.base_batch_size
        scaled = "" if base is None else f", {config.learning_rate:g} per {base} images"
        sharded = "" if fsdp is None else f", parameters sharded over {fsdp}"
        devices = f"{mesh.size} {mesh.devices.flat[0].platform} device(s) in {jax.process_count()} process(es){sharded}"
        batch = f"batch {config.batch_size}, {config.batch_size // mesh.size} per device"
        rate = f"peak learning rate {config.peak_learning_rate:g}{scaled}"
        lines = (f"run directory {self.directory}", f"{devices}; {batch}; {rate}", split_warning(self.config))
        return "\n".join(line for line in lines if line is not None)


def _seen_by_teacher(data: Data) -> Data:
    """The data set that a teacher sees: the images that belong to it, if it has them."""
    return getattr(data, "paired", None) or data
