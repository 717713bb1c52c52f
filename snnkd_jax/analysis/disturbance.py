"""What neuromorphic hardware does to a network: lost and spurious spikes, thresholds and weights that are not nominal.

| kind                 | disturbance, n ~ N(0, 1)                                              | drawn for each      |
| -------------------- | --------------------------------------------------------------------- | ------------------- |
| `spike_deletion`     | a spike is lost with probability p                                    | neuron, step, image |
| `spike_insertion`    | a silent neuron fires in a step with probability p                    | neuron, step, image |
| `threshold_mismatch` | the way from reset to threshold is f = 1 + sigma n times the nominal  | neuron              |
| `weight_noise`       | a weight of a convolution or dense layer is multiplied by 1 + sigma n | weight              |

Spikes are lost and inserted on their way to the next layers: the neuron that fired resets all the same, one whose spike
is spurious does not, and the firing rates that a network returns are of the spikes that its neurons fired.

Thresholds. With u = v - v_rest, theta = v_threshold - v_rest, the equations of `snnkd_jax.dynamics.neurons` are

    u_h[t] = u[t-1] + (x[t] - u[t-1]) / tau      charge, decay_input=True; without it ... - u[t-1] / tau + x[t]
    s[t]   = 1[u_h[t] >= f theta]                fire
    u[t]   = (1 - s[t]) u_h[t]                   hard reset, to v_rest = v_reset
    u[t]   = u_h[t] - s[t] f theta               soft reset, v_rest = 0

They are linear in u, x and theta together, so u / f obeys them with the input x / f and the nominal threshold, from the
same start u = 0: a neuron whose threshold is f times as far away is a nominal one whose current is divided by f. That
holds for every tau, constant or learnt. It is exact but for rounding, and needs no change of the neuron. Neurons with
other equations, or that start from elsewhere (networks converted by QCFS), are refused.
f is at least `LEAST_FACTOR`: a threshold at or below the reset would fire without input.

The draws are functions of the key, the layer's name and, for lost and inserted spikes, the image's index in the test
set: of neither the batch nor the devices. Two networks of one architecture get the same.
"""

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array
from jax.typing import ArrayLike

from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.dynamics.neurons import IF, LIF, PLIF
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.models.activation import Spike
from snnkd_jax.models.network import Features, Network, Variables

NEURON_KINDS = ("spike_deletion", "spike_insertion", "threshold_mismatch")
DISTURBANCES = (*NEURON_KINDS, "weight_noise")

LEAST_FACTOR = 0.1


def apply_disturbed(
    network: Network, variables: Variables, images: Array, kind: str, strength: ArrayLike, key: Array, index: Array
) -> tuple[Array, Features]:
    """`network.apply` under one of `DISTURBANCES` between the layers.

    `strength` is p or sigma of the table above, `[]`, and may be traced, so that one program serves all strengths;
    `index` are the images' places in the test set, int32 `[B]`. Raises `InputError` for an unknown kind, one of
    `NEURON_KINDS` for an ordinary network, or an index of another shape.
    """
    check_choice("kind", kind, DISTURBANCES)
    if kind == "weight_noise":
        return network.apply(noisy_weights(variables, strength, key), images)
    if network.num_steps is None:
        raise InputError(f"kind={kind!r} disturbs spiking neurons; an ordinary network has none: use 'weight_noise'")
    with disturbed_neurons(kind, strength, key, index):
        return network.apply(variables, images)


def noisy_weights(variables: Variables, strength: ArrayLike, key: Array) -> Variables:
    """The variables with each kernel times `1 + strength n`, n ~ N(0, 1) for each weight; norms and biases stay."""
    params: dict[str, Any] = traverse_util.flatten_dict(variables["params"], sep="/")
    for name, kernel in params.items():
        if name.split("/")[-1] == "kernel":
            n = jax.random.normal(_named(key, name), kernel.shape)
            params[name] = (kernel * (1 + strength * n)).astype(kernel.dtype)
    return variables | {"params": traverse_util.unflatten_dict(params, sep="/")}


@contextlib.contextmanager
def disturbed_neurons(kind: str, strength: ArrayLike, key: Array, index: Array) -> Iterator[None]:
    """Within it, every layer of neurons that is applied or traced is disturbed; arguments as `apply_disturbed`.

    Raises `InputError` for a kind that is not one of `NEURON_KINDS`; from a layer, if it has another number of images,
    or neurons for which the kind is not defined.
    """
    check_choice("kind", kind, NEURON_KINDS)

    def interceptor(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        if not (isinstance(context.module, Spike) and context.method_name == "__call__"):
            return call(*args, **kwargs)
        layer_key = _named(key, "/".join(context.module.path))
        (current,) = args
        if kind == "threshold_mismatch":
            check_scales(context.module.neuron)
            factor = threshold_factors(layer_key, strength, current.shape[2:])
            return call((current / factor).astype(current.dtype))
        spikes = call(current)
        if index.shape != spikes.shape[:1]:
            raise InputError(f"index has shape {index.shape}; {spikes.shape[0]} images need ({spikes.shape[0]},)")
        hit = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(layer_key, i), spikes.shape[1:]))(index)
        return jnp.where(hit < strength, 0 if kind == "spike_deletion" else 1, spikes)

    with nn.intercept_methods(interceptor):
        yield


def check_scales(neuron: Neuron) -> None:
    """Raises `InputError` unless `threshold_mismatch` is defined: for `LIF`, `PLIF` and `IF` as they are."""
    if type(neuron) not in (LIF, PLIF, IF):
        found = type(neuron).__name__
        raise InputError(f"kind='threshold_mismatch' is defined for LIF, PLIF and IF, not for {found}; choose another")


def threshold_factors(key: Array, strength: ArrayLike, shape: tuple[int, ...]) -> Array:
    """f of a layer of neurons `[...]`: `1 + strength n`, at least `LEAST_FACTOR`; float32 of that shape."""
    return jnp.maximum(1 + strength * jax.random.normal(key, shape), LEAST_FACTOR)


def _named(key: Array, name: str) -> Array:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))
