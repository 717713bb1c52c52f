"""Confusion matrix of a trained student on the test set, and its spikes and potentials for the first image.

They are saved in `student/observation.npz` at the end of a run, so that a report can be written without the data.
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
from snnkd_jax.dynamics.neurons import ILIF
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_atomically
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.recorder import spiking_layers
from snnkd_jax.parallel.compiler import compile_options

# Recorded neurons per layer, and neurons x steps over all layers (about half a megabyte).
MAX_NEURONS, MAX_VALUES = 64, 100_000

_PER_LAYER = ("name", "size", "v_start", "v_threshold")


@dataclasses.dataclass(frozen=True)
class Layer:
    """Evenly spaced neurons of a layer of `size`: spikes bool `[T, n]`, potentials after them float32 `[T, n]`.

    Spikes of integer neurons are counts, uint16. `v_start` is the potential before the first step, `v_threshold` that
    from which a neuron fires (NaN: none).
    """

    name: str
    size: int
    spikes: NDArray
    v: NDArray
    v_start: float = 0.0
    v_threshold: float = math.nan


@dataclasses.dataclass(frozen=True)
class Observation:
    """A spiking network on a test set.

    `confusion` int32 `[K, K]` counts images by class (rows) and prediction (columns). `logits` float32 `[T, K]` and
    `layers` are those of the first image, `image` uint8 `[H, W, C]`, or events `[T, H, W, 2]`, of class `label`.
    """

    confusion: NDArray
    image: NDArray
    label: int
    logits: NDArray
    layers: tuple[Layer, ...]


def observe(
    network: Network, variables: Variables, normalisation: Normalisation, batches: Iterable[Batch]
) -> Observation:
    """Applies a spiking network to all images of at least one batch."""
    run = jax.jit(lambda v, images: record(network, v, normalisation(images)), compiler_options=compile_options())
    pairs, first = [], None
    for batch in batches:
        logits, layers = jax.device_get(run(variables, batch["images"]))
        first = first or (batch, logits[0], layers)
        pairs.append(np.stack([batch["labels"], logits.sum(axis=1).argmax(-1)])[:, batch["mask"] == 1])
    assert first is not None
    batch, logits, layers = first
    confusion = np.zeros((logits.shape[-1],) * 2, np.int32)
    np.add.at(confusion, tuple(np.concatenate(pairs, axis=1)), 1)
    neuron = spiking_layers(network, variables, batch["images"].shape[-3:])
    most = max(1, min(MAX_NEURONS, MAX_VALUES // (max(1, len(layers)) * len(logits))))
    sampled = tuple(_sampled(name, neuron[name], spikes, v, most) for name, (spikes, v) in layers.items())
    return Observation(confusion, _picture(batch["images"][0]), int(batch["labels"][0]), logits, sampled)


def _picture(image: NDArray) -> NDArray[np.uint8]:
    """An image `[H, W, C]`, or the mean over the frames `[T, H, W, C]`, as uint8, grey or RGB; events as they are."""
    if image.ndim == 4 and image.dtype == np.uint8 and image.shape[-1] == 2:
        return image
    pixels = image if image.dtype == np.uint8 else np.round(255 * image)
    pixels = pixels.mean(axis=0) if image.ndim == 4 else pixels
    return (pixels if pixels.shape[-1] in (1, 3) else pixels.mean(axis=-1, keepdims=True)).astype(np.uint8)


def _sampled(name: str, neuron: Neuron, spikes: NDArray, v: NDArray, most: int) -> Layer:
    spikes, v = spikes.reshape(len(spikes), -1), v.reshape(len(v), -1)
    size = spikes.shape[1]
    chosen = np.arange(min(size, most)) * size // min(size, most)
    v_start = float(potential(neuron.init((1,)), jnp.zeros(1))[0])
    threshold = getattr(neuron, "v_threshold", None)
    v_threshold = float(threshold) if isinstance(threshold, numbers.Real) else math.nan
    if isinstance(neuron, ILIF):
        fired, v_threshold = spikes[:, chosen].astype(np.uint16), v_threshold / 2
    else:
        fired = spikes[:, chosen] != 0
    return Layer(name, size, fired, v[:, chosen].astype(np.float32), v_start, v_threshold)


def save_observation(path: Path, observation: Observation) -> None:
    """Writes the file atomically."""
    arrays: dict[str, Any] = {name: getattr(observation, name) for name in ("confusion", "image", "label", "logits")}
    arrays |= {f"{name}s": np.array([getattr(layer, name) for layer in observation.layers]) for name in _PER_LAYER}
    for i, layer in enumerate(observation.layers):
        arrays |= {f"spikes_{i}": layer.spikes, f"v_{i}": layer.v}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_atomically(path, file.getvalue())


def load_observation(path: Path) -> Observation:
    """Reads a file of `save_observation`; raises `InputError` for any other."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            layers = tuple(
                Layer(str(name), int(size), file[f"spikes_{i}"], file[f"v_{i}"], *map(float, potentials))
                for i, (name, size, *potentials) in enumerate(zip(*(file[f"{x}s"] for x in _PER_LAYER), strict=True))
            )
            return Observation(file["confusion"], file["image"], int(file["label"]), file["logits"], layers)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}); delete it") from error
