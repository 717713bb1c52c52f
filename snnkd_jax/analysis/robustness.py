"""Robustness of trained networks: test accuracy under 14 kinds of noise at five fixed levels.

Ten kinds are noise on images (`snnkd_jax.data.corruptions`), four are hardware noise between layers
(`snnkd_jax.analysis.disturbance`). For frames of events, three kinds of noise of their cameras
(`snnkd_jax.data.event_noise`) are in the place of the ten. Each module has the equations and units of its kinds. The
levels are fixed so that networks can be compared. Every draw depends only on the seed, the kind, the level, and the
image's index in the test set or the layer's name: all networks see the same noise, whatever the batch size and the
number of devices.
"""

import functools
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from numpy.typing import NDArray

from snnkd_jax.analysis.disturbance import LAYER_LEVELS, NEURON_KINDS, SCALED_NEURONS, apply_disturbed
from snnkd_jax.data.batches import eval_batches
from snnkd_jax.data.corruptions import IMAGE_LEVELS, MAX_LEVEL, check_level, check_per_image, corrupt, noise_key
from snnkd_jax.data.event_noise import EVENT_LEVELS, disturb_events
from snnkd_jax.data.labels import check_labels
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.inference.trained import Trained
from snnkd_jax.models.recorder import spiking_layers
from snnkd_jax.parallel.compiler import compile_options
from snnkd_jax.parallel.mesh import check_batch_size, data_mesh, put_batch, put_replicated

LEVELS = IMAGE_LEVELS | LAYER_LEVELS
"""Strengths of levels 1 to 5 by kind."""

KINDS = tuple(LEVELS)
GROUPS: dict[str, tuple[str, ...]] = {"image": tuple(IMAGE_LEVELS), "layer": tuple(LAYER_LEVELS), "all": KINDS}
"""Groups of kinds over which the accuracy is averaged."""

EVENT_KINDS = (*EVENT_LEVELS, *LAYER_LEVELS)
EVENT_GROUPS = {"event": tuple(EVENT_LEVELS), "layer": tuple(LAYER_LEVELS), "all": EVENT_KINDS}
"""The kinds and groups for frames of events."""


