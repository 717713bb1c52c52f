"""An ordinary network made spiking without training: batch norm folded away, integrate-and-fire in place of ReLU.

Every body takes its activation and its norm from outside, so the converted network is the same body with other ones.
A layer of integrate-and-fire neurons with soft reset whose threshold and whose spikes have the height theta answers a
current x, from the potential v_init theta on, with a mean over T steps of

    theta / T clip(floor(T x / theta + v_init), 0, T)

if the current is constant: a ReLU, clipped at theta and quantised. Spikes of the height theta are spikes of the height
1 with theta folded into the weights behind them. The maximum of such means is not the mean of the maxima of each step,
so max pooling is replaced as well, by `ConvertedMaxPool`.
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
from snnkd_jax.models.recorder import calls
from snnkd_jax.models.stages import records


@dataclasses.dataclass(frozen=True)
class ConvertedIF(IF):
    """`IF` that starts from the potential `v_init`."""

    v_init: float = 0.0

    def init(self, shape: tuple[int, ...]) -> Array:
        """`v_init` for each neuron."""
        return jnp.full(shape, self.v_init, float)


class ConvertedSpike(nn.Module):
    """Integrate-and-fire neurons with soft reset: currents to spikes of the height theta, the layer's threshold."""

    num_steps: int
    v_init: float

    @nn.compact
    def __call__(self, current: Array) -> Array:
        """`[B, T, ...]`, or `[B, 1, ...]` if constant, to `[B, num_steps, ...]`."""
        theta = self.param("threshold", nn.initializers.ones, (), jnp.float32)
        neuron = ConvertedIF(v_reset=None, v_init=self.v_init) if self.v_init else IF(v_reset=None)
        return theta * Spike(neuron, self.num_steps, name="spike")(current / theta)


class ConvertedMaxPool(nn.Module):
    """The maxima of what came so far, in the place of `MaxPool`, whose fields it has.

        y[1] + ... + y[t] = max over a window of x[1] + ... + x[t]

    With `spikes`, x is 0 or the height of the layer's spikes, and so is y: a spike where the largest count of a window
    rises. After Rueckauer et al. 2017, who let through the spikes of the neuron that has fired most.
    """

    spikes: bool
    window: int = 2
    stride: int = 2
    padding: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, T, H, W, C]` to `[B, T, h, w, C]`; "state" and "initial_state" take up the sums, as in `Spike`."""
        pool = functools.partial(max_pool, window=self.window, stride=self.stride, padding=self.padding)
        sums = jnp.cumsum(x > 0 if self.spikes else x, axis=1, dtype=jnp.float32)
        before = jnp.zeros_like(sums[:, 0])
        if records(self, "initial_state"):
            self.put_variable("initial_state", "sums", before)
        before = self.get_variable("state", "sums", before)
        sums = before[:, None] + sums
        if records(self, "state"):
            self.put_variable("state", "sums", sums[:, -1])
        peaks = pool(jnp.concatenate([before[:, None], sums], axis=1))
        rise = peaks[:, 1:] - peaks[:, :-1]
        return jnp.where(rise > 0, pool(x), 0) if self.spikes else rise.astype(x.dtype)


def activations(network: Network, variables: Variables, images: Array) -> dict[str, Array]:
    """The outputs of an ordinary network's ReLU layers by their path ("block1_1/act1"), `[B, ...]` each."""
    _, found = network.recorded(variables, images, ReLU)
    return {call.name: call.output for call in found}


def learned_thresholds(variables: Variables) -> dict[str, float]:
    """theta of each layer of a network that was trained with `QCFS`."""
    flat: dict[Path, Any] = traverse_util.flatten_dict(variables["params"])
    return {"/".join(path[:-1]): float(x) for path, x in flat.items() if path[-1] == "threshold"}


def spiking(
    network: Network,
    variables: Variables,
    image_shape: tuple[int, int, int],
    thresholds: dict[str, float],
    num_steps: int,
    v_init: float,
) -> tuple[Network, Variables]:
    """An ordinary network, for images `[H, W, C]`, with integrate-and-fire neurons and maxima over the steps so far.

    Args:
        thresholds: theta of each activation layer by its path, in units of its output.
        num_steps: T of one call.
        v_init: the first potential, as a share of theta.

    Raises:
        InputError: for a threshold that is not positive, or a num_steps below 1.
    """
    check_count("num_steps", num_steps)
    for name, theta in thresholds.items():
        if not 0 < theta < np.inf:
            raise InputError(f"the threshold of {name} is {theta}, not positive; raise the percentile, or train longer")
    flat = traverse_util.flatten_dict(variables["params"])
    flat |= {(*name.split("/"), "threshold"): jnp.float32(theta) for name, theta in thresholds.items()}
    seen = calls(network, variables, image_shape)
    fired = {id(call.output) for call in seen if isinstance(call.module, ReLU | QCFS)}
    pool = functools.partial(
        ConvertedMaxPool, spikes=all(id(call.inputs) in fired for call in seen if isinstance(call.module, MaxPool))
    )
    pools: dict[str, Any] = {n: pool for n in ("pool", "max_pool") if getattr(network.body, n, None) is MaxPool}
    activation = functools.partial(ConvertedSpike, num_steps=num_steps, v_init=v_init)
    body = network.body.clone(activation=activation, **pools)
    converted = dataclasses.replace(network, body=body, num_steps=num_steps)
    return converted, variables | {"params": traverse_util.unflatten_dict(flat)}


def is_quantised(network: Network) -> bool:
    """Whether an ordinary network has `QCFS` in the place of ReLU."""
    return getattr(getattr(network.body, "activation", None), "func", None) is QCFS


def levels_of(network: Network) -> int:
    """L of an ANN with `QCFS`."""
    return network.body.activation.args[0]  # pyright: ignore[reportAttributeAccessIssue]
