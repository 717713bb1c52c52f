"""ANNs converted into spiking networks without training: batch norms folded, ReLU replaced by integrate-and-fire.

An architecture takes its activation and its norm as arguments, so that the converted network is the same architecture
with others. For a constant current x, a layer of integrate-and-fire neurons with soft reset, threshold theta, spikes of
height theta and initial potential v_init theta has the output, averaged over T steps,

    theta / T clip(floor(T x / theta + v_init), 0, T)

a ReLU, clipped at theta and quantised. Spikes of height theta are spikes of height 1 with theta folded into the weights
that follow. The maximum of such averages is not the average of the maxima at each step, so that max pooling is replaced
as well, by `ConvertedMaxPool`.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array

from snnkd_jax.dynamics.neurons import IF
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.models.activation import QCFS, ReLU, Spike
from snnkd_jax.models.folding import Path
from snnkd_jax.models.layers import MaxPool, max_pool
from snnkd_jax.models.network import Network, Variables
from snnkd_jax.models.partial import HashablePartial
from snnkd_jax.models.recorder import trace_calls
from snnkd_jax.models.stages import is_collected

MAX_THRESHOLD = 1000.0
"""Of a learned threshold, which starts at 8: behind batch norms, activations are of order 1 (a guess)."""


@dataclasses.dataclass(frozen=True)
class ConvertedIF(IF):
    """`IF` with the initial potential `v_init`."""

    v_init: float = 0.0

    def init(self, shape: tuple[int, ...]) -> Array:
        """`v_init` for each neuron."""
        return jnp.full(shape, self.v_init, float)


class ConvertedSpike(nn.Module):
    """Integrate-and-fire neurons with soft reset: currents to spikes of height theta, the layer's threshold."""

    num_steps: int
    v_init: float

    @nn.compact
    def __call__(self, current: Array) -> Array:
        """`[B, T, ...]`, or `[B, 1, ...]` if constant, to `[B, num_steps, ...]`."""
        theta = self.param("threshold", nn.initializers.ones, (), jnp.float32)
        neuron = ConvertedIF(v_reset=None, v_init=self.v_init) if self.v_init else IF(v_reset=None)
        return theta * Spike(neuron, self.num_steps, name="spike")(current / theta)


class ConvertedMaxPool(nn.Module):
    """Cumulative max pooling, which replaces `MaxPool`, whose fields it has.

        y[1] + ... + y[t] = max over a window of x[1] + ... + x[t]

    With `spikes`, x is 0 or the height of the layer's spikes, and so is y: a spike where the largest count of a window
    rises. After Rueckauer et al. 2017, who pass on the spikes of the neuron that has fired most.
    """

    spikes: bool
    window: int = 2
    stride: int = 2
    padding: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, T, H, W, C]` to `[B, T, h, w, C]`; "state" and "initial_state" receive the sums, as in `Spike`."""
        pool = functools.partial(max_pool, window=self.window, stride=self.stride, padding=self.padding)
        sums = jnp.cumsum(x > 0 if self.spikes else x, axis=1, dtype=jnp.float32)
        before = jnp.zeros_like(sums[:, 0])
        if is_collected(self, "initial_state"):
            self.put_variable("initial_state", "sums", before)
        before = self.get_variable("state", "sums", before)
        sums = before[:, None] + sums
        if is_collected(self, "state"):
            self.put_variable("state", "sums", sums[:, -1])
        peaks = pool(jnp.concatenate([before[:, None], sums], axis=1))
        rise = peaks[:, 1:] - peaks[:, :-1]
        return jnp.where(rise > 0, pool(x), 0) if self.spikes else rise.astype(x.dtype)


def relu_outputs(network: Network, variables: Variables, images: Array) -> dict[str, Array]:
    """The outputs of an ANN's ReLU layers by path, such as "block1_1/act1", `[B, ...]` each."""
    return {call.name: call.output for call in network.capture_calls(variables, images, ReLU)[1]}


def diverged_thresholds(network: Network, variables: Variables) -> dict[str, float]:
    """The learned thresholds theta of a network with `QCFS` that make it no ReLU, by path: none in a sound network.

    With theta <= 0 a layer is no clipped ReLU, and with a very large one all its outputs are rounded to 0.
    """
    found = {} if quantisation_levels(network) is None else learned_thresholds(variables)
    return {name: theta for name, theta in found.items() if not 0 < theta <= MAX_THRESHOLD}


def check_thresholds(network: Network, variables: Variables) -> None:
    """Raises `InputError` if `diverged_thresholds` finds any."""
    for name, theta in diverged_thresholds(network, variables).items():
        raise InputError(
            f"the learned threshold of {name} is {theta:g}, outside of (0, {MAX_THRESHOLD:g}]: the training with "
            "quantised activations diverged; train it again with a lower learning rate"
        )


def learned_thresholds(variables: Variables) -> dict[str, float]:
    """The thresholds theta of the layers of an ANN that was trained with `QCFS`, by path."""
    flat: dict[Path, Any] = traverse_util.flatten_dict(variables["params"])
    return {"/".join(path[:-1]): float(x) for path, x in flat.items() if path[-1] == "threshold"}


def convert_to_spiking(
    network: Network,
    variables: Variables,
    image_shape: tuple[int, int, int],
    thresholds: dict[str, float],
    num_steps: int,
    v_init: float,
) -> tuple[Network, Variables]:
    """Replaces the activations of an ANN by integrate-and-fire neurons, and max pooling by the cumulative one.

    Images are `[H, W, C]`; `thresholds` has theta of each activation layer by path, in units of its output, `num_steps`
    is T of one call, and `v_init` the initial potential as a fraction of theta. Raises `InputError` for a threshold
    that is not positive, or `num_steps` below 1.
    """
    check_count("num_steps", num_steps)
    for name, theta in thresholds.items():
        if not 0 < theta < np.inf:
            raise InputError(f"the threshold of {name} is {theta}; it must be positive and finite")
    flat = traverse_util.flatten_dict(variables["params"])
    flat |= {(*name.split("/"), "threshold"): jnp.float32(theta) for name, theta in thresholds.items()}
    calls = trace_calls(network, variables, image_shape)
    spikes = {id(call.output) for call in calls if isinstance(call.module, ReLU | QCFS)}
    pooled = all(id(call.inputs) in spikes for call in calls if isinstance(call.module, MaxPool))
    pool = HashablePartial(ConvertedMaxPool, spikes=pooled)
    pools: dict[str, Any] = {n: pool for n in ("pool", "max_pool") if getattr(network.module, n, None) is MaxPool}
    activation = HashablePartial(ConvertedSpike, num_steps=num_steps, v_init=v_init)
    module = network.module.clone(activation=activation, **pools)
    converted = dataclasses.replace(network, module=module, num_steps=num_steps)
    return converted, variables | {"params": traverse_util.unflatten_dict(flat)}


def quantisation_levels(network: Network) -> int | None:
    """L of an ANN with `QCFS`, None of one with ReLU."""
    activation = getattr(network.module, "activation", None)
    return activation.args[0] if getattr(activation, "func", None) is QCFS else None  # pyright: ignore
