"""Synaptic operations of a network per image and layer.

By the definition of NeuroBench (Yik et al., Nature Communications 2025, arXiv 2304.04640; its harness, version 2.3):

    synaptic operations = sum over steps of (non-zero inputs) x (non-zero weights they are connected to)
    dense operations    = the same with every input and weight counted as non-zero

Zeros of the padding are not inputs; biases, norms, pooling and the neurons themselves are not counted. The operations
of a layer are accumulates (AC) if its inputs are all in {-1, 0, 1}, and multiply-accumulates (MAC) otherwise. So a
convolution of average-pooled spikes costs MACs, one of max-pooled spikes ACs. Three departures from the harness:

- Inputs in {-a, 0, a} with one a > 0 for the whole layer are ACs as well if they come from an activation layer: a can
  be folded into the weights exactly. An image counts as spikes only if a = 1.
- A layer is AC or MAC by all images and steps that were counted; the harness decides for each step of each batch.
- A static image is convolved once by this library, so it is counted once and not at every step (`LayerCost.steps`).

Events (`snnkd_jax.data.events`) reach a spiking network one by one: n of them at one pixel and step cost n times the
ACs of one, as if each had a sub-step of its own.

Integer neurons (`ILIF`) are counted in the T x D binary sub-steps of `Trained.expanded`, where a count of s spikes
costs s times the ACs of one spike. Counted as it was trained, a network of them needs MACs.

`estimate` is what most papers report: firing rate x dense operations of all T steps as ACs, but dense MACs for the
layer that reads the images and for ANNs. The rate is that of the spikes that a layer reads, or of the neurons before an
average pooling. (It has no meaning for a spiking PyramidNet, whose convolutions read norms.)
"""

import dataclasses
import functools
import operator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from snnkd_jax.analysis.joules import AC_PJ, MAC_PJ, joules
from snnkd_jax.analysis.synapses import synaptic_counts
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.parallel.compiler import compile_options


class Activity(NamedTuple):
    """Numbers of outputs, of non-zero outputs and of spikes of an activation layer, over all images and steps.

    Every non-zero output is a spike, but the counts of integer neurons are as many as they say.
    """

    values: int
    nonzero: int
    spikes: int

    @property
    def rate(self) -> float:
        """Spikes per output: for spiking neurons, the firing rate per step."""
        return self.spikes / self.values


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """Operations of one convolution or dense layer; counts are sums over `images` and steps, properties per image.

    `name` is the path in the parameter tree, `steps` how often the layer is computed per image (1, T or T D),
    `positions` at how many positions of the map in each step, of which the mean is taken, instead of once of the mean,
    `source` the activation layer before it, if any, `dense` the dense operations per image, `effective` the synaptic
    operations; `least` and `greatest` are the extreme magnitudes of the non-zero inputs (infinity and 0 if there are
    none).
    """

    name: str
    kind: Literal["conv", "dense"]
    steps: int
    positions: int
    source: str | None
    weights: int
    nonzero_weights: int
    dense: float
    images: int
    inputs: int
    nonzero_inputs: int
    effective: int
    least: float
    greatest: float

    def __add__(self, other: "LayerCost") -> "LayerCost":
        sums = {n: getattr(self, n) + getattr(other, n) for n in ("images", "inputs", "nonzero_inputs", "effective")}
        least, greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        return dataclasses.replace(self, least=least, greatest=greatest, **sums)

    @property
    def dense_pass(self) -> float:
        """Dense operations of one step, if a mean over the map is read once."""
        return self.dense / self.steps / self.positions

    @property
    def operations(self) -> Literal["MAC", "AC"]:
        """Kind of the layer's operations; AC if all inputs were zero."""
        folds = self.source is not None or self.greatest in (0, 1)
        return "AC" if folds and self.least >= self.greatest else "MAC"

    @property
    def macs(self) -> float:
        """Effective MACs per image."""
        return self.effective / self.images if self.operations == "MAC" else 0.0

    @property
    def acs(self) -> float:
        """Effective ACs per image."""
        return self.effective / self.images if self.operations == "AC" else 0.0

    @property
    def input_rate(self) -> float:
        """Fraction of non-zero inputs: for spikes, the firing rate per step."""
        return self.nonzero_inputs / self.inputs


