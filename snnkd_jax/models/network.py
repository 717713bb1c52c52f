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
import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax import Array

from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.models.rate import with_mean_of
from snnkd_jax.models.recorder import Call, recorded
from snnkd_jax.models.stages import Features, checked

Variables = dict[str, Any]

_RECORDED = ("intermediates", "calls", "firing_rates", "state", "initial_state", "rates")
"""Collections that hold what a call recorded, and nothing that is kept."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Those of `build` that matter to a trained network; see there."""

    name: str
    neuron: Neuron | None
    width: float
    tdbn: bool
    pool: str
    levels: int | None
    dtype: str


@dataclasses.dataclass(frozen=True)
class Network:
    """A Flax Linen module as a network: of this library, by `build`, or your own, by `Network(module, num_steps)`.

    The module's call `(images, train)` returns logits, or logits and a dictionary of features: `"stages"` and
    `"pre_activations"`, each a dictionary of maps, or such maps side by side, which are taken for stages. `num_steps`
    None makes an ANN: images `[B, H, W, C]`, logits `[B, K]`. A number T makes a spiking network: images
    `[B, T, H, W, C]` (a static image is repeated), logits `[B, T, K]`.

    `rate_body`, with the layers of `snnkd_jax.models.rate`, makes training differentiate rates. `arguments` are those
    of `build`.

    Raises `InputError` for what is no Linen module, or one whose call does not take `train`.
    """

    body: nn.Module
    num_steps: int | None = None
    rate_body: nn.Module | None = None
    arguments: Arguments | None = None

    def __post_init__(self):
        if not isinstance(self.body, nn.Module):
            raise InputError(f"{self.body!r} is no Flax Linen module (flax.linen.Module); give an instance of one")
        if self.num_steps is not None:
            check_count("num_steps", self.num_steps)
        call = inspect.signature(type(self.body).__call__).parameters
        if "train" not in call:
            raise InputError(f"{self.model}.__call__ takes ({', '.join(list(call)[1:])}); it must take (images, train)")

    @property
    def expands(self) -> bool:
        """Whether the module takes a static image as one step, of which its activation is told to make T."""
        return "num_steps" in getattr(getattr(self.body, "activation", None), "keywords", ())

    @property
    def model(self) -> str:
        """The name of the architecture, or of the module's class."""
        return type(self.body).__name__ if self.arguments is None else self.arguments.name

    @property
    def width(self) -> float | None:
        """Multiplier of the architecture's channels; None of a module of your own."""
        return None if self.arguments is None else self.arguments.width

    @property
    def title(self) -> str:
        """Name and width in words."""
        return self.model if self.width is None else f"{self.model}, width {self.width:g}"

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> Variables:
        """Fresh variables for images `[H, W, C]`."""
        images = self._with_time(jnp.zeros((1, *image_shape)))
        variables = jax.jit(functools.partial(self.body.init, train=False))(key, images)
        if others := variables.keys() - {"params", "batch_stats", *_RECORDED}:
            names = ", ".join(sorted(others))
            raise InputError(f"{self.title} has variables in {names}; only params and batch_stats are trained and kept")
        return {name: variables.get(name, {}) for name in ("params", "batch_stats")}

    def streams(self, variables: Variables, image_shape: tuple[int, int, int]) -> bool:
        """Whether a spiking network gives the same step by step as in all steps at once, tried on random images."""
        if self.expands:
            return True
        key, steps = jax.random.key(0), self.num_steps or 1
        images = 2 * jax.random.normal(key, (1, max(steps, 2), *image_shape))
        try:
            whole, _ = self.with_steps(images.shape[1]).apply(variables, images)
            one, parts, potentials = self.with_steps(1), [], None
            for t in range(images.shape[1]):
                (logits, _), potentials = one.apply_from(variables, images[:, t : t + 1], potentials)
                parts.append(logits)
        except Exception:  # Flax has its own errors for parameters that depend on the number of steps
            return False
        return bool(jnp.allclose(jnp.concatenate(parts, axis=1), whole, rtol=1e-3, atol=1e-3))

    def with_steps(self, num_steps: int) -> "Network":
        """The same spiking network with another T; its variables are the same."""
        if self.num_steps is None:
            raise InputError("an ANN has no time steps")
        check_count("num_steps", num_steps)
        if not self.expands:
            return dataclasses.replace(self, num_steps=num_steps)
        activation: Any = functools.partial(self.body.activation, num_steps=num_steps)  # pyright: ignore[reportAttributeAccessIssue]
        return dataclasses.replace(self, body=self.body.clone(activation=activation), num_steps=num_steps)

    def through_time(self) -> "Network":
        """The same network, differentiated through time."""
        return dataclasses.replace(self, rate_body=None)

    def apply(self, variables: Variables, images: Array) -> tuple[Array, Features]:
        """Evaluation, batch norm by its running statistics: `(logits, features)` as in the table above.

        Args:
            variables: as from `init`.
            images: static `[B, H, W, C]`, or for a spiking network also one frame a step, `[B, T, H, W, C]`.
        """
        outputs, _ = self._run(variables, images, train=False)
        return outputs

    def apply_from(
        self, variables: Variables, images: Array, state: Variables | None
    ) -> tuple[tuple[Array, Features], Variables]:
        """`apply` for `num_steps` further steps of a spiking network, and its neurons' states after them, `[B, ...]`.

        `state` is what the call before returned; None starts anew.
        """
        variables = variables if state is None else variables | {"state": state}
        outputs, updates = self._run(variables, images, train=False, mutable=("state",))
        return outputs, updates.get("state", {})

    def initial_state(self, variables: Variables, images: Array) -> Variables:
        """The state before a spiking network's first step, as `apply_from` takes it; of images the shape matters."""
        name = "initial_state"
        return jax.jit(lambda *inputs: self._run(*inputs, train=False, mutable=(name,))[1][name])(variables, images)

    def recorded(self, variables: Variables, images: Array, *kinds: type[nn.Module]) -> tuple[Array, list[Call]]:
        """The logits in evaluation, and the calls of all modules of these kinds; arguments as in `apply`."""
        apply = functools.partial(self._run, variables, images, train=False)
        (logits, _), found, _ = recorded(apply, lambda module: isinstance(module, kinds))
        return logits, found

    def apply_train(
        self, variables: Variables, images: Array, dropout: Array | None = None
    ) -> tuple[tuple[Array, Features], Variables]:
        """Training, batch norm by the statistics of the batch: `((logits, features), new batch_stats)`.

        `dropout` is the key of modules with dropout; this library's have none.
        """
        if self.rate_body is None:
            rngs = None if dropout is None else {"dropout": dropout}
            outputs, updates = self._run(variables, images, train=True, mutable=("batch_stats",), rngs=rngs)
            return outputs, updates.get("batch_stats", {})
        (logits, features), updates = self._run(
            *jax.lax.stop_gradient((variables, images)), train=True, mutable=("batch_stats", "rates")
        )
        means = self._with_time(images).mean(axis=1, keepdims=True)
        variables = {"params": variables["params"], "rates": jax.lax.stop_gradient(updates["rates"])}
        outputs: Any = self.rate_body.apply(variables, means, train=True)
        logits = with_mean_of(logits, outputs[0].astype(jnp.float32))
        return (logits, features | outputs[1]), updates["batch_stats"]

    def _run(
        self, variables: Variables, images: Array, train: bool, mutable: tuple[str, ...] = (), rngs: Any = None
    ) -> tuple[tuple[Array, Features], Any]:
        images = self._with_time(images)
        mutable = ("firing_rates", *mutable)
        outputs, updates = self.body.apply(variables, images, train=train, mutable=list(mutable), rngs=rngs)
        logits, stages = outputs if self.expands else self._checked(outputs, images.shape)
        rates: dict[str, Any] = traverse_util.flatten_dict(updates.get("firing_rates", {}), sep="/")
        firing_rates = {name.removesuffix("/rate"): rate for name, rate in rates.items()}
        return (logits.astype(jnp.float32), {**stages, "firing_rates": firing_rates}), updates

    def _with_time(self, images: Array) -> Array:
        if images.ndim == (4 if self.num_steps is None else 5):
            return images
        if images.ndim == 4:
            steps = 1 if self.expands else self.num_steps
            return jnp.broadcast_to(images[:, None], (images.shape[0], steps, *images.shape[1:]))
        expected = "[B, H, W, C]" if self.num_steps is None else "[B, H, W, C] or [B, T, H, W, C]"
        raise InputError(f"images have shape {images.shape}; this network takes {expected}")

    def _checked(self, outputs: Any, shape: tuple[int, ...]) -> tuple[Array, Features]:
        """`checked`, with maps side by side taken for stages."""
        if isinstance(outputs, tuple) and len(outputs) == 2 and isinstance(outputs[1], dict):
            features = outputs[1]
            if features and not any(isinstance(x, dict) for x in features.values()):
                outputs = outputs[0], {"stages": features}
            elif unknown := ", ".join(sorted(features.keys() - {"stages", "pre_activations"})):
                raise InputError(f"{self.title}: its features {unknown} should be in 'stages' or 'pre_activations'")
        axes, hint = shape[:2], ""
        if self.num_steps is None:
            axes, hint = shape[:1], "; a spiking network needs Network(module, num_steps=T)"
        logits, stages = checked(self.title, outputs, axes, hint)
        if not jnp.issubdtype(logits.dtype, jnp.floating):
            raise InputError(f"{self.title}: its logits are {logits.dtype}; make them floats")
        return logits, stages


def mean_over_time(outputs: tuple[Array, Features]) -> tuple[Array, Features]:
    """Logits and features of a spiking network, `[B, T, ...]`, averaged over its steps: `[B, ...]`."""
    return jax.tree.map(lambda x: x.mean(axis=1), outputs)


def with_weights_of(other: Variables, variables: Variables) -> Variables:
    """A network's variables with copies of the values that another one, of the same architecture and width, has.

    Scalars stay: they are the neurons' own (a learnable tau, the threshold of a quantised activation). Raises
    `InputError` if an array is missing on one side, or has another shape there.
    """
    flat: list[dict[str, Any]] = [traverse_util.flatten_dict(tree, sep="/") for tree in (variables, other)]
    mine, theirs = flat
    shapes, found = ({path: x.shape for path, x in part.items() if x.shape} for part in flat)
    for path in sorted(shapes.keys() | found.keys()):
        if shapes.get(path) != found.get(path):
            sizes = [part.get(path, "missing") for part in (shapes, found)]
            raise InputError(f"{path} is {sizes[0]} in one network and {sizes[1]} in the other")
    return traverse_util.unflatten_dict({p: jnp.copy(theirs[p]) if x.shape else x for p, x in mine.items()}, sep="/")
