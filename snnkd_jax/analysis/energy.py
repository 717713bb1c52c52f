"""What a network costs for an image: synaptic operations, layer by layer, and the energy that they stand for.

By NeuroBench's definition (Yik et al., Nature Communications 2025, arXiv 2304.04640; its harness, version 2.3):

    synaptic operations = sum over steps of (non-zero inputs) x (non-zero weights that they meet)
    dense operations    = the same with no input and no weight taken for zero

Zeros of the padding are not inputs, and biases, norms, pooling and the neurons themselves are not counted. The
operations of a layer are accumulations (AC) if its inputs are all in {-1, 0, 1}, and else multiplications with
accumulation (MAC). So mean pooling between spikes and a convolution makes that convolution cost MACs; maxima keep ACs.

Three readings of our own:
- Inputs in {-a, 0, a} with one a > 0 for the whole layer are ACs as well if they come from other layers: a is folded
  into the weights exactly. An image is spikes only if a = 1.
- A layer is AC or MAC by all images and steps that were counted; NeuroBench decides anew at each step of each batch.
- A static image is constant in time, and this library convolves it once, so it is counted once, where NeuroBench's
  harness would count it at every step. `steps` of a layer, 1 or T, says how often it is counted.

Beside it stands what most papers print, `firing rate x dense operations` for all T steps as ACs, and the dense MACs
for the layer that reads the images and for ordinary networks. The rate is that of the spikes that a layer reads, and
where they were pooled by means that of the neurons before the pooling; all that spikes feed is called ACs. (In a
spiking PyramidNet, where convolutions read norms, it has no meaning.)
"""

import dataclasses
import functools
from collections import OrderedDict
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from numpy.typing import NDArray

from snnkd_jax.analysis.joules import AC_PJ, MAC_PJ, joules
from snnkd_jax.analysis.synapses import Kind, recorded_synapses
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.parallel.compiler import compile_options


