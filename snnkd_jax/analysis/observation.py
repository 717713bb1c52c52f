"""What a trained student does with the test set, and with its first image in detail; kept in `student/observation.npz`.

It is recorded at the end of a run, while the data are at hand, so that a report can be written without them.
"""

import dataclasses
import io
import math
import numbers
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from snnkd_jax.analysis.recording import potential, record
from snnkd_jax.data.batches import Batch
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_atomically
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.recorder import neurons
from snnkd_jax.parallel.compiler import compile_options

# Of a layer at most, and of all layers times all steps, which is about half a megabyte.
MAX_NEURONS, MAX_VALUES = 64, 100_000

_PER_LAYER = ("name", "size", "v_start", "v_threshold")


@dataclasses.dataclass(frozen=True)
class Layer:
    """Some neurons of a layer, spread evenly over it: spikes bool `[T, n]`, potentials after them float32 `[T, n]`.

    `v_start` is the potential before the first step, `v_threshold` the threshold, NaN for neurons without one.
    """

    name: str
    size: int
    spikes: NDArray
    v: NDArray
    v_start: float = 0.0
    v_threshold: float = math.nan


@dataclasses.dataclass(frozen=True)
class Observation:
    """Of a spiking network on a test set.

    `confusion` int32 `[K, K]` counts its images by class and, in the columns, by answer. Of the first, `image` uint8
    `[H, W, C]` of class `label`, it has the `logits` float32 `[T, K]` and, in their order, the `layers` of neurons.
    """

    confusion: NDArray
    image: NDArray
    label: int
    logits: NDArray
    layers: tuple[Layer, ...]


def observe(
    network: Network, variables: Variables, normalisation: Normalisation, batches: Iterable[Batch]
) -> Observation:
    """Runs a spiking network on all images of the batches, of which there is at least one."""
    run = jax.jit(
        lambda variables, images: record(network, variables, normalisation(images)),
        compiler_options=compile_options(),
    )
    classes, answers, seen = [], [], None
    for batch in batches:
        logits, layers = jax.device_get(run(variables, batch["images"]))
        if seen is None:
            seen = batch["images"], int(batch["labels"][0]), logits[0], layers
        real = batch["mask"] == 1
        classes.append(batch["labels"][real])
        answers.append(logits.sum(axis=1).argmax(-1)[real])
    assert seen is not None
    images, label, logits, layers = seen
    confusion = np.zeros((logits.shape[-1],) * 2, np.int32)
    np.add.at(confusion, (np.concatenate(classes), np.concatenate(answers)), 1)
    made_of = neurons(network, variables, images.shape[-3:])
    most = max(1, min(MAX_NEURONS, MAX_VALUES // (max(1, len(layers)) * len(logits))))
    sampled = tuple(_sampled(name, made_of[name], spikes, v, most) for name, (spikes, v) in layers.items())
    return Observation(confusion, _picture(images[0]), label, logits, sampled)


def _picture(image: NDArray) -> NDArray[np.uint8]:
    """One image `[H, W, C]`, or the mean of the frames of a sequence, as bytes, grey or RGB."""
    pixels = image if image.dtype == np.uint8 else np.round(255 * image)
    pixels = pixels.mean(axis=0) if image.ndim == 4 else pixels
    return (pixels if pixels.shape[-1] in (1, 3) else pixels.mean(axis=-1, keepdims=True)).astype(np.uint8)


def _sampled(name: str, neuron: Neuron, spikes: NDArray, v: NDArray, most: int) -> Layer:
    spikes, v = spikes.reshape(len(spikes), -1), v.reshape(len(v), -1)
    size = spikes.shape[1]
    chosen = np.arange(min(size, most)) * size // min(size, most)
    v_start = float(potential(neuron.init((1,)), jnp.zeros(1))[0])
    v_threshold: Any = getattr(neuron, "v_threshold", None)
    v_threshold = float(v_threshold) if isinstance(v_threshold, numbers.Real) else math.nan
    return Layer(name, size, spikes[:, chosen] != 0, v[:, chosen].astype(np.float32), v_start, v_threshold)


def save_observation(path: Path, observation: Observation) -> None:
    """Replaces the file in one step."""
    layers = observation.layers
    arrays: dict[str, Any] = {name: getattr(observation, name) for name in ("confusion", "image", "label", "logits")}
    arrays |= {f"{name}s": np.array([getattr(layer, name) for layer in layers]) for name in _PER_LAYER}
    for i, layer in enumerate(layers):
        arrays |= {f"spikes_{i}": layer.spikes, f"v_{i}": layer.v}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_atomically(path, file.getvalue())


def load_observation(path: Path) -> Observation:
    """What `save_observation` wrote; raises `InputError` for anything else."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            layers = tuple(
                Layer(str(name), int(size), file[f"spikes_{i}"], file[f"v_{i}"], *map(float, potentials))
                for i, (name, size, *potentials) in enumerate(zip(*(file[f"{x}s"] for x in _PER_LAYER), strict=True))
            )
            return Observation(file["confusion"], file["image"], int(file["label"]), file["logits"], layers)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}); delete it") from error
