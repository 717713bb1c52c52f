"""A whole run: teacher, student without and with distillation, and the comparison.

The teacher's and the baseline's results do not depend on the student's: each network starts from its own seed.
"""

import contextlib
import dataclasses
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from snnkd_jax.analysis.observation import observe, save_observation
from snnkd_jax.data.batches import Source
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.digest import checksum
from snnkd_jax.distill.objective import Objective
from snnkd_jax.distill.teacher import Teacher, TeacherNetwork
from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json, write_json
from snnkd_jax.models import Network, Variables
from snnkd_jax.parallel.compiler import compilation_cache
from snnkd_jax.parallel.hosts import check_same, first_then_others, is_first, of_first, say, several
from snnkd_jax.parallel.mesh import check_batch_size, data_mesh
from snnkd_jax.runs.config import GIVEN, SPIKING_FIELDS, Config, shown
from snnkd_jax.runs.inputs import Inputs, open_inputs
from snnkd_jax.runs.run_dir import full_disk_told, open_run_dir, run_directory, write_network
from snnkd_jax.runs.teacher import RunTeacher, describe, seen_of_held_out
from snnkd_jax.training.compiled import CompiledEvaluation
from snnkd_jax.training.fit import evaluate, fit, variables_of
from snnkd_jax.training.interrupt import StopRequest
from snnkd_jax.training.metrics import MetricsLog
from snnkd_jax.training.optim import make_optimizer
from snnkd_jax.training.teacher_store import taught_source
from snnkd_jax.training.trainer import Trainer


def run(config: Config, teacher: Teacher | None = None) -> dict[str, Any]:
    """Carries out the run, or what is left of it, and returns what `result.json` holds.

    Args:
        config: of the run.
        teacher: any trained teacher, in the place of the one that the configuration names.

    Raises:
        InputError: for anything the user can put right.
        Interrupted: after SIGTERM or SIGINT, when everything has been saved.
    """
    if teacher is not None:
        config = dataclasses.replace(config, teacher=f"{GIVEN}{teacher.title}")
    elif config.teacher.startswith(GIVEN):
        raise InputError(f"teacher {config.teacher!r} is a function; hand it to snnkd_jax.experiment.run")
    directory = run_directory(config)
    config = config.checked()
    mesh = data_mesh(config.fsdp)
    check_batch_size(config.batch_size, mesh, config.accumulate)
    check_same("their arguments", repr(config).encode())
    with StopRequest() as stop, full_disk_told(directory):
        inputs = first_then_others(lambda: open_inputs(config))
        check_same("their copies of the data set", inputs.identity)
        return _Run(config, directory, mesh, inputs, stop, RunTeacher(config, inputs, mesh, teacher)).carry_out()