@dataclasses.dataclass(frozen=True)
class Activity:
    """How many values an activation layer gave out, and how many were not zero, over all images and steps."""

    values: int
    nonzero: int

    def __add__(self, other: "Activity") -> "Activity":
        return Activity(self.values + other.values, self.nonzero + other.nonzero)

    @property
    def rate(self) -> float:
        """The share that was not zero: for neurons the spikes per neuron and step, in [0, 1]."""
        return self.nonzero / self.values


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One convolution or dense layer. The fields are sums over `images` and their steps, the properties an image's.

    `name` is the place in the parameter tree, `steps` how often the layer is computed for an image (1 or T), `source`
    the activation layer before it, if any; `effective` are the synaptic operations, `possible` the dense ones; `least`
    and `greatest` are the magnitudes of the inputs that are not zero (infinity and 0 if all are).
    """

    name: str
    kind: Kind
    steps: int
    source: str | None
    weights: int
    nonzero_weights: int
    images: int
    inputs: int
    nonzero_inputs: int
    effective: int
    possible: int
    least: float
    greatest: float

    def __add__(self, other: "LayerCost") -> "LayerCost":
        names = ("images", "inputs", "nonzero_inputs", "effective", "possible")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        least, greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        return dataclasses.replace(self, least=least, greatest=greatest, **sums)

    @property
    def operations(self) -> Literal["MAC", "AC"]:
        """What its operations are; a layer whose inputs were all zero made no operations, ACs."""
        folds = self.source is not None or self.greatest in (0, 1)
        return "AC" if folds and self.least >= self.greatest else "MAC"

    @property
    def macs(self) -> float:
        """Effective MACs of an image."""
        return self.effective / self.images if self.operations == "MAC" else 0.0

    @property
    def acs(self) -> float:
        """Effective ACs of an image."""
        return self.effective / self.images if self.operations == "AC" else 0.0

    @property
    def dense(self) -> float:
        """Dense operations of an image in all its steps."""
        return self.possible / self.images

    @property
    def input_rate(self) -> float:
        """The share of the inputs that is not zero, in [0, 1]; of spikes, spikes per neuron and step."""
        return self.nonzero_inputs / self.inputs


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs; `a + b` is that of the images of both.

    Operations are means over images. `layers` and `activations` are in the order of computation, `footprint` is in
    bytes, of parameters and statistics; `num_steps` is None for an ordinary network.
    """

    num_steps: int | None
    footprint: int
    layers: dict[str, LayerCost]
    activations: dict[str, Activity]

    def __add__(self, other: "Cost") -> "Cost":
        """Raises `InputError` if the two are not of one network, fed in one way."""
        first, second = (
            (c.num_steps, c.footprint, {n: (x.steps, x.nonzero_weights, x.dense) for n, x in c.layers.items()})
            for c in (self, other)
        )
        if first != second:
            raise InputError("costs of different networks, weights or numbers of frames cannot be added")
        layers = {name: layer + other.layers[name] for name, layer in self.layers.items()}
        activations = {name: activity + other.activations[name] for name, activity in self.activations.items()}
        return dataclasses.replace(self, layers=layers, activations=activations)

    @property
    def images(self) -> int:
        """How many images were counted."""
        return next(iter(self.layers.values())).images

    @property
    def macs(self) -> float:
        """Effective MACs of an image."""
        return sum(layer.macs for layer in self.layers.values())

    @property
    def acs(self) -> float:
        """Effective ACs of an image."""
        return sum(layer.acs for layer in self.layers.values())

    @property
    def dense(self) -> float:
        """Dense operations of an image in all its steps."""
        return sum(layer.dense for layer in self.layers.values())

    @property
    def dense_pass(self) -> float:
        """Dense operations of one step: what papers count as the MACs of the ANN of the same architecture."""
        return sum(layer.dense / layer.steps for layer in self.layers.values())

    @property
    def estimate(self) -> tuple[float, float]:
        """The papers' `(MACs, ACs)` of an image."""
        macs, acs = zip(*map(self.layer_estimate, self.layers), strict=True)
        return sum(macs), sum(acs)

    def layer_estimate(self, name: str) -> tuple[float, float]:
        """The papers' `(MACs, ACs)` of an image in one layer."""
        layer = self.layers[name]
        if layer.operations == "AC":
            return 0.0, layer.input_rate * layer.dense
        if self.num_steps is None or layer.source is None:
            return layer.dense, 0.0
        return 0.0, self.activations[layer.source].rate * layer.dense

    @property
    def connection_sparsity(self) -> float:
        """The share of the weights that is zero, biases and norms left out."""
        layers = self.layers.values()
        return 1 - sum(layer.nonzero_weights for layer in layers) / sum(layer.weights for layer in layers)

    @property
    def activation_sparsity(self) -> float:
        """The share of zeros in all that the activation layers gave out; 0 for a network without any."""
        activations = self.activations.values()
        values = sum(a.values for a in activations)
        return 1 - sum(a.nonzero for a in activations) / values if values else 0.0


def same_architecture(a: Cost, b: Cost) -> bool:
    """Whether the two have layers of the same names, each of as many dense operations a step."""
    first, second = ({n: layer.dense / layer.steps for n, layer in cost.layers.items()} for cost in (a, b))
    return first == second


def count(network: Network, variables: Variables, images: ArrayLike) -> Cost:
    """Counts the operations of a batch, exactly: in integers, whatever their number.

    Args:
        network: ordinary or spiking.
        variables: of the network; what is zero in its weights is not counted.
        images: normalised, `[B, H, W, C]` or one frame a step, `[B, T, H, W, C]`.

    Raises:
        InputError: for an empty batch, or images that the network does not take.
    """
    images = jnp.asarray(images)
    if images.size == 0:
        raise InputError(f"images have shape {images.shape}; at least one is needed")
    layers, activations = jax.device_get(_compiled(network)(variables, images))
    values = len(images) * (network.num_steps or 1)
    return Cost(
        network.num_steps,
        sum(x.nbytes for x in jax.tree.leaves(variables)),
        {name: layer(images=len(images)) for name, layer in layers.items()},
        {name: Activity(values * x.size, int(x.sum(dtype=np.int64))) for name, x in activations.items()},
    )


