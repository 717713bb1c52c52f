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
    for other in (role, *reversed(costs)):
        if costs[other].num_steps is None and same_architecture(costs[role], costs[other]):
            return other
    return None


def cost_entry(trained: Trained, cost: Cost) -> dict[str, Any]:
    """What a record says of a network; operations are those of an image, in the layers sums over all."""
    return {
        "model": trained.network.model,
        "width": trained.network.width,
        "num_steps": trained.network.num_steps,
        "macs": cost.macs,
        "acs": cost.acs,
        "dense": cost.dense,
        "dense_pass": cost.dense_pass,
        "estimate": cost.estimate,
        "footprint": cost.footprint,
        "connection_sparsity": cost.connection_sparsity,
        "activation_sparsity": cost.activation_sparsity,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "operations": layer.operations,
                "steps": layer.steps,
                "input_rate": layer.input_rate,
                "effective": layer.effective / layer.images,
                "dense": layer.dense,
                "estimate": cost.layer_estimate(layer.name),
            }
            for layer in cost.layers.values()
        ],
    }