def evaluate_noise(
    trained: Trained,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    seed: int,
    *,
    kinds: Iterable[str] | None = None,
    levels: Iterable[int] = range(MAX_LEVEL + 1),
    batch_size: int = 128,
    index: NDArray | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """Evaluates a network under noise.

    Args:
        trained: the network.
        images, labels: uint8 `[N, H, W, C]`, not normalised, or frames of events `[N, T, H, W, 2]`; and `[N]`.
        seed: seed of the noise, in [0, 2^32).
        kinds, levels: some of `KINDS`, of events of `EVENT_KINDS`, None: all of them; and some of 0 (no noise) to 5,
            at least one above 0.
        batch_size: images per batch; a multiple of the number of devices.
        index: `[N]`, positions of the images in the test set, on which their noise depends; None counts from 0.
        mesh: the devices; None: all.

    Returns:
        A dictionary for JSON: `seed`, `images` (their number), `levels`; `clean`, the accuracy without noise in [0, 1];
        `kinds`, for each kind its `accuracy` by level, `mean` over the levels above 0, and `drop`, clean - mean; and
        `mean`, for each of `GROUPS` or `EVENT_GROUPS` the mean over its kinds. Kinds that are not defined are None:
        those of neurons for an ANN, and `threshold_mismatch` for neurons other than LIF, PLIF, IF and ILIF (such as
        those of networks converted by QCFS). A group is None unless all of its kinds were evaluated.

    Raises `InputError` for other arguments.
    """
    events = images.ndim == 5 and trained.reads_events
    known, groups = (EVENT_KINDS, EVENT_GROUPS) if events else (KINDS, GROUPS)
    kinds, levels = list(known if kinds is None else kinds), list(levels)
    for kind in kinds:
        check_choice("kind", kind, known)
    for level in levels:
        check_level(level)
    levels = list(map(int, levels))  # for JSON
    if not any(levels):
        raise InputError(f"levels={levels!r} has none above 0; choose some of 1 to {MAX_LEVEL}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed!r} must be in [0, 2^32)")
    shape = images.shape[2 if events else 1 :]
    if shape != trained.image_shape or images.dtype != np.uint8 or not len(images):
        frames = "T, " if trained.reads_events else ""
        expected = f"uint8 [N, {frames}{', '.join(map(str, trained.image_shape))}]"
        raise InputError(f"images are {images.dtype} {images.shape}; this network takes {expected}")
    labels = check_labels("labels", labels, len(images), len(trained.class_names))
    index = np.asarray(range(len(images)) if index is None else index, np.int32)
    check_per_image("index", index, len(images))
    mesh = data_mesh() if mesh is None else mesh
    check_batch_size(batch_size, mesh)
    accuracy = _evaluation(trained, {"images": images, "labels": labels, "index": index}, seed, batch_size, mesh)

    clean = accuracy(None, 0)
    found: dict[str, Any] = {}
    for kind in kinds:
        found[kind] = None
        if _defined(kind, trained):
            by_level = [accuracy(kind, level) if level else clean for level in levels]
            mean = statistics.fmean(a for level, a in zip(levels, by_level, strict=True) if level)
            found[kind] = {"accuracy": by_level, "mean": mean, "drop": clean - mean}
    means = {
        group: statistics.fmean(found[kind]["mean"] for kind in members) if all(map(found.get, members)) else None
        for group, members in groups.items()
    }
    return {"seed": seed, "images": len(images), "levels": levels, "clean": clean, "kinds": found, "mean": means}


def _defined(kind: str, trained: Trained) -> bool:
    if trained.network.num_steps is None:
        return kind not in NEURON_KINDS
    network = trained.network, trained.variables, trained.image_shape
    return kind != "threshold_mismatch" or all(type(n) in SCALED_NEURONS for n in spiking_layers(*network).values())


def _evaluation(
    trained: Trained, data: dict[str, NDArray], seed: int, batch_size: int, mesh: Mesh
) -> Callable[[str | None, int], float]:
    """The accuracy by kind and level, compiled once for all image noise and once per kind of hardware noise."""
    network, key = trained.network, jax.random.key(seed)
    variables = put_replicated(mesh, trained.variables)

    @functools.partial(jax.jit, static_argnames="kind", compiler_options=compile_options())
    def correct(variables: Any, batch: dict[str, Array], strength: Array, key: Array, *, kind: str | None) -> Array:
        images = trained.normalisation(batch["images"])  # restores every byte exactly
        if kind is None:
            logits, _ = network.apply(variables, images)
        else:
            logits, _ = apply_disturbed(network, variables, images, kind, strength, key, batch["index"])
        answers = (logits if logits.ndim == 2 else logits.sum(axis=1)).argmax(axis=-1)
        return (batch["mask"] * (answers == batch["labels"])).sum()

    def accuracy(kind: str | None, level: int) -> float:
        strength, layer_kind, layer_key = 0.0, None, key
        if kind in LAYER_LEVELS:
            strength, layer_kind, layer_key = LAYER_LEVELS[kind][level - 1], kind, noise_key(key, kind, level)
        strength, layer_key = put_replicated(mesh, (jnp.float32(strength), layer_key))
        counts = []
        for batch in eval_batches(data, batch_size):
            frames = batch["images"]
            if kind in EVENT_LEVELS:
                frames = np.asarray(disturb_events(kind, level, key, frames, batch["index"]))
            images = frames.astype(np.float32) / np.float32(255)
            if kind in IMAGE_LEVELS:
                images = np.asarray(corrupt(kind, level, key, images, batch["index"]))
            batch = put_batch(mesh, batch | {"images": images})
            counts.append(correct(variables, batch, strength, layer_key, kind=layer_kind))
        return sum(map(float, counts)) / len(data["labels"])

    return accuracy
