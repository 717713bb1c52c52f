"""The teacher of a run: where it comes from if it is trained already, and what is asked of it before it teaches."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from snnkd_jax.data.normalisation import Normalisation, parse_normalisation
from snnkd_jax.digest import fingerprint
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.torch_weights import Converted, convert_weights, read_weights
from snnkd_jax.parallel.hosts import of_first, say, together
from snnkd_jax.parallel.mesh import put_replicated
from snnkd_jax.runs.config import Config, shown
from snnkd_jax.runs.inputs import Inputs
from snnkd_jax.runs.recipe import run_of_teacher
from snnkd_jax.runs.run_dir import check_network, teacher_directory, write_network
from snnkd_jax.training.checkpoint import load_network, save_network
from snnkd_jax.training.compiled import CompiledEvaluation, compile_evaluation
from snnkd_jax.training.fit import evaluate


@dataclasses.dataclass(frozen=True)
class RunTeacher:
    """The teacher that a configuration asks for, or that was `given`, a function, in its place."""

    config: Config
    inputs: Inputs
    mesh: jax.sharding.Mesh
    given: Teacher | None

    @property
    def description(self) -> dict[str, Any]:
        """What `network.json` says of it."""
        config = self._own_config
        return describe(
            config,
            self.inputs,
            model=config.teacher,
            levels=config.teacher_levels,
            pool=config.teacher_pool,
            normalisation=parse_normalisation(config.teacher_normalisation),
        )

    def build(self) -> Network:
        """The network, untrained."""
        return self._own_config.build_teacher(self.inputs.num_classes)

    def load(self) -> Teacher | None:
        """The teacher that was handed over, of a PyTorch file, or of another run; None if this run trains it.

        Raises `InputError` if it is not there or damaged, or if network, classes, image channels or normalisation are
        not those that were asked for. Of a function nothing is checked here.
        """
        config = self.config
        if self.given is not None:
            return dataclasses.replace(self.given, variables=put_replicated(self.mesh, self.given.variables))
        if config.teacher_file is None and config.teacher_checkpoint is None:
            return None
        network = self.build()
        if config.teacher_checkpoint is not None:
            return Teacher(network.apply, self._load(network, Path(config.teacher_checkpoint)))
        found, normalisation = self._converted, parse_normalisation(config.teacher_normalisation)
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

    def evaluation(self, teacher: Teacher) -> CompiledEvaluation:
        """What tests the trained teacher."""
        return compile_evaluation(teacher, teacher.normalisation or self.inputs.normalisation, self.mesh)

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

    def keep(self, variables: Variables, run: Path) -> None:
        """Makes a converted teacher one of the run's networks; raises `InputError` if it had another one before."""
        directory = run / "teacher"
        if not of_first(int((directory / "network.json").exists())):
            save_network(directory, variables)
            write_network(directory, self.description)
        elif fingerprint(load_network(directory, variables, self.mesh)) != fingerprint(variables):
            raise InputError(
                f"teacher {self.config.teacher}: run_dir {run} was started with other weights; name another"
            )

    def _load(self, network: Network, path: Path) -> Variables:
        """The variables in the run directory `path`, checked to be of the teacher that was asked for."""
        with together():
            directory = teacher_directory(path)
            check_network(directory, self.description)
        template = jax.eval_shape(lambda: network.init(jax.random.key(0), self.inputs.image_shape))
        try:
            return load_network(directory, template, self.mesh)
        except InputError as error:
            raise InputError(f"teacher_checkpoint: {error}") from error

    @functools.cached_property
    def _own_config(self) -> Config:
        """The configuration with the teacher's width and epochs as its own, and the architecture in its file."""
        config = self.config
        if config.teacher_file is not None:
            found = self._converted
            config = dataclasses.replace(
                config, teacher=found.model, teacher_width=found.width, teacher_pool=found.pool
            )
        return config.of_teacher()

    @functools.cached_property
    def _converted(self) -> Converted:
        """The network in the teacher's file."""
        assert self.config.teacher_file is not None
        return convert_weights(read_weights(self.config.teacher_file))


def describe(
    config: Config,
    inputs: Inputs,
    *,
    model: str,
    levels: int | None = None,
    pool: str | None = None,
    normalisation: Normalisation | None = None,
    spiking: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What `network.json` says of a network of that width and those images, to build it again and to feed it.

    `normalisation` None is that of the images; `levels` and `pool` are a teacher's, `spiking` a student's.
    """
    return {
        "model": model,
        "width": config.width,
        "levels": levels,
        "pool": pool,
        "dtype": config.dtype,
        "num_classes": inputs.num_classes,
        "image_shape": list(inputs.image_shape),
        "dataset": inputs.name,
        "class_names": list(inputs.class_names),
        "normalisation": dataclasses.asdict(normalisation or inputs.normalisation),
        "spiking": spiking,
    }


def seen_of_held_out(config: Config) -> str | None:
    """A sentence, if the teacher of another run was trained on images that this run holds out."""
    other = run_of_teacher(config)
    # Of one seed, the smaller part that is held out is a part of the larger one.
    if other is None or (other.seed == config.seed and other.validation_fraction >= config.validation_fraction):
        return None
    return (
        f"the teacher was trained with seed={other.seed}, validation_fraction={other.validation_fraction:g}, so "
        "on images that this run holds out: validation accuracies may be too high; the test set is untouched"
    )


def is_near_chance(accuracy: float, chance: float) -> bool:
    """Whether a teacher is below twice chance, and, of few classes, below a tenth of the way from chance to 1."""
    return accuracy < min(2 * chance, chance + 0.1 * (1 - chance))
