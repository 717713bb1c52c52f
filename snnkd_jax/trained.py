"""Networks of finished runs, loaded with all that is needed to use them."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from snnkd_jax.backend import data_mesh
from snnkd_jax.checkpoint import load_network
from snnkd_jax.config import Config
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.run_dir import read_json
from snnkd_jax.train import Normalisation

Role = Literal["teacher", "student_baseline", "student"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network, its variables, and how images are to be normalised for it.

    `config` describes it as a student or a teacher, and `classes` are the names of the classes.
    """

    network: Network
    variables: Variables
    normalisation: Normalisation
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    dataset: str
    config: Config

    def with_steps(self, num_steps: int) -> Network:
        """The spiking network with another number of time steps; the variables are the same.

        Raises `InputError` for an ordinary network.
        """
        return self.network.with_steps(num_steps)


def load_trained(run: Path, role: Role = "student", mesh: Mesh | None = None) -> Trained:
    """The network of that role in a run directory, as it was after its last epoch.

    Raises:
        InputError: if the run has no such network, it is not trained to its end, or its files are damaged.
    """
    directory = run / role
    if not (directory / "network.json").is_file():
        raise InputError(f"{run} has no {role} that was trained to its end (no {role}/network.json)")
    description = read_json(directory / "network.json")
    try:
        config, network = _built(description)
        normalisation = Normalisation(**{name: tuple(v) for name, v in description["normalisation"].items()})
        image_shape, classes = tuple(description["image_shape"]), tuple(description["class_names"])
        dataset = description["dataset"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{directory / 'network.json'} is damaged ({type(error).__name__}: {error})") from error
    template = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    variables = load_network(directory, template, data_mesh() if mesh is None else mesh)
    return Trained(network, variables, normalisation, image_shape, classes, dataset, config)


def _built(description: dict[str, Any]) -> tuple[Config, Network]:
    """The network that `network.json` describes, and the configuration that builds it."""
    spiking, num_classes = description["spiking"], description["num_classes"]
    role = "teacher" if spiking is None else "student"
    config = Config(
        dataset=description["dataset"],
        width=description["width"],
        teacher_levels=description.get("levels"),
        **({"teacher_pool": description.get("pool", "avg")} if spiking is None else {}),
        dtype=description.get("dtype", "float32"),
        **{role: description["model"]},
        **({} if spiking is None else spiking),
    )
    return config, config.build_teacher(num_classes) if spiking is None else config.build_student(num_classes)