def _layer_cost(
    *, images: int, steps: int, nonzero: NDArray, fan_out: NDArray, dense_fan_out: NDArray, **same: Any
) -> LayerCost:
    """On the host, in 64 bits; `nonzero` counts the images and steps at which each input was not zero."""
    nonzero = nonzero.astype(np.int64)
    return LayerCost(
        steps=steps,
        images=images,
        inputs=images * steps * nonzero.size,
        nonzero_inputs=int(nonzero.sum()),
        effective=int((nonzero * fan_out).sum()),
        possible=images * steps * int(dense_fan_out.sum(dtype=np.int64)),
        **{name: x.item() if isinstance(x, np.ndarray | np.generic) else x for name, x in same.items()},
    )


@functools.lru_cache(maxsize=16)
def _compiled(network: Network):
    return jax.jit(functools.partial(_sums, network), compiler_options=compile_options())


def _sums(network: Network, variables: Variables, images: Array) -> Any:
    """What the host needs of a batch: numbers for each input, so small that 32 bits hold them."""
    recording = recorded_synapses(network, variables, images)
    spiking = network.num_steps is not None
    axes = (0, 1) if spiking else (0,)
    layers, activations = OrderedDict(), OrderedDict()  # of a plain dict, JAX would sort the names
    for synapses in recording.synapses:
        x, connected = synapses.inputs, (synapses.kernel != 0).astype(jnp.float32)
        magnitude = jnp.abs(x).astype(jnp.float32)
        static = {"name": synapses.name, "kind": synapses.kind, "source": synapses.source, "weights": connected.size}
        layers[synapses.name] = jax.tree_util.Partial(
            functools.partial(_layer_cost, steps=x.shape[1] if spiking else 1, **static),
            nonzero_weights=jnp.count_nonzero(connected),
            nonzero=jnp.sum(x != 0, axes, dtype=jnp.int32),
            fan_out=synapses.fan_out(connected, x.shape[len(axes) :]),
            dense_fan_out=synapses.fan_out(jnp.ones_like(connected), x.shape[len(axes) :]),
            least=jnp.min(magnitude, where=x != 0, initial=jnp.inf),
            greatest=jnp.max(magnitude),
        )
    for name, y in recording.activations.items():
        activations[name] = jnp.sum(y != 0, axes, dtype=jnp.int32)
    return layers, activations


def summary(cost: Cost, mac_pj: float = MAC_PJ, ac_pj: float = AC_PJ) -> str:
    """A table for the terminal: each layer and the sum, operations and microjoules of an image."""

    def figures(of: LayerCost | Cost, estimate: tuple[float, float]) -> list[str]:
        energies = (f"{1e6 * joules(macs, acs, mac_pj, ac_pj):.4f}" for macs, acs in ((of.macs, of.acs), estimate))
        return [*(f"{n:,.0f}" for n in (of.dense, of.macs, of.acs)), *energies]

    rows = [["layer", "kind", "steps", "input rate", "dense", "MACs", "ACs", "uJ", "estimate, uJ"]]
    for name, layer in cost.layers.items():
        numbers = figures(layer, cost.layer_estimate(name))
        rows.append([name, layer.kind, str(layer.steps), f"{layer.input_rate:.4f}", *numbers])
    rows.append(["all", "", "", "", *figures(cost, cost.estimate)])
    zeros = f"{100 * cost.connection_sparsity:.2f} % of weights, {100 * cost.activation_sparsity:.2f} % of activations"
    told = f"mean of {cost.images} images; {cost.footprint:,} bytes; zero: {zeros}"
    return "\n".join([*aligned(rows, left=2), told])


def aligned(rows: list[list[str]], left: int) -> list[str]:
    """A table's rows as lines; so many columns, the first ones, are flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{'<' if i < left else '>'}{widths[i]}}" for i, cell in enumerate(row)) for row in rows]
