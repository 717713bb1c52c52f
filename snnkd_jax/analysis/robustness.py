"""How the accuracy of a trained network falls under noise: 14 kinds at five fixed strengths, seeded.

Ten kinds are noise on the image (`snnkd_jax.analysis.corruptions`), four are what neuromorphic hardware does between
the layers (`snnkd_jax.analysis.disturbance`); each module has the equations and units of its kinds. The strengths are
this project's choice, fixed here so that numbers of different networks can be compared. Every draw is a function of the
seed, the kind, the level, and the image's index in the test set or the layer's name: networks are compared on the same
images, and the batch size and the number of devices change nothing.
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

from snnkd_jax.analysis.corruptions import IMAGE_LEVELS, MAX_LEVEL, check_level, corrupt, noise_key
from snnkd_jax.analysis.disturbance import NEURON_KINDS, apply_disturbed, check_scales
from snnkd_jax.data.batches import eval_batches
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.inference.trained import Trained
from snnkd_jax.models.recorder import spiking_layers
from snnkd_jax.parallel.compiler import compile_options
from snnkd_jax.parallel.mesh import check_batch_size, data_mesh, put_batch, put_replicated

LAYER_LEVELS: dict[str, tuple[float, ...]] = {
    "spike_deletion": (0.05, 0.1, 0.2, 0.3, 0.5),  # probability that a spike is lost
    "spike_insertion": (0.005, 0.01, 0.02, 0.05, 0.1),  # probability that a silent neuron fires, a step
    "threshold_mismatch": (0.1, 0.2, 0.3, 0.4, 0.5),  # standard deviation by the nominal distance
    "weight_noise": (0.05, 0.1, 0.15, 0.2, 0.3),  # standard deviation by the weight
}
"""Kind of disturbance between the layers to the strengths of its levels 1 to 5."""

LEVELS = IMAGE_LEVELS | LAYER_LEVELS
"""The whole grid: kind to the strengths of its levels 1 to 5."""

KINDS = tuple(LEVELS)
GROUPS: dict[str, tuple[str, ...]] = {"image": tuple(IMAGE_LEVELS), "layer": tuple(LAYER_LEVELS), "all": KINDS}
"""Sets of kinds over which a report has the mean."""


def evaluate_noise(
    trained: Trained,
    images: NDArray[np.uint8],
    labels: NDArray[np.int32],
    seed: int,
    *,
    kinds: Iterable[str] = KINDS,
    levels: Iterable[int] = range(MAX_LEVEL + 1),
    batch_size: int = 128,
    index: NDArray | None = None,
    mesh: Mesh | None = None,
) -> dict[str, Any]:
    """The accuracy of a network under noise.

    Args:
        trained: the network.
        images, labels: uint8 `[N, H, W, C]`, as they are stored, and `[N]`.
        seed: of the noise, in [0, 2^32).
        kinds: some of `KINDS`.
        levels: some of 0 (no noise) to 5, at least one above 0.
        batch_size: images that are classified together; a multiple of the number of devices.
        index: `[N]`, the images' places in the test set, on which their noise depends; None counts from 0.
        mesh: the devices; None: all.

    Returns:
        What goes to JSON: `seed`, `images`, their number, and `levels`; `clean`, the accuracy without noise in [0, 1];
        under `kinds` for each kind `accuracy`, a list in the order of `levels`, `mean`, that over the levels above 0,
        and `drop`, clean - mean; and under `mean` that of the kinds' means for each of `GROUPS`. The disturbances of
        neurons have None for an ordinary network, `threshold_mismatch` has None for neurons that do not start from rest
        (networks converted by QCFS) or have other equations than LIF, PLIF and IF, and a group has None unless all of
        its kinds were asked for and are defined.

    Raises:
        InputError: for arguments that are not as above.
    """
    kinds, levels = list(kinds), list(levels)
    for kind in kinds:
        check_choice("kind", kind, KINDS)
    for level in levels:
        check_level(level)
    levels = list(map(int, levels))  # for JSON
    if not any(levels):
        raise InputError(f"levels={levels!r} has none above 0; choose some of 1 to {MAX_LEVEL}")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed!r} must be in [0, 2^32)")
    if images.shape[1:] != trained.image_shape or images.dtype != np.uint8 or not len(images):
        expected = f"uint8 [N, {', '.join(map(str, trained.image_shape))}]"
        raise InputError(f"images are {images.dtype} {images.shape}; this network takes {expected}")
    labels, index = np.asarray(labels), np.asarray(range(len(images)) if index is None else index, np.int32)
    for name, array in (("labels", labels), ("index", index)):
        if array.shape != images.shape[:1]:
            raise InputError(f"{name} has shape {array.shape}; {len(images)} images need ({len(images)},)")
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
        for group, members in GROUPS.items()
    }
    return {"seed": seed, "images": len(images), "levels": levels, "clean": clean, "kinds": found, "mean": means}


def _defined(kind: str, trained: Trained) -> bool:
    if kind == "threshold_mismatch":
        try:
            for neuron in spiking_layers(trained.network, trained.variables, trained.image_shape).values():
                check_scales(neuron)
        except InputError:
            return False
    return kind not in NEURON_KINDS or trained.network.num_steps is not None


def _evaluation(
    trained: Trained, data: dict[str, NDArray], seed: int, batch_size: int, mesh: Mesh
) -> Callable[[str | None, int], float]:
    """The accuracy as a function of kind and level.

    The network is compiled once for images, noisy or not, and once for each kind of disturbance between its layers.
    """
    network, key = trained.network, jax.random.key(seed)
    variables = put_replicated(mesh, trained.variables)

    @functools.partial(jax.jit, static_argnames="kind", compiler_options=compile_options())
    def correct(variables: Any, batch: dict[str, Array], strength: Array, key: Array, *, kind: str | None) -> Array:
        images = trained.normalisation(batch["images"])  # which gives every byte again, exactly
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
            images = batch["images"].astype(np.float32) / np.float32(255)
            if kind in IMAGE_LEVELS:
                images = np.asarray(corrupt(kind, level, key, images, batch["index"]))
            batch = put_batch(mesh, batch | {"images": images})
            counts.append(correct(variables, batch, strength, layer_key, kind=layer_kind))
        return sum(map(float, counts)) / len(data["labels"])

    return accuracy
