"""A text summary of a network: its layers in the order of computation."""

from typing import Any

import flax.linen as nn
from flax import traverse_util

from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.dynamics.neurons import PLIF
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.activation import QCFS, ReLU, Spike
from snnkd_jax.models.converted import ConvertedMaxPool
from snnkd_jax.models.folding import FoldedNorm
from snnkd_jax.models.layers import AvgPool, BatchNorm, MaxPool
from snnkd_jax.models.recorder import trace_calls

_KINDS = {
    nn.Conv: "convolution",
    nn.Dense: "dense",
    BatchNorm: "batch norm",
    nn.BatchNorm: "batch norm",
    FoldedNorm: "folded norm",
    AvgPool: "mean pooling",
    MaxPool: "max pooling",
    ConvertedMaxPool: "max pooling over the steps",
    ReLU: "ReLU",
    QCFS: "quantised ReLU",
}


def summary(network: Network, variables: Variables, image_shape: tuple[int, int, int]) -> str:
    """Neurons with their constants, a line per layer with its output shape per image and step, and total parameters."""
    params: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables["params"])
    rows = [("layer", "kind", "output", "parameters")]
    neurons: list[Neuron] = []
    for call in trace_calls(network, variables, image_shape):
        module = call.module
        kind = "neurons" if isinstance(module, Spike) else _KINDS.get(type(module))
        if kind is None:
            continue
        # Without the names inside `layers.Conv` and `converted.ConvertedSpike`.
        path = module.path[:-1] if module.path[-1] in ("conv", "spike") else module.path
        own = {key[len(path) :]: x for key, x in params.items() if key[: len(path)] == path}
        if isinstance(module, Spike):
            neurons.append(module.neuron)
            learned = {name: params[*module.path, name] for name in module.neuron.parameters}
            if isinstance(module.neuron, PLIF):  # its time constant, not the parameter
                learned = module.neuron.precompute(learned)
            for name, x in learned.items():
                value = f"{float(x):.4g}" if x.ndim == 0 else f"{float(x.min()):.4g} to {float(x.max()):.4g}"
                kind += f", {name} = {value}"
        shape = call.output.shape[1 if network.num_steps is None else 2 :]
        size = sum(x.size for x in own.values())
        rows.append(("/".join(path), kind, " x ".join(map(str, shape)), f"{size:,}" if size else "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    lines.append(f"{sum(x.size for x in params.values()):,} parameters")
    return "\n".join([*(f"neurons: {neuron}" for neuron in dict.fromkeys(neurons)), "", *lines])
