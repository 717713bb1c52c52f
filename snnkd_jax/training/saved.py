"""Trained networks on disk: `network.json` beside the checkpoint describes the network, with SHA-256 digests.

A network of this library is rebuilt from it; for a user's module it has the name and a digest of the computation.
"""

import json
from pathlib import Path
from typing import Any

import jax

from snnkd_jax.data.inputs import Data
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json, write_json
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.description import describe_network
from snnkd_jax.parallel.hosts import is_host0
from snnkd_jax.training.checkpoint import newest

FORMAT = 1
"""The format of `network.json`; others are not read."""

_DEFAULTS = {"levels": None, "pool": "avg", "dtype": "float32"}
"""Values for networks that are older than these options."""


def describe(network: Network, data: Data, normalisation: Normalisation) -> dict[str, Any]:
    """Describes a network for `network.json`: how to rebuild it, and which images it takes."""
    return {
        **describe_network(network, data.image_shape),
        "num_classes": len(data.class_names),
        "image_shape": list(data.image_shape),
        "dataset": data.name,
        "class_names": list(data.class_names),
        "normalisation": {"mean": list(normalisation.mean), "std": list(normalisation.std)},
    }


def write_network(directory: Path, description: dict[str, Any]) -> None:
    """Writes `network.json`, which marks the network in `directory` as fully trained.

    It has the SHA-256 of the description, and those of the network's files in the newest checkpoint.
    """
    checkpoint = newest(directory)
    if not is_host0():
        return
    paths = sorted(path for path in (checkpoint / "network").rglob("*") if path.is_file())
    files = {path.relative_to(directory).as_posix(): sha256(path.read_bytes()) for path in paths}
    content = {"format": FORMAT, **description, "files": files}
    write_json(directory / "network.json", content | {"sha256": _digest(content)})


def read_network(directory: Path) -> dict[str, Any]:
    """Reads the description in `network.json`; older files have neither format nor digests, and are not verified.

    Raises `InputError` if it cannot be read or has another format, or if it or a file of the network is damaged.
    """
    path = directory / "network.json"
    content = read_json(path)
    if not content.keys() & {"format", "files", "sha256"}:
        return content
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path} is damaged or of another version: its format is {content.get('format')!r}, and this version reads "
            f"{FORMAT}; use the version that trained it"
        )
    if content.pop("sha256", None) != _digest(content):
        raise InputError(f"{path} is damaged: its content has changed since it was written; copy it again")
    for name, digest in content.pop("files").items():
        try:
            found = sha256((directory / name).read_bytes())
        except OSError as error:
            raise InputError(f"{directory / name} cannot be read ({error.strerror}); copy the run again") from error
        if found != digest:
            raise InputError(f"{directory / name} is damaged: it has changed since it was written; copy the run again")
    del content["format"]
    return content


def check_network(directory: Path, wanted: dict[str, Any]) -> None:
    """Raises `InputError`, with the differences, unless `network.json` has the description `wanted`."""
    found = _DEFAULTS | read_network(directory)
    wanted = json.loads(json.dumps(wanted))
    if found.keys() != wanted.keys():
        raise InputError(f"teacher_checkpoint {directory}: its network.json is damaged")
    differing = [name for name in wanted if found[name] != wanted[name]]
    # Class names and pixel statistics follow from the data set; listing them would hide the differences that matter.
    if shown := [n for n in differing if n not in ("class_names", "normalisation")] or differing:
        changes = ", ".join(f"{name} is {found[name]!r}, not {wanted[name]!r}" for name in shown)
        raise InputError(f"teacher_checkpoint {directory} is of another network: {changes}")


def shapes_of(network: Network, image_shape: tuple[int, int, int]) -> Variables:
    """Returns the shapes of a network's variables, for `load_network`."""
    return jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))


def _digest(content: dict[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode())