@dataclasses.dataclass(frozen=True)
class Cost:
    """Operations of a network, means over images; `a + b` is the cost over the images of both.

    `layers` and `activations` are in the order of computation, `footprint` is the size of parameters and batch
    statistics in bytes; `num_steps` is None for an ANN.
    """

    num_steps: int | None
    footprint: int
    layers: dict[str, LayerCost]
    activations: dict[str, Activity]

    def __add__(self, other: "Cost") -> "Cost":
        """Merges two costs; raises `InputError` for different networks or numbers of frames."""
        first, second = (
            (c.num_steps, c.footprint, {n: (x.steps, x.nonzero_weights, x.dense) for n, x in c.layers.items()})
            for c in (self, other)
        )
        if first != second:
            raise InputError("costs of different networks, weights or numbers of frames cannot be added")
        layers = {name: layer + other.layers[name] for name, layer in self.layers.items()}
        activations = {n: Activity(*map(operator.add, a, other.activations[n])) for n, a in self.activations.items()}
        return dataclasses.replace(self, layers=layers, activations=activations)

    @property
    def images(self) -> int:
        """Number of images."""
        return next(layer.images for layer in self.layers.values())

    @property
    def macs(self) -> float:
        """Effective MACs per image."""
        return sum(layer.macs for layer in self.layers.values())

    @property
    def acs(self) -> float:
        """Effective ACs per image."""
        return sum(layer.acs for layer in self.layers.values())

    @property
    def dense(self) -> float:
        """Dense operations per image over all steps."""
        return sum(layer.dense for layer in self.layers.values())

    @property
    def dense_pass(self) -> float:
        """Dense operations of one step: the MACs that papers attribute to the ANN of the same architecture."""
        return sum(layer.dense_pass for layer in self.layers.values())

    @property
    def estimate(self) -> tuple[float, float]:
        """Estimated `(MACs, ACs)` per image."""
        macs, acs = zip(*map(self.layer_estimate, self.layers), strict=True)
        return sum(macs), sum(acs)

    def layer_estimate(self, name: str) -> tuple[float, float]:
        """Estimated `(MACs, ACs)` per image in one layer."""
        layer = self.layers[name]
        if layer.operations == "AC":
            return 0.0, layer.input_rate * layer.dense
        if self.num_steps is None or layer.source is None:
            return layer.dense, 0.0
        return 0.0, self.activations[layer.source].rate * layer.dense

    @property
    def connection_sparsity(self) -> float:
        """Fraction of zero weights, without biases and norms."""
        layers = self.layers.values()
        return 1 - sum(layer.nonzero_weights for layer in layers) / sum(layer.weights for layer in layers)

    @property
    def activation_sparsity(self) -> float:
        """Fraction of zero outputs of all activation layers; 0 for a network without any."""
        activations = self.activations.values()
        values = sum(a.values for a in activations)
        return 1 - sum(a.nonzero for a in activations) / values if values else 0.0


def same_architecture(a: Cost, b: Cost) -> bool:
    """Whether two networks have layers of the same names and dense operations per step."""
    first, second = ({n: layer.dense_pass for n, layer in cost.layers.items()} for cost in (a, b))
    return first == second


def count(network: Network, variables: Variables, images: ArrayLike, events: bool = False) -> Cost:
    """Counts the operations of an ANN or a spiking network on a batch exactly, in integers.

    `images` are normalised, `[B, H, W, C]` or one frame per step, `[B, T, H, W, C]`; with `events`, numbers of
    events. Raises `InputError` for an empty batch, or images that the network does not take.
    """
    images = jnp.asarray(images)
    if images.size == 0:
        raise InputError(f"images have shape {images.shape}; at least one is needed")
    layers, activations = jax.device_get(_compiled(network, events)(variables, images))
    return Cost(
        network.num_steps,
        sum(x.nbytes for x in jax.tree.leaves(variables)),
        {name: _layer_cost(len(images), **layer()) for name, layer in layers.items()},
        {name: _activity(len(images) * (network.num_steps or 1), **outputs()) for name, outputs in activations.items()},
    )


def _activity(times: int, substeps: int, nonzero: NDArray, spikes: NDArray) -> Activity:
    """Sums on the host in 64 bits."""
    sums = (int(x.sum(dtype=np.int64)) for x in (nonzero, spikes))
    return Activity(times * substeps * nonzero.size, *sums)


def _layer_cost(
    images: int, steps: int, positions: int, nonzero: NDArray, fan_out: NDArray, dense_fan_out: NDArray, **same: Any
) -> LayerCost:
    """Sums on the host in 64 bits; `nonzero` counts, per input, the images and steps where it is non-zero."""
    nonzero = nonzero.astype(np.int64)
    return LayerCost(
        steps=steps,
        positions=positions,
        images=images,
        inputs=images * steps * nonzero.size,
        nonzero_inputs=int(nonzero.sum()),
        effective=int((nonzero * fan_out).sum()),
        dense=float(steps * int(dense_fan_out.sum(dtype=np.int64))),
        **{name: x.item() if isinstance(x, np.ndarray | np.generic) else x for name, x in same.items()},
    )


@functools.lru_cache(maxsize=16)
def _compiled(network: Network, events: bool):
    return jax.jit(functools.partial(synaptic_counts, network, events=events), compiler_options=compile_options())


def summary(cost: Cost, mac_pj: float = MAC_PJ, ac_pj: float = AC_PJ) -> str:
    """A table for the terminal: operations and energy per image of each layer and in total."""

    def cells(part: LayerCost | Cost, estimate: tuple[float, float]) -> list[str]:
        energies = (f"{1e6 * joules(*counts, mac_pj, ac_pj):.4f}" for counts in ((part.macs, part.acs), estimate))
        return [*(f"{n:,.0f}" for n in (part.dense, part.macs, part.acs)), *energies]

    rows = [["layer", "kind", "steps", "input rate", "dense", "MACs", "ACs", "uJ", "estimate, uJ"]]
    for name, layer in cost.layers.items():
        first = [name, layer.kind, str(layer.steps), f"{layer.input_rate:.4f}"]
        rows.append([*first, *cells(layer, cost.layer_estimate(name))])
    rows.append(["all", "", "", "", *cells(cost, cost.estimate)])
    zeros = f"{100 * cost.connection_sparsity:.2f} % of weights, {100 * cost.activation_sparsity:.2f} % of activations"
    totals = f"mean of {cost.images} images; {cost.footprint:,} bytes; zero: {zeros}"
    return "\n".join([*aligned(rows, left=2), totals])


def aligned(rows: list[list[str]], left: int) -> list[str]:
    """Lines of a plain-text table, the first `left` columns aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{'<' if i < left else '>'}{widths[i]}}" for i, cell in enumerate(row)) for row in rows]
