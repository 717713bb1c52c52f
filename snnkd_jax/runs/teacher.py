"""The teacher of a run: loading, checks and normalisation of one that is trained already."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from snnkd_jax.data.inputs import Data
from snnkd_jax.data.normalisation import parse_normalisation
from snnkd_jax.digest import fingerprint
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError
from snnkd_jax.files import as_path
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.converted import check_thresholds
from snnkd_jax.models.torch_weights import Converted, assumptions, convert_weights, read_weights
from snnkd_jax.parallel.hosts import broadcast_from_host0, raise_on_all_hosts
from snnkd_jax.parallel.mesh import put_replicated
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.recipe import run_of_teacher
from snnkd_jax.runs.run_dir import teacher_directory
from snnkd_jax.training.checkpoint import load_network, save_network
from snnkd_jax.training.manifest import is_trained
from snnkd_jax.training.saved import check_network, describe, shapes_of, write_network


@dataclasses.dataclass(frozen=True)
class RunTeacher:
    """The teacher that a configuration names, or a `given` one in its place."""

    config: Config
    data: Data
    mesh: Mesh
    given: Teacher | None

    def build(self) -> Network:
        """The untrained network."""
        config = self.config
        if config.teacher.file is not None:
            found = self._converted
            config = config.replace(teacher=found.model, teacher_width=found.width, teacher_pool=found.pool)
        return config.build_teacher(len(self.data.class_names))

    def load(self) -> Teacher | None:
        """The given teacher, or that of a PyTorch file or of another run; None if this run trains its teacher.

        Raises `InputError` if it is missing or damaged, or if its architecture, classes, channels or normalisation are
        not those of the configuration.
        """
        config = self.config.teacher
        if self.given is not None:
            return dataclasses.replace(self.given, variables=put_replicated(self.mesh, self.given.variables))
        if config.file is None and config.teacher_checkpoint is None:
            return None
        network = self.build()
        if config.teacher_checkpoint is not None:
            with raise_on_all_hosts():
                directory = teacher_directory(as_path("teacher_checkpoint", config.teacher_checkpoint))
                check_network(directory, self._description)
            try:
                variables = load_network(directory, shapes_of(network, self.data.image_shape), self.mesh)
                check_thresholds(network, variables)
            except InputError as error:
                raise InputError(f"teacher_checkpoint: {error}") from error
            return Teacher(network.apply, variables)
        found, normalisation = self._converted, parse_normalisation(config.teacher_normalisation)
        channels, num_classes = self.data.image_shape[-1], len(self.data.class_names)
        if (found.num_classes, found.image_channels) != (num_classes, channels):
            has = f"{found.model} for {found.num_classes} classes and {found.image_channels} image channels"
            raise InputError(f"teacher {config.teacher}: a {has}; {self.data.name} has {num_classes} and {channels}")
        if normalisation is not None and len(normalisation.mean) not in (1, channels):
            has = f"{config.teacher_normalisation!r} has {len(normalisation.mean)} channels"
            raise InputError(f"teacher_normalisation={has}; {self.data.name} has {channels}")
        return Teacher(network.apply, put_replicated(self.mesh, found.variables), normalisation)

    def check_accuracy(self, accuracy: float, split: str) -> None:
        """Raises `InputError` if the accuracy on a split is near chance."""
        chance = 1 / len(self.data.class_names)
        if is_near_chance(accuracy, chance):
            file = self.config.teacher.file
            raise InputError(
                f"teacher {self.config.teacher.teacher}: {split} accuracy {accuracy:.4f} is near chance, "
                f"{chance:.4f}; give the normalisation that it was trained with (teacher_normalisation), and check "
                f"that its classes are in the order {', '.join(self.data.class_names[:3])}, ..."
                f"{'' if file is None else f', and that {assumptions(self._converted.model)}'}"
            )

    def keep(self, variables: Variables, run: Path) -> None:
        """Saves a teacher of a PyTorch file as a network of the run; raises `InputError` if the run has another one."""
        directory = run / "teacher"
        if not broadcast_from_host0(int(is_trained(directory))):
            save_network(directory, variables)
            write_network(directory, self._description)
        elif fingerprint(load_network(directory, variables, self.mesh)) != fingerprint(variables):
            raise InputError(f"teacher {self.config.teacher.teacher}: run_dir {run} has other weights; name another")

    @property
    def _description(self) -> dict[str, Any]:
        """Its description in the manifest."""
        own = parse_normalisation(self.config.teacher.teacher_normalisation)
        return describe(self.build(), self.data, own or self.data.normalisation)

    @functools.cached_property
    def _converted(self) -> Converted:
        """The network of the teacher's PyTorch file."""
        file = self.config.teacher.file
        assert file is not None
        weights = read_weights(file, self.config.teacher.teacher_entry)
        try:
            return convert_weights(weights)
        except InputError as error:
            raise InputError(f"teacher torch:{file}: {error}") from error


def split_warning(config: Config) -> str | None:
    """A warning if the teacher of another run was trained on images of this run's validation split, else None."""
    other, validation_fraction = run_of_teacher(config), config.data.validation_fraction
    if other is None or not validation_fraction:
        return None
    seed, fraction = other.run.seed, other.data.validation_fraction
    # With the same seed, the smaller validation split is part of the larger one.
    if seed == config.run.seed and fraction >= validation_fraction:
        return None
    return (
        f"the teacher was trained with seed={seed}, validation_fraction={fraction:g}, so on images of this run's "
        "validation split: validation accuracies may be too high; the test set is untouched"
    )


def is_near_chance(accuracy: float, chance: float) -> bool:
    """Whether an accuracy is below twice chance, and below chance plus a tenth of what is missing to 1."""
    return accuracy < min(2 * chance, chance + 0.1 * (1 - chance))