@dataclasses.dataclass(frozen=True)
class _Run:
    config: Config
    directory: Path
    mesh: jax.sharding.Mesh
    inputs: Inputs
    stop: StopRequest
    run_teacher: RunTeacher

    def carry_out(self) -> dict[str, Any]:
        config, teacher_epochs = self.config, self.config.of_teacher().epochs
        objective, plain = config.objective(), config.plain_objective()
        trained = self.run_teacher.load() if config.needs_teacher else None
        alone = None
        if config.needs_teacher and trained is None:
            alone = self.trainer("teacher", self.run_teacher.build(), plain, teacher_epochs)
        student = config.build_student(self.inputs.num_classes)
        teacher = trained if alone is None else alone.network
        normalisation = None if trained is None else trained.normalisation
        trainer = self.trainer("student", student, objective, config.epochs, teacher, normalisation)
        direct = self.trainer("student", student, plain, config.epochs)
        if trained is not None and config.has_foreign_teacher and not self.is_finished():
            self.run_teacher.check_accuracy(trained)
        if config.initial_weights == "teacher":
            assert teacher is not None
            self.check_initial(trainer, teacher)

        weights = None
        if trained is not None and config.teacher_checkpoint is not None:
            weights = np.asarray(checksum(trained.variables)).tobytes()
        # Only now, so that a run that cannot be carried out leaves nothing behind.
        first_then_others(lambda: open_run_dir(self.directory, config, self.inputs.identity, weights))
        if self.is_finished():
            if not (self.directory / "report.html").exists():
                self.report()
            return read_json(self.directory / "result.json")
        say(self.summary())
        results: dict[str, Any] = {}
        log = MetricsLog(self.directory)
        with contextlib.closing(log), compilation_cache(self.directory / "compilation-cache"):
            teacher_variables: Variables = {}
            if alone is not None:
                results["teacher"], teacher_variables = self.train("teacher", alone, {}, teacher_epochs, log)
            elif trained is not None:
                teacher_variables = trained.variables
                if config.teacher_file is not None:
                    self.run_teacher.keep(teacher_variables, self.directory)
                results["teacher"] = self.test(self.run_teacher.evaluation(trained), teacher_variables)
            if config.baseline and not config.is_plain and not config.teacher_only:
                results["student_baseline"], _ = self.train("student_baseline", direct, {}, config.epochs, log)
            if not config.teacher_only:
                results["student"], variables = self.train("student", trainer, teacher_variables, config.epochs, log)
                self.observe(student, variables)
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
        self.report()
        return result

    def observe(self, student: Network, variables: Variables) -> None:
        """Keeps what the report shows of the trained student, while the data are at hand.

        Of several processes each has only its rows of the test set, so they leave it out.
        """
        if several():
            return
        with _only_warned(f"the student of {self.directory} cannot be observed for the report"):
            # On one device, whatever the mesh.
            observed = observe(student, jax.device_get(variables), self.inputs.normalisation, self.inputs.test())
            save_observation(self.directory / "student" / "observation.npz", observed)

    def report(self) -> None:
        """Writes `report.html`; matplotlib is imported only here."""
        if not is_first():
            return
        with _only_warned(f"{self.directory / 'report.html'} cannot be written"):
            from snnkd_jax.report.write import write_report

            write_report([self.directory])

    def is_finished(self) -> bool:
        """Whether nothing is left to do, as the first process sees it."""
        return bool(of_first(int((self.directory / "result.json").exists())))

    def summary(self) -> str:
        """The run directory; devices, batch and learning rate; what a teacher of another run saw."""
        config, mesh = self.config, self.mesh
        scaled = (
            "" if config.base_batch_size is None else f", {config.learning_rate:g} a {config.base_batch_size} images"
        )
        divided = "" if config.fsdp is None else f", parameters divided among {config.fsdp}"
        lines = (
            f"run directory {self.directory}",
            f"{mesh.size} {mesh.devices.flat[0].platform} device(s) in {jax.process_count()} process(es){divided}; "
            f"batch {config.batch_size}, {config.batch_size // mesh.size} a device; "
            f"peak learning rate {config.peak_learning_rate:g}{scaled}",
            seen_of_held_out(config),
        )
        return "\n".join(line for line in lines if line is not None)

    def trainer(
        self,
        role: str,
        network: Network,
        objective: Objective,
        epochs: int,
        teacher: TeacherNetwork | None = None,
        teacher_normalisation: Normalisation | None = None,
    ) -> Trainer:
        config = self.config
        optimizer = config_optimizer(config, epochs, self.inputs.training.steps_per_epoch)
        try:
            if config.batch_size == config.accumulate:
                _check_one_image(network, self.inputs.image_shape)
            return Trainer(
                network,
                objective,
                optimizer,
                self.inputs.normalisation,
                self.inputs.augmentation,
                self.inputs.image_shape,
                config.seed,
                teacher,
                teacher_normalisation,
                accumulate=config.accumulate,
            )
        except InputError as error:
            raise InputError(f"{role} {getattr(config, role)!r}: {error}") from error

    def check_initial(self, trainer: Trainer, teacher: TeacherNetwork) -> None:
        """Raises `InputError` if the student cannot begin with the teacher's weights."""
        try:
            jax.eval_shape(lambda key: trainer.init(teacher.init(key, self.inputs.image_shape)), jax.random.key(0))
        except InputError as error:
            raise InputError(
                f"initial_weights='teacher': {error}; the teacher ({shown(self.config.teacher)}) must have the "
                f"architecture, width and image channels of the student ({self.config.student})"
            ) from error

    def train(
        self, phase: str, trainer: Trainer, teacher_variables: Variables, epochs: int, log: MetricsLog
    ) -> tuple[dict[str, Any], Variables]:
        """Trains one network, or what is left of it, and returns its test result and variables."""
        config = self.config
        source: Source = self.inputs.training
        if config.store_teacher is not None and trainer.is_guided:
            source = taught_source(
                source,
                Path(config.store_teacher),
                trainer,
                teacher_variables,
                num_steps=epochs * source.steps_per_epoch,
                mesh=self.mesh,
                described={
                    "teacher": config.teacher if self.run_teacher.given else self.run_teacher.description,
                    "images": hashlib.sha256(self.inputs.identity).hexdigest(),
                },
            )
        state, steps = fit(
            phase,
            trainer,
            teacher_variables,
            source,
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
            initial=teacher_variables if phase == "student" and config.initial_weights == "teacher" else None,
        )
        # Written last: a network without it is not trained to its end.
        write_network(self.directory / phase, self.description(phase))
        variables = variables_of(state)
        return self.test(steps, variables), variables

    def description(self, phase: str) -> dict[str, Any]:
        """What `network.json` says of the network."""
        if phase == "teacher":
            return self.run_teacher.description
        spiking = {name: getattr(self.config, name) for name in SPIKING_FIELDS}
        return describe(self.config, self.inputs, model=self.config.student, spiking=spiking)

    def test(self, steps: CompiledEvaluation, variables: Variables) -> dict[str, Any]:
        result = evaluate(steps, variables, self.inputs.test(), self.mesh)
        params = variables["params"] if isinstance(variables, Mapping) and "params" in variables else variables
        return result | {"parameters": sum(np.size(x) for x in jax.tree.leaves(params))}


def _check_one_image(network: Network, image_shape: tuple[int, int, int]) -> None:
    """Raises `InputError` if a batch norm of the network has nothing to compare in one image."""
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    jax.eval_shape(network.apply_train, variables, jax.ShapeDtypeStruct((1, *image_shape), np.float32))


def config_optimizer(config: Config, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimiser of a training that takes so many epochs."""
    return make_optimizer(
        config.optimizer,  # pyright: ignore[reportArgumentType] checked by make_optimizer
        learning_rate=config.peak_learning_rate,
        num_steps=epochs * steps_per_epoch,
        warmup_steps=min(config.warmup_epochs, epochs - 1) * steps_per_epoch,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )


@contextlib.contextmanager
def _only_warned(what: str) -> Iterator[None]:
    """Turns an error into a warning: no result is lost because it cannot be shown."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} ({type(error).__name__}: {error})", stacklevel=2)


def _in_order(results: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every network's result; those that were not asked for are all None."""
    nothing = dict.fromkeys(("accuracy", "accuracy_by_step", "firing_rate", "parameters"))
    return [(name, results.get(name, nothing)) for name in ("teacher", "student_baseline", "student")]
