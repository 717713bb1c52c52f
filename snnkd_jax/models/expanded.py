"""Networks of integer neurons (`ILIF`) in binary sub-steps: the same function, with spikes of height 1 at synapses.

A convolution or dense layer W is linear, so what it makes of counts of spikes s in {0, ..., D} is what it makes of D
sub-steps b_1, ..., b_D, of which the first s have a spike:

    W (a s) + bias = a (W b_1 + ... + W b_D) + bias,    b_d = 1[s >= d]

The sub-steps of each layer are added up before its norm, bias and neurons, which are computed once per step; the height
a of a layer's spikes (`activation.IntegerSpike`) is a constant that W can take. The maximum of counts has the maxima of
their sub-steps, so max pooling is exact, and a mean over the map before a dense layer is taken behind it instead, which
is the same. Results are equal up to rounding: a potential that is within about 1e-6 of halfway between two counts may
fire one spike more or less.

Means of spikes over parts of the map, their sums and norms are no counts; layers that read them are refused. Which
layer reads which neurons is found by applying the network to spikes drawn at random.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array

from snnkd_jax.dynamics.neurons import NEURONS, most_spikes
from snnkd_jax.errors import InputError
from snnkd_jax.models.activation import IntegerSpike, Spike
from snnkd_jax.models.layers import GlobalAvgPool
from snnkd_jax.models.recorder import trace_calls

_BATCH = 7  # random images


@dataclasses.dataclass(frozen=True)
class Synapse:
    """A convolution or dense layer, by its path, and the neurons that it reads.

    `source` is the path of an `IntegerSpike`, whose threshold gives the height of its spikes, or of a `Spike`, whose
    height is 1; `levels` is D. `pooled` tells whether a mean over the map, of which it reads the map, lies between.
    """

    path: tuple[str, ...]
    source: tuple[str, ...]
    levels: int
    pooled: bool

    def height(self, params: Mapping[str, Any]) -> Array | float:
        """a, the height of the spikes."""
        for name in self.source:
            params = params.get(name, {})
        return params["qcfs_threshold"] / self.levels if "qcfs_threshold" in params else 1.0

    def substeps(self, counts: Array) -> Array:
        """Spikes in {0, 1}, `[B, T D, ...]`, of counts `[B, T, ...]`."""
        d = jnp.arange(self.levels).reshape(-1, *[1] * (counts.ndim - 2))
        spikes = (counts[:, :, None] > d + 0.5).astype(counts.dtype)
        return spikes.reshape(len(counts), -1, *counts.shape[2:])


@contextmanager
def expanded(synapses: tuple[Synapse, ...], params: Mapping[str, Any]) -> Iterator[None]:
    """A context in which these layers of a module with `params` read sub-steps; their outputs are sums over them."""
    by_path = {synapse.path: synapse for synapse in synapses}
    means: dict[int, tuple[Array, Array]] = {}  # by identity: the mean, and the map that it was taken of

    def interceptor(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, nn.Conv | nn.Dense | GlobalAvgPool):
            return call(*args, **kwargs)
        x: Array = next(iter((*args, *kwargs.values())))
        if isinstance(module, GlobalAvgPool):
            mean = call(x)
            means[id(mean)] = mean, x
            return mean
        if (synapse := by_path.get(module.path)) is None:
            return call(x)
        _, maps = means.get(id(x), (None, None))
        height = synapse.height(params)
        spikes = synapse.substeps((x if maps is None else maps) / height)
        bias = module.get_variable("params", "bias") if module.use_bias else 0.0
        y = call(spikes) - bias
        y = y.reshape(*x.shape[:2], synapse.levels, *y.shape[2:]).sum(axis=2)
        return height * (y if maps is None else y.mean(axis=(-3, -2))) + bias

    with nn.intercept_methods(interceptor):
        yield


def find_synapses(network: Any, variables: Any, image_shape: tuple[int, int, int]) -> tuple[Synapse, ...]:
    """The layers of a `Network` that read spikes, in the order of computation, for images `[H, W, C]`.

    Raises `InputError` if it has no integer neurons, or a layer that reads spikes, but not as counts.
    """
    sources = _sources(network, variables, image_shape)
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables["params"])
    for path, levels in sources.items():
        if (*path, "qcfs_threshold") in flat:  # spikes of height 1, like those of `Spike`
            flat[*path, "qcfs_threshold"] = jnp.float32(levels)
    variables = variables | {"params": traverse_util.unflatten_dict(flat)}
    # No height is a multiple of another, so that heights tell the layers of neurons apart.
    heights = {path: 1 + 0.618 * (i + 1) for i, path in enumerate(sources)}
    read = _inputs(network, variables, image_shape, heights)
    if others := sorted({"/".join(p[:-1]) for p, x in flat.items() if x.ndim > 1 and "/".join(p[:-1]) not in read}):
        raise InputError(f"{others[0]} has weights, but is no flax.linen.Conv or Dense, which alone can be expanded")
    synapses = []
    for name, (first, second, pooled) in read.items():
        if np.array_equal(first, second):
            continue  # it reads the image
        if first.ndim < 3 or first.shape[:2] != (_BATCH, network.num_steps):
            raise InputError(f"{name} reads {first.shape[1:]}, not all steps at once, [T, ...]; it cannot be expanded")
        x = np.stack([first, second])
        errors = {path: _deviation(x / heights[path], levels) for path, levels in sources.items()}
        source = min(errors, key=errors.__getitem__)
        if not errors[source] <= 1e-3:  # NaN is no count
            raise InputError(
                f"{name} reads no counts of spikes, but their means, sums or norms; train an architecture that reads "
                "counts, such as airbench94, resnet18, wrn-16-2, or with pool='max' convnet and vgg11"
            )
        synapses.append(Synapse(tuple(name.split("/")), source, sources[source], pooled))
    return tuple(synapses)


def _sources(network: Any, variables: Any, image_shape: tuple[int, int, int]) -> dict[tuple[str, ...], int]:
    """D of each layer of neurons, by the path of the `IntegerSpike` or else of the `Spike`."""
    if network.num_steps is None:
        raise InputError(f"{network.title} is an ANN; only networks of integer neurons (neuron='ilif') can be expanded")
    if (dtype := jnp.dtype(getattr(network.module, "dtype", jnp.float32))) != jnp.float32:
        advice = "build the same network with dtype='float32' for its weights"
        raise InputError(f"dtype={dtype.name!r} rounds the sum of sub-steps unlike the sum of spikes; {advice}")
    found: dict[tuple[str, ...], int] = {}
    neurons = set()
    for call in trace_calls(network, variables, image_shape):
        module = call.module
        if isinstance(module, Spike):
            neurons.add(type(module.neuron))
            found[module.path] = most_spikes(module.neuron)
        elif isinstance(module, IntegerSpike):  # it returns after the `Spike` in it
            found[module.path] = found.pop((*module.path, "spike"))
    kinds = ", ".join(sorted(kind.__name__ for kind in neurons)) or "no `Spike` layer"
    if unknown := sorted(kind.__name__ for kind in neurons - {*NEURONS.values()}):
        raise InputError(f"neurons {unknown[0]} may fire anything; only LIF, PLIF, IF and ILIF can be expanded")
    if NEURONS["ilif"] not in neurons:
        raise InputError(f"{network.title} has {kinds}; only networks of integer neurons (neuron='ilif') are expanded")
    return found


def _inputs(
    network: Any, variables: Any, image_shape: tuple[int, int, int], heights: Mapping[tuple[str, ...], float]
) -> dict[str, tuple[np.ndarray, np.ndarray, bool]]:
    """What each convolution and dense layer reads, by name, when neurons fire at random, once and once again.

    The images are the same, and the spikes of a layer of neurons have its one of `heights`. In place of a mean over the
    map it is the map, and True. Raises `InputError` for a layer that is called twice.
    """
    images = jax.random.normal(jax.random.key(0), (_BATCH, *image_shape))
    layers: list[tuple[str, bool]] = []

    @jax.jit
    def run(variables: Any, key: Array) -> list[Array]:
        with nn.intercept_methods(_firing_at_random(key, heights)):
            calls = network.capture_calls(variables, images, nn.Conv, nn.Dense, GlobalAvgPool)[1]
        maps = {id(call.output): call.inputs for call in calls if isinstance(call.module, GlobalAvgPool)}
        read = [call for call in calls if not isinstance(call.module, GlobalAvgPool)]
        layers[:] = [(call.name, id(call.inputs) in maps) for call in read]
        return [maps.get(id(call.inputs), call.inputs) for call in read]

    first, second = (jax.device_get(run(variables, jax.random.key(seed))) for seed in (1, 2))
    names = [name for name, _ in layers]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{twice[0]} is called more than once; only layers that are called once can be expanded")
    return {name: (a, b, pooled) for (name, pooled), a, b in zip(layers, first, second, strict=True)}


def _firing_at_random(key: Array, heights: Mapping[tuple[str, ...], float]) -> Any:
    """An interceptor that replaces spikes by random ones: half of them 0, the others 1 to D."""

    def interceptor(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        output, module = call(*args, **kwargs), context.module
        if not (isinstance(module, Spike) and context.method_name == "__call__"):
            return output
        path = module.path if module.path in heights else module.path[:-1]
        own = jax.random.fold_in(key, list(heights).index(path))
        counts = jax.random.randint(own, output.shape, 1, most_spikes(module.neuron) + 1)
        fires = jax.random.bernoulli(jax.random.fold_in(own, 0), shape=output.shape)
        return heights[path] * (counts * fires).astype(output.dtype)

    return interceptor


def _deviation(counts: np.ndarray, levels: int) -> float:
    """The largest distance from a whole number in 0 to `levels`."""
    return float(np.abs(counts - np.clip(np.round(counts), 0, levels)).max())
