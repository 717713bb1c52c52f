"""Trained networks on disk: the manifest beside the checkpoint has a description of the network.

A network of this library is rebuilt from it; for a user's module it has the name and a digest of the computation.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from snnkd_jax.data.inputs import Data
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.description import describe_network
from snnkd_jax.parallel.hosts import is_host0
from snnkd_jax.training.manifest import read_manifest


def describe(network: Network, data: Data, normalisation: Normalisation) -> dict[str, Any]:
    """Describes a network for its manifest: how to rebuild it, and which images it takes."""
    return {
        **describe_network(network, data.image_shape),
        "num_classes": len(data.class_names),
        "image_shape": list(data.image_shape),
        "dataset": data.name,
        "class_names": list(data.class_names),
        "normalisation": {"mean": list(normalisation.mean), "std": list(normalisation.std)},
    }


def write_network(directory: Path, description: dict[str, Any]) -> None:
    """Writes the description into the manifest, which marks the network in `directory` as fully trained."""
    if is_host0():
        manifest = read_manifest(directory)
        assert manifest is not None
        dataclasses.replace(manifest, network=description).write(directory)


def read_network(directory: Path) -> dict[str, Any]:
    """Reads the description of a network; raises `InputError` as `read_manifest` does, and if it is not trained."""
    manifest = read_manifest(directory)
    if manifest is None or manifest.network is None:
        raise InputError(f"{directory} has no network that finished training; run the command that started it again")
    return manifest.network


def check_network(directory: Path, wanted: dict[str, Any]) -> None:
    """Raises `InputError`, with the differences, unless the network in `directory` has the description `wanted`."""
    found = read_network(directory)
    wanted = json.loads(json.dumps(wanted))
    if found.keys() != wanted.keys():
        raise InputError(f"teacher_checkpoint {directory}: its description has other entries; it is of another version")
    differing = [name for name in wanted if found[name] != wanted[name]]
    # Class names and pixel statistics follow from the data set; listing them would hide the differences that matter.
    if shown := [n for n in differing if n not in ("class_names", "normalisation")] or differing:
        changes = ", ".join(f"{name} is {found[name]!r}, not {wanted[name]!r}" for name in shown)
        raise InputError(f"teacher_checkpoint {directory} is of another network: {changes}")


def shapes_of(network: Network, image_shape: tuple[int, int, int]) -> Variables:
    """Returns the shapes of a network's variables, for `load_network`."""
    return jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
