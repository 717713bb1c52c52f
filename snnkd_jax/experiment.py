"""A whole run: teacher, student without and with distillation, and the comparison.

The teacher's and the baseline's results do not depend on the student's: each network starts from its own seed.
"""

import contextlib
import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from snnkd_jax.backend import check_batch_size, compilation_cache, data_mesh, put_replicated
from snnkd_jax.batches import Source
from snnkd_jax.checkpoint import load_network, save_network
from snnkd_jax.config import GIVEN, SPIKING_FIELDS, Config, shown
from snnkd_jax.distill import Objective
from snnkd_jax.errors import InputError
from snnkd_jax.fit import evaluate, fit, variables_of
from snnkd_jax.hosts import check_same, first_then_others, is_first, of_first, say, several, together
from snnkd_jax.inputs import Inputs, open_inputs
from snnkd_jax.interrupt import StopRequest
from snnkd_jax.metrics import MetricsLog
from snnkd_jax.models import Network, Variables
from snnkd_jax.observation import observe, save_observation
from snnkd_jax.optim import make_optimizer
from snnkd_jax.recipe import run_of_teacher
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
from snnkd_jax.teacher import Teacher, parse_normalisation
from snnkd_jax.teacher_store import fingerprint, taught_source
from snnkd_jax.torch_weights import Converted, convert_weights, read_weights
from snnkd_jax.train import CompiledEvaluation, Normalisation, TeacherNetwork, Trainer, compile_evaluation


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
        return _Run(config, directory, mesh, inputs, stop, teacher).carry_out()


