"""A network in text: its layers in the order in which they are computed."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from snnkd_jax.dynamics.neurons import plif_tau
from snnkd_jax.models import Network, Neuron, Variables
from snnkd_jax.models.activation import QCFS, ReLU, Spike
from snnkd_jax.models.converted import ConvertedMaxPool
from snnkd_jax.models.folding import FoldedNorm
from snnkd_jax.models.layers import AvgPool, BatchNorm, MaxPool

_KINDS = {
    nn.Conv: "convolution",
    nn.Dense: "dense",
    BatchNorm: "batch norm",
    FoldedNorm: "folded norm",
    AvgPool: "mean pooling",
    MaxPool: "max pooling",
    ConvertedMaxPool: "max pooling over the steps",
    ReLU: "ReLU",
    QCFS: "quantised ReLU",
}


def summary(network: Network, variables: Variables, image_shape: tuple[int, int, int]) -> str:
    """A line for each layer, with what leaves it for one image and step, and its parameters; then their number.

    The line before them has the constants of the neurons, if there are any.

    Args:
        network, variables: of any kind.
        image_shape: `[H, W, C]` of its images.
    """
    params: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables["params"])
    rows = [("layer", "kind", "output", "parameters")]
    neurons: list[Neuron] = []
    learned = {path[:-1]: float(plif_tau(w)) for path, w in params.items() if path[-1] == "w"}

    def record(call, args, kwargs, context):
        output, module = call(*args, **kwargs), context.module
        kind = "neurons" if isinstance(module, Spike) else _KINDS.get(type(module))
        if context.method_name == "__call__" and kind is not None:
            # The names inside `layers.Conv` and `conversion.ConvertedSpike`, the same for all.
            path = module.path[:-1] if module.path[-1] in ("conv", "spike") else module.path
            own = {key[len(path) :]: x for key, x in params.items() if key[: len(path)] == path}
            if isinstance(module, Spike):
                neurons.append(module.neuron)
                kind += f", tau = {learned[path]:.4g}" if path in learned else ""
            shape = output.shape[1 if network.num_steps is None else 2 :]
            size = sum(x.size for x in own.values())
            rows.append(("/".join(path), kind, " x ".join(map(str, shape)), f"{size:,}" if size else "-"))
        return output

    with nn.intercept_methods(record):
        jax.eval_shape(lambda v: network.apply(v, jnp.zeros((1, *image_shape))), variables)
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
    lines.append(f"{sum(x.size for x in params.values()):,} parameters")
    return "\n".join([*map(_described, dict.fromkeys(neurons)), "", *lines])


def _described(neuron: Neuron) -> str:
    """The constants of neurons in words."""
    leak = "" if neuron.kind == "if" else f"tau = {neuron.tau:g} steps, decay_input = {neuron.decay_input}, "
    reset = "soft reset" if neuron.v_reset is None else f"hard reset to {neuron.v_reset:g}"
    return f"neurons: {neuron.kind}, {leak}v_threshold = {neuron.v_threshold:g}, {reset}"
