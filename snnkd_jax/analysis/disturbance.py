"""Hardware noise of neuromorphic chips: spike deletion and insertion, threshold mismatch, weight noise.

| kind                 | disturbance, n ~ N(0, 1)                                                | drawn per           |
| -------------------- | ----------------------------------------------------------------------- | ------------------- |
| `spike_deletion`     | a spike is lost with probability p                                      | neuron, step, image |
| `spike_insertion`    | a silent neuron emits a spike with probability p per step               | neuron, step, image |
| `threshold_mismatch` | the distance from reset to threshold is multiplied by f = 1 + sigma n   | neuron              |
| `weight_noise`       | a weight of a convolution or dense layer is multiplied by 1 + sigma n   | weight              |

Spikes are deleted and inserted between a layer and the next ones: the neuron that fired is still reset, an inserted
spike resets nothing, and the firing rates that a network returns are those before the disturbance. An integer neuron
loses each of its s spikes, and emits one in each of the D - s silent sub-steps, with probability p.

Threshold mismatch. With u = v - v_rest, theta = v_threshold - v_rest, the equations of `snnkd_jax.dynamics.neurons` are

    u_h[t] = u[t-1] + (x[t] - u[t-1]) / tau      charge, decay_input=True; without it ... - u[t-1] / tau + x[t]
    s[t]   = 1[u_h[t] >= f theta]                fire; ILIF: clip(round(u_h[t] / (f theta)), 0, D)
    u[t]   = (1 - s[t]) u_h[t]                   hard reset, to v_rest = v_reset
    u[t]   = u_h[t] - s[t] f theta               soft reset, v_rest = 0

They are homogeneous in (u, x, theta), so u / f obeys them with the input x / f and the nominal threshold, from the same
initial u = 0: a neuron with f times the threshold is a nominal one whose input current is divided by f. This is exact
up to rounding for every tau, constant or learnable. Neurons with other equations or another initial potential (networks
converted by QCFS) are refused. f is at least `LEAST_FACTOR`: a neuron with its threshold at or below the reset would
fire without input.

The draws depend only on the key, the layer's name and, for deleted and inserted spikes, the image's index in the test
set. Two networks of one architecture get the same draws.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array
from jax.typing import ArrayLike

from snnkd_jax.data.corruptions import check_per_image, named_key
from snnkd_jax.dynamics.neurons import IF, ILIF, LIF, PLIF, most_spikes
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.network import Features, Network, Variables

LAYER_LEVELS: dict[str, tuple[float, ...]] = {
    "spike_deletion": (0.05, 0.1, 0.2, 0.3, 0.5),
    "spike_insertion": (0.005, 0.01, 0.02, 0.05, 0.1),
    "threshold_mismatch": (0.1, 0.2, 0.3, 0.4, 0.5),
    "weight_noise": (0.05, 0.1, 0.15, 0.2, 0.3),
}
"""Strengths p or sigma of levels 1 to 5 by kind."""

NEURON_KINDS = ("spike_deletion", "spike_insertion", "threshold_mismatch")
SCALED_NEURONS = (LIF, PLIF, IF, ILIF)
"""Neurons for which `threshold_mismatch` is defined; their subclasses may have other equations."""

LEAST_FACTOR = 0.1


def apply_disturbed(
    network: Network, variables: Variables, images: Array, kind: str, strength: ArrayLike, key: Array, index: Array
) -> tuple[Array, Features]:
    """`network.apply` under one kind of `LAYER_LEVELS`.

    `strength` is p or sigma of the table above, `[]`, and may be traced, so that one program serves all strengths;
    `index`, int32 `[B]`, are the positions of the images in the test set. Raises `InputError` for an unknown kind, one
    of `NEURON_KINDS` for an ANN, or an index of another shape.
    """
    check_choice("kind", kind, LAYER_LEVELS)
    if kind == "weight_noise":
        return network.apply(noisy_weights(variables, strength, key), images)
    if network.num_steps is None:
        raise InputError(f"kind={kind!r} disturbs spiking neurons, which an ANN does not have; use 'weight_noise'")
    with disturbed_neurons(kind, strength, key, index):
        return network.apply(variables, images)


def noisy_weights(variables: Variables, strength: ArrayLike, key: Array) -> Variables:
    """Multiplies each kernel by `1 + strength n`, n ~ N(0, 1) per weight; norms and biases stay."""
    params: dict[str, Any] = traverse_util.flatten_dict(variables["params"], sep="/")
    for name, kernel in params.items():
        if name.split("/")[-1] == "kernel":
            n = jax.random.normal(named_key(key, name), kernel.shape)
            params[name] = (kernel * (1 + strength * n)).astype(kernel.dtype)
    return variables | {"params": traverse_util.unflatten_dict(params, sep="/")}


@contextlib.contextmanager
def disturbed_neurons(kind: str, strength: ArrayLike, key: Array, index: Array) -> Iterator[None]:
    """A context that disturbs every layer of neurons applied or traced in it; arguments as for `apply_disturbed`.

    Raises `InputError` for other kinds than `NEURON_KINDS`, numbers of images, or neurons.
    """
    check_choice("kind", kind, NEURON_KINDS)

    def interceptor(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        if not (isinstance(context.module, Spike) and context.method_name == "__call__"):
            return call(*args, **kwargs)
        layer_key = named_key(key, "/".join(context.module.path))
        (current,) = args
        if kind == "threshold_mismatch":
            if (neuron := type(context.module.neuron)) not in SCALED_NEURONS:
                known = "LIF, PLIF, IF and ILIF"
                raise InputError(f"kind={kind!r} is for {known}, not for {neuron.__name__}; choose another")
            factor = threshold_factors(layer_key, strength, current.shape[2:])
            return call((current / factor).astype(current.dtype))
        spikes = call(current)
        check_per_image("index", index, spikes.shape[0])
        # The sub-steps of integer neurons; spikes of others, of whatever height, are left as they are.
        d = jnp.arange(most_spikes(context.module.neuron))
        substeps = spikes[..., None] if len(d) == 1 else (spikes[..., None] > d).astype(spikes.dtype)
        uniform = functools.partial(jax.random.uniform, shape=substeps.shape[1:])
        hit = jax.vmap(lambda i: uniform(jax.random.fold_in(layer_key, i)))(index)
        return jnp.where(hit < strength, 0 if kind == "spike_deletion" else 1, substeps).sum(axis=-1)

    with nn.intercept_methods(interceptor):
        yield


def threshold_factors(key: Array, strength: ArrayLike, shape: tuple[int, ...]) -> Array:
    """f of each neuron of a layer: `max(1 + strength n, LEAST_FACTOR)`, n ~ N(0, 1); float32 of that shape."""
    return jnp.maximum(1 + strength * jax.random.normal(key, shape), LEAST_FACTOR)
