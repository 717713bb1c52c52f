"""What trained networks cost beside each other, and what a record says of each."""

import functools
import operator
from typing import Any

import jax
from numpy.typing import NDArray

from snnkd_jax.analysis.energy import Cost, count, same_architecture
from snnkd_jax.inference.trained import Trained


def measure(trained: Trained, images: NDArray, batch_size: int) -> Cost:
    """The cost of all images, uint8 `[N, H, W, C]`."""
    normalise = jax.jit(trained.normalisation)
    batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    costs = (count(trained.network, trained.variables, normalise(batch)) for batch in batches)
    return functools.reduce(operator.add, costs)


def ann_of(role: str, costs: dict[str, Cost]) -> str | None:
    """The role of the ANN of the same architecture: a network itself if it is one, else rather a later one of these."""
    anns = (other for other in (role, *reversed(costs)) if costs[other].num_steps is None)
    return next((ann for ann in anns if same_architecture(costs[role], costs[ann])), None)


def cost_entry(trained: Trained, cost: Cost) -> dict[str, Any]:
    """What a record says of a network; operations are those of an image."""
    layers = [
        {name: getattr(layer, name) for name in ("name", "kind", "operations", "steps", "input_rate")}
        | {"effective": layer.macs + layer.acs, "dense": layer.dense, "estimate": cost.layer_estimate(layer.name)}
        for layer in cost.layers.values()
    ]
    operations = ("macs", "acs", "dense", "dense_pass", "estimate")
    of_network = ("footprint", "connection_sparsity", "activation_sparsity")
    return {
        **{name: getattr(trained.network, name) for name in ("model", "width", "num_steps")},
        **{name: getattr(cost, name) for name in (*operations, *of_network)},
        "layers": layers,
    }
