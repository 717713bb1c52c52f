"""A network as pure functions of its variables: what the rest of the library sees of Flax.

`variables` is `{"params": ..., "batch_stats": ...}`. Applying a network returns `(logits, features)`:

| value                         | ANN            | spiking network                                      |
| ----------------------------- | -------------- | ---------------------------------------------------- |
| `logits`, float32             | `[B, K]`       | `[B, T, K]`, one read-out per step                   |
| `features["stages"]`          | `[B, H, W, C]` | `[B, T, H, W, C]`, stage outputs                     |
| `features["pre_activations"]` | `[B, H, W, C]` | `[B, T or 1, H, W, C]`, stages before the activation |
| `features["firing_rates"]`    | empty          | layer name to `[B]`, spikes per neuron and step      |

In training by rate-based backpropagation, stages and pre-activations are means over time, `[B, 1, H, W, C]`.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from snnkd_jax.errors import InputError, check_count
from snnkd_jax.models.rate import with_mean_of
from snnkd_jax.models.recorder import Call, recorded
from snnkd_jax.models.stages import Features

Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """A body with its activation; `num_steps` is T of a spiking network and None for an ordinary one.

    `rate_body`, the same with the layers of `snnkd_jax.models.rate`, makes training differentiate rates.
    """

    body: nn.Module
    num_steps: int | None
    rate_body: nn.Module | None = None

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh variables for images `[H, W, C]`."""
        images = self._with_time(jnp.zeros((1, *image_shape)))
        variables = jax.jit(functools.partial(self.body.init, train=False))(key, images)
        return {name: variables.get(name, {}) for name in ("params", "batch_stats")}

    def with_steps(self, num_steps: int) -> "Network":
        """The same spiking network with another T; its variables are the same."""
        if self.num_steps is None:
            raise InputError("an ordinary network has no time steps")
        check_count("num_steps", num_steps)
        activation: Any = functools.partial(self.body.activation, num_steps=num_steps)  # pyright: ignore[reportAttributeAccessIssue]
        return dataclasses.replace(self, body=self.body.clone(activation=activation), num_steps=num_steps)

    def through_time(self) -> "Network":
        """The same network, differentiated through time."""
        return dataclasses.replace(self, rate_body=None)

    def apply(self, variables: Variables, images: Array) -> tuple[Array, Features]:
        """Evaluation: batch norm by its running statistics.

        Args:
            variables: as from `init`.
            images: static `[B, H, W, C]`, or for a spiking network also one frame a step, `[B, T, H, W, C]`.

        Returns:
            `(logits, features)` as in the table above.
        """
        outputs, _ = self._run(variables, images, train=False)
        return outputs

    def apply_from(
        self, variables: Variables, images: Array, state: Variables | None
    ) -> tuple[tuple[Array, Features], Variables]:
        """`apply` as the continuation of an earlier call: a spiking network's steps in pieces.

        Args:
            variables, images: as in `apply`; the images make `num_steps` further steps.
            state: what the call before returned; None starts anew.

        Returns:
            `((logits, features), state)`, the neurons' states after the last step, `[B, ...]` for each layer.
        """
        if state is not None:
            variables = variables | {"state": state}
        outputs, updates = self._run(variables, images, train=False, mutable=("state",))
        return outputs, updates["state"]

    def initial_state(self, variables: Variables, images: Array) -> Variables:
        """The state before a spiking network's first step, in the form in which `apply_from` takes it.

        Args:
            variables, images: as in `apply`; only their shapes matter.
        """
        name = "initial_state"
        return jax.jit(lambda *inputs: self._run(*inputs, train=False, mutable=(name,))[1][name])(variables, images)

    def recorded(self, variables: Variables, images: Array, *kinds: type[nn.Module]) -> tuple[Array, list[Call]]:
        """The logits in evaluation, and the calls of all modules of these kinds; arguments as in `apply`."""
        apply = functools.partial(self.body.apply, variables, self._with_time(images), train=False)
        (logits, _), found, _ = recorded(apply, lambda module: isinstance(module, kinds))
        return logits, found

    def apply_train(self, variables: Variables, images: Array) -> tuple[tuple[Array, Features], Variables]:
        """Training: batch norm by the statistics of the batch; returns `((logits, features), new batch_stats)`."""
        if self.rate_body is not None:
            return self._run_rates(self.rate_body, variables, images)
        outputs, updates = self._run(variables, images, train=True, mutable=("batch_stats",))
        return outputs, updates["batch_stats"]

    def _run_rates(
        self, rate_body: nn.Module, variables: Variables, images: Array
    ) -> tuple[tuple[Array, Features], Variables]:
        (logits, features), updates = self._run(
            *jax.lax.stop_gradient((variables, images)), train=True, mutable=("batch_stats", "rates")
        )
        means = self._with_time(images).mean(axis=1, keepdims=True)
        variables = {"params": variables["params"], "rates": jax.lax.stop_gradient(updates["rates"])}
        outputs: Any = rate_body.apply(variables, means, train=True)
        mean_logits, stages = outputs
        features |= stages
        return (with_mean_of(logits, mean_logits.astype(jnp.float32)), features), updates["batch_stats"]

    def _run(
        self, variables: Variables, images: Array, train: bool, mutable: tuple[str, ...] = ()
    ) -> tuple[tuple[Array, Features], Any]:
        (logits, stages), updates = self.body.apply(
            variables, self._with_time(images), train=train, mutable=["firing_rates", *mutable]
        )
        rates = traverse_util.flatten_dict(updates.get("firing_rates", {}), sep="/")
        features = {
            **stages,
            "firing_rates": {name.removesuffix("/rate"): rate for name, rate in rates.items()},
        }
        return (logits.astype(jnp.float32), features), updates

    def _with_time(self, images: Array) -> Array:
        if images.ndim == 4:
            return images if self.num_steps is None else images[:, None]
        if images.ndim == 5 and self.num_steps is not None:
            return images
        expected = "[B, H, W, C]" if self.num_steps is None else "[B, H, W, C] or [B, T, H, W, C]"
        raise InputError(f"images have shape {images.shape}; this network takes {expected}")


def with_weights_of(other: Variables, variables: Variables) -> Variables:
    """A network's variables with the values that another one, of the same architecture and width, has for them.

    Scalars stay: they are the neurons' own (a learnable tau, the threshold of a quantised activation). Values are
    copied, so that neither's buffers are the other's.

    Raises `InputError` if an array is missing on one side, or has another shape there.
    """
    flat: list[dict[str, Any]] = [traverse_util.flatten_dict(tree, sep="/") for tree in (variables, other)]
    mine, theirs = flat
    shapes, found = ({path: x.shape for path, x in part.items() if x.shape} for part in flat)
    for path in sorted(shapes.keys() | found.keys()):
        if shapes.get(path) != found.get(path):
            sizes = [part.get(path, "missing") for part in (shapes, found)]
            raise InputError(f"{path} is {sizes[0]} in one network and {sizes[1]} in the other")
    return traverse_util.unflatten_dict({p: jnp.copy(theirs[p]) if x.shape else x for p, x in mine.items()}, sep="/")
