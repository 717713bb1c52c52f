"""Trained students that come with the package, by name: two files each, in the folder `weights`.

NAME.npz    the variables by path, such as "params/conv1/conv/kernel", in half precision or float32
NAME.json   the card: the description of the network, its data, results and training, and the SHA-256 of NAME.npz
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from numpy.typing import NDArray

from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import read_sealed, write_atomically, write_sealed

WEIGHTS = Path(__file__).parent / "weights"


def students() -> dict[str, dict[str, Any]]:
    """The card of each student, by its name."""
    return {path.stem: read_sealed(path) for path in sorted(WEIGHTS.glob("*.json"))}


def half_precision(variables: Any) -> Any:
    """The variables rounded to half precision, in float32; arrays with a value that overflows are left as they are."""

    def rounded(x: NDArray) -> NDArray:
        half = _half(x)
        return half.astype(np.float32) if np.isfinite(half).all() else x

    return jax.tree.map(lambda x: rounded(np.asarray(x)), variables)


def _half(x: NDArray) -> NDArray[np.float16]:
    """In half precision, with infinity for what overflows."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16)


def _smallest(x: NDArray) -> NDArray:
    """In half precision if that holds it exactly."""
    half = _half(x)
    return half if np.array_equal(half.astype(np.float32), x) else x


def as_bytes(variables: Any) -> bytes:
    """The file of weights; arrays that half precision holds exactly are stored in it."""
    flat: dict[str, Any] = traverse_util.flatten_dict(jax.device_get(variables), sep="/")
    arrays: dict[str, Any] = {path: _smallest(np.asarray(x)) for path, x in flat.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def write_student(name: str, variables: Any, card: Mapping[str, Any]) -> Path:
    """Writes both files and returns that of the weights."""
    path, weights = WEIGHTS / f"{name}.npz", as_bytes(variables)
    write_atomically(path, weights)
    write_sealed(path.with_suffix(".json"), {**card, "weights": sha256(weights)})
    return path


def read_weights(name: str, shapes: Any) -> Any:
    """The variables of a student, with the structure and dtypes of `shapes`; raises `InputError` for a damaged file."""
    path = WEIGHTS / f"{name}.npz"
    card = read_sealed(path.with_suffix(".json"))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}); install the package again") from error
    if sha256(data) != card["weights"]:
        raise InputError(f"{path} has changed since it was written; install the package again")
    with np.load(io.BytesIO(data)) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    expected: dict[str, Any] = traverse_util.flatten_dict(shapes, sep="/")
    if {name: x.shape for name, x in stored.items()} != {name: x.shape for name, x in expected.items()}:
        raise InputError(f"{path} holds other layers than this version of the network has; install the package again")
    found = {name: stored[name].astype(x.dtype) for name, x in expected.items()}
    return jax.device_put(traverse_util.unflatten_dict(found, sep="/"))