@dataclasses.dataclass(frozen=True)
class _Run:
    config: Config
    directory: Path
    mesh: jax.sharding.Mesh
    inputs: Inputs
    stop: StopRequest
    given: Teacher | None

    def carry_out(self) -> dict[str, Any]:
        config, teacher_epochs = self.config, self.config.of_teacher().epochs
        objective, plain = config.objective(), Objective(label_smoothing=config.label_smoothing)
        trained = self.trained_teacher() if config.needs_teacher else None
        alone = None
        if config.needs_teacher and trained is None:
            alone = self.trainer("teacher", config.build_teacher(self.inputs.num_classes), plain, teacher_epochs)
        student = config.build_student(self.inputs.num_classes)
        teacher = trained if alone is None else alone.network
        normalisation = None if trained is None else trained.normalisation
        trainer = self.trainer("student", student, objective, config.epochs, teacher, normalisation)
        direct = self.trainer("student", student, plain, config.epochs)
        if trained is not None and config.has_foreign_teacher and not self.is_finished():
            self.check_accuracy(trained)
        if config.initial_weights == "teacher":
            assert teacher is not None
            self.check_initial(trainer, teacher)

        # Only now, so that a run that cannot be carried out leaves nothing behind.
        first_then_others(lambda: open_run_dir(self.directory, config))
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
                    self.keep_teacher(teacher_variables)
                results["teacher"] = self.test(self.evaluation(trained), teacher_variables)
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
        return (
            f"run directory {self.directory}\n"
            f"{mesh.size} {mesh.devices.flat[0].platform} device(s) in {jax.process_count()} process(es){divided}; "
            f"batch {config.batch_size}, {config.batch_size // mesh.size} a device; "
            f"peak learning rate {config.peak_learning_rate:g}{scaled}{self.seen_by_teacher()}"
        )

    def seen_by_teacher(self) -> str:
        """A line, if the teacher was trained on images that this run holds out."""
        config, other = self.config, run_of_teacher(self.config)
        # Of one seed, the smaller part that is held out is a part of the larger one.
        if other is None or (other.seed == config.seed and other.validation_fraction >= config.validation_fraction):
            return ""
        return (
            f"\nthe teacher was trained with seed={other.seed}, validation_fraction={other.validation_fraction:g}, so "
            "on images that this run holds out: validation accuracies may be too high; the test set is untouched"
        )

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

    def trained_teacher(self) -> Teacher | None:
        """The teacher that was handed over, of a PyTorch file, or of another run; None if this run trains it."""
        config = self.config
        if self.given is not None:
            return dataclasses.replace(self.given, variables=put_replicated(self.mesh, self.given.variables))
        if config.teacher_file is None and config.teacher_checkpoint is None:
            return None
        network = self.teacher_config.build_teacher(self.inputs.num_classes)
        if config.teacher_checkpoint is not None:
            return Teacher(network.apply, self.load_teacher(network, Path(config.teacher_checkpoint)))
        found, normalisation = self.converted, parse_normalisation(config.teacher_normalisation)
        channels = self.inputs.image_shape[-1]
        if (found.num_classes, found.image_channels) != (self.inputs.num_classes, channels):
            raise InputError(
                f"teacher {config.teacher}: a {found.model} for {found.num_classes} classes and {found.image_channels} "
                f"image channels; {self.inputs.name} has {self.inputs.num_classes} and {channels}"
            )
        if normalisation is not None and len(normalisation.mean) not in (1, channels):
            raise InputError(
                f"teacher_normalisation={config.teacher_normalisation!r} is of {len(normalisation.mean)} channels; "
                f"{self.inputs.name} has {channels}"
            )
        return Teacher(network.apply, put_replicated(self.mesh, found.variables), normalisation)

    @functools.cached_property
    def converted(self) -> Converted:
        """The network in the teacher's file."""
        assert self.config.teacher_file is not None
        return convert_weights(read_weights(self.config.teacher_file))

    @property
    def teacher_config(self) -> Config:
        """The configuration with the teacher's width and epochs as its own, and the architecture in its file."""
        config = self.config
        if config.teacher_file is not None:
            found = self.converted
            config = dataclasses.replace(
                config, teacher=found.model, teacher_width=found.width, teacher_pool=found.pool
            )
        return config.of_teacher()

    def check_accuracy(self, teacher: Teacher) -> None:
        """Says how good the teacher is on the examples that are held out; raises `InputError` if it knows nothing."""
        validation = self.inputs.validation()
        accuracy = evaluate(self.evaluation(teacher), teacher.variables, validation, self.mesh)["accuracy"]
        say(f"teacher {shown(self.config.teacher)}: val accuracy {accuracy:.4f}")
        chance = 1 / self.inputs.num_classes
        if is_near_chance(accuracy, chance):
            raise InputError(
                f"teacher {self.config.teacher}: validation accuracy {accuracy:.4f} is near chance, {chance:.4f}; "
                "give the normalisation that it was trained with (teacher_normalisation), and see that its classes are "
                f"in the order {', '.join(self.inputs.class_names[:3])}, ..."
            )

    def evaluation(self, teacher: Teacher) -> CompiledEvaluation:
        normalisation = teacher.normalisation or self.inputs.normalisation
        return compile_evaluation(teacher, normalisation, self.mesh)

    def keep_teacher(self, variables: Variables) -> None:
        """Makes a converted teacher one of this run's networks; raises `InputError` if it had another one before."""
        directory = self.directory / "teacher"
        if not of_first(int((directory / "network.json").exists())):
            save_network(directory, variables)
            write_network(directory, self.description("teacher"))
        elif fingerprint(load_network(directory, variables, self.mesh)) != fingerprint(variables):
            raise InputError(
                f"teacher {self.config.teacher}: run_dir {self.directory} was started with other weights; name another"
            )

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
                    "teacher": config.teacher if self.given else self.description("teacher"),
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

    def test(self, steps: CompiledEvaluation, variables: Variables) -> dict[str, Any]:
        result = evaluate(steps, variables, self.inputs.test(), self.mesh)
        params = variables["params"] if isinstance(variables, Mapping) and "params" in variables else variables
        return result | {"parameters": sum(np.size(x) for x in jax.tree.leaves(params))}

    def description(self, phase: str) -> dict[str, Any]:
        """What `network.json` says of a network, enough to build it again and to feed it."""
        is_teacher = phase == "teacher"
        config = self.teacher_config if is_teacher else self.config
        normalisation = parse_normalisation(config.teacher_normalisation) if is_teacher else None
        return {
            "model": config.teacher if is_teacher else config.student,
            "width": config.width,
            "levels": config.teacher_levels if is_teacher else None,
            "pool": config.teacher_pool if is_teacher else None,
            "dtype": config.dtype,
            "num_classes": self.inputs.num_classes,
            "image_shape": list(self.inputs.image_shape),
            "dataset": self.inputs.name,
            "class_names": list(self.inputs.class_names),
            "normalisation": dataclasses.asdict(normalisation or self.inputs.normalisation),
            "spiking": None if is_teacher else {name: getattr(config, name) for name in SPIKING_FIELDS},
        }


def is_near_chance(accuracy: float, chance: float) -> bool:
    """Whether a teacher is below twice chance, and, of few classes, below a tenth of the way from chance to 1."""
    return accuracy < min(2 * chance, chance + 0.1 * (1 - chance))


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
