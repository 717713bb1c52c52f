"""Costs of trained networks, compared with ANNs of their architectures, and their entries in records."""

import functools
import operator
from typing import Any

import jax
from numpy.typing import NDArray

from snnkd_jax.analysis.energy import Cost, count, same_architecture
from snnkd_jax.inference.trained import Trained


def measure(trained: Trained, images: NDArray, batch_size: int) -> Cost:
    """Counts the operations of a network on images, uint8 `[N, H, W, C]`, or frames `[N, T, H, W, C]`."""
    normalise = jax.jit(trained.normalisation)
    batches = (normalise(images[i : i + batch_size]) for i in range(0, len(images), batch_size))
    events = trained.reads_events and trained.network.frames is None
    return functools.reduce(operator.add, (count(trained.network, trained.variables, x, events) for x in batches))


def ann_of(role: str, costs: dict[str, Cost]) -> str | None:
    """The role of the ANN of the same architecture: the network itself if it is an ANN, else the last one that fits."""
    anns = (other for other in (role, *reversed(costs)) if costs[other].num_steps is None)
    return next((ann for ann in anns if same_architecture(costs[role], costs[ann])), None)


def cost_entry(trained: Trained, cost: Cost) -> dict[str, Any]:
    """The entry of a network in a record, with operations per image."""
    layers = [
        {name: getattr(layer, name) for name in ("name", "kind", "operations", "steps", "input_rate")}
        | {"effective": layer.macs + layer.acs, "dense": layer.dense, "estimate": cost.layer_estimate(layer.name)}
        for layer in cost.layers.values()
    ]
    sizes = ("footprint", "connection_sparsity", "activation_sparsity")
    return {
        **{name: getattr(trained.network, name) for name in ("model", "width", "num_steps")},
        "levels": trained.levels,
        **{name: getattr(cost, name) for name in ("macs", "acs", "dense", "dense_pass", "estimate", *sizes)},
        "layers": layers,
    }
