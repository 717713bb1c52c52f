"""Networks as pure functions of their variables: the library's interface to Flax.

`variables` is `{"params": ..., "batch_stats": ...}`. Applying a network returns `(logits, features)`:

| value                         | ANN            | spiking network                                      |
| ----------------------------- | -------------- | ---------------------------------------------------- |
| `logits`, float32             | `[B, K]`       | `[B, T, K]`, one read-out per step                   |
| `features["stages"]`          | `[B, H, W, C]` | `[B, T, H, W, C]`, stage outputs                     |
| `features["pre_activations"]` | `[B, H, W, C]` | `[B, T or 1, H, W, C]`, stages before the activation |
| `features["firing_rates"]`    | empty          | layer name to `[B]`, spikes per neuron and step      |

In training by rate-based backpropagation, stages and pre-activations are averaged over time, `[B, 1, H, W, C]`.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.errors import FlaxError
from jax import Array

from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.models.activation import at_every_step
from snnkd_jax.models.coding import Coding, check_coding, encode
from snnkd_jax.models.expanded import Synapse, expanded, find_synapses
from snnkd_jax.models.frames import Frames
from snnkd_jax.models.partial import HashablePartial
from snnkd_jax.models.rate import linearise
from snnkd_jax.models.recorder import Call, capture_calls
from snnkd_jax.models.stages import Features, check_outputs

Variables = dict[str, Any]
Outputs = tuple[Array, Features]

_TEMPORARY = ("intermediates", "calls", "firing_rates", "state", "initial_state", "rates")
"""Collections of intermediate values, which are not variables of a network."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The arguments of `build` that define a trained network; see there."""

    name: str
    neuron: Neuron | None
    width: float
    tdbn: bool
    pool: str
    levels: int | None
    dtype: str


@dataclasses.dataclass(frozen=True)
class Network:
    """A Flax Linen module as a network: one of this library, by `build`, or your own, by `Network(module, num_steps)`.

    The module's call `(images, train)` returns logits, or logits and a dictionary of features: `"stages"` and
    `"pre_activations"`, each a dictionary of maps, or the maps of the stages directly. With `num_steps=None` it is an
    ANN: images `[B, H, W, C]`, logits `[B, K]`. With a number T it is a spiking network: images `[B, T, H, W, C]` (a
    static image is repeated), logits `[B, T, K]`.

    `rate_module`, with the layers of `snnkd_jax.models.rate`, replaces the module in the backward pass. `arguments`
    are those of `build`, `synapses` what `expand` has found: layers that read binary sub-steps. With `frames` an ANN
    takes sequences `[B, T, H, W, C]` as well, and a spiking network sees their mean at every step; with a `coding` a
    spiking network reads static images as spikes.

    Raises `InputError` if the module is not a Linen module, its call does not take `train`, or a spiking network is
    given `frames` other than of the mean.
    """

    module: nn.Module
    num_steps: int | None = None
    rate_module: nn.Module | None = None
    arguments: Arguments | None = None
    synapses: tuple[Synapse, ...] = ()
    frames: Frames | None = None
    coding: Coding = "direct"

    def __post_init__(self):
        if not isinstance(self.module, nn.Module):
            raise InputError(f"{self.module!r} is no Flax Linen module (flax.linen.Module); give an instance of one")
        if self.num_steps is not None:
            check_count("num_steps", self.num_steps)
            if self.frames is not None and self.frames.reading != "mean":
                raise InputError(f"frames={self.frames!r} is for ANNs; give 'mean', or None for one frame per step")
        check_coding(self.coding, self.num_steps)
        call = inspect.signature(type(self.module).__call__).parameters
        if "train" not in call:
            raise InputError(f"{self.title}.__call__ takes ({', '.join(list(call)[1:])}); it must take (images, train)")

    @property
    def repeats(self) -> bool:
        """Whether the module takes a static image as one step, which its activation repeats T times."""
        return "num_steps" in getattr(getattr(self.module, "activation", None), "keywords", ())

    @property
    def model(self) -> str:
        """The name of the architecture, or the class of your own module."""
        return type(self.module).__name__ if self.arguments is None else self.arguments.name

    @property
    def width(self) -> float | None:
        """The multiplier of the architecture's channels, None for your own module."""
        return None if self.arguments is None else self.arguments.width

    @property
    def title(self) -> str:
        """The architecture and its width, or the class of your own module."""
        return self.model if self.width is None else f"{self.model}, width {self.width:g}"

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> Variables:
        """Initial variables for images `[H, W, C]`."""
        images = self._with_time(jnp.zeros((1, *image_shape)))
        if self.arguments is None:  # fields of your own module may change, or be equal and not the same
            variables = _init(self.module)(key, images)
        else:
            variables = _init_of_equals(self.module, str(jax.random.key_impl(key)))(key, images)
        if others := variables.keys() - {"params", "batch_stats", *_TEMPORARY}:
            found = f"{self.title} has variables in {', '.join(sorted(others))}"
            raise InputError(f"{found}; only params and batch_stats are trained and kept")
        return {name: variables.get(name, {}) for name in ("params", "batch_stats")}

    def streams(self, variables: Variables, image_shape: tuple[int, int, int]) -> bool:
        """Whether a spiking network gives the same logits frame by frame as in one call, tried on random images."""
        if self.frames is not None:
            return False
        if self.repeats or self.num_steps is None:
            return self.repeats
        images = 2 * jax.random.normal(jax.random.key(0), (1, max(self.num_steps, 2), *image_shape))
        whole, _ = self.apply(variables, images[:, : self.num_steps])  # an error here is the module's own
        try:
            if self.num_steps == 1:
                whole, _ = self.with_steps(2).apply(variables, images)
            one, parts, state = self.with_steps(1), [], None
            for t in range(images.shape[1]):
                (logits, _), state = one.apply_from(variables, images[:, t : t + 1], state)
                parts.append(logits)
        except (FlaxError, TypeError, ValueError, IndexError, ZeroDivisionError, AssertionError):
            return False  # another number of steps does not fit
        return bool(jnp.allclose(jnp.concatenate(parts, axis=1), whole, rtol=1e-3, atol=1e-3))

    def with_steps(self, num_steps: int) -> "Network":
        """The same spiking network, for the same variables, with another T."""
        if self.num_steps is None:
            raise InputError("an ANN has no time steps")
        check_count("num_steps", num_steps)
        module: Any = self.module
        if self.repeats:
            module = module.clone(activation=HashablePartial(module.activation, num_steps=num_steps))
        return dataclasses.replace(self, module=module, num_steps=num_steps)

    def expand(self, variables: Variables, image_shape: tuple[int, int, int]) -> "Network":
        """The same function of the same variables in binary sub-steps (`snnkd_jax.models.expanded`), for inference.

        Images are `[H, W, C]`. Raises `InputError` if it has no integer neurons, or a layer that reads anything else of
        their spikes than counts.
        """
        if self.synapses:
            return self
        return dataclasses.replace(self, synapses=find_synapses(self, variables, image_shape), rate_module=None)

    def apply(self, variables: Variables, images: Array) -> Outputs:
        """Evaluates the network with the running statistics of batch norm: `(logits, features)` as in the table above.

        Args:
            variables: as returned by `init`.
            images: static `[B, H, W, C]`, or for a spiking network, or an ANN with `frames`, also one frame per step,
                `[B, T, H, W, C]`.
        """
        outputs, _ = self._run(variables, images, train=False)
        return outputs

    def apply_from(self, variables: Variables, images: Array, state: Variables | None) -> tuple[Outputs, Variables]:
        """`apply` for the next `num_steps` steps of a spiking network, and its neurons' states after them, `[B, ...]`.

        `state` is that of the previous call; None is the initial state.
        """
        variables = variables if state is None else variables | {"state": state}
        outputs, updates = self._run(variables, images, train=False, mutable=("state",))
        return outputs, updates.get("state", {})

    def initial_state(self, variables: Variables, images: Array) -> Variables:
        """A spiking network's state before its first step, for `apply_from`; only the shape of the images matters."""
        name = "initial_state"
        return jax.jit(lambda *inputs: self._run(*inputs, train=False, mutable=(name,))[1][name])(variables, images)

    def capture_calls(self, variables: Variables, images: Array, *kinds: type[nn.Module]) -> tuple[Array, list[Call]]:
        """The logits of `apply`, and the calls of all modules of these kinds."""
        apply = functools.partial(self._apply, variables, images, train=False)
        with self._context(variables):  # outside, so that inputs and outputs are those of the sub-steps
            (logits, _), calls = capture_calls(apply, lambda module: isinstance(module, kinds))
        return logits, calls

    def apply_train(self, variables: Variables, images: Array, dropout: Any = None) -> tuple[Outputs, Variables]:
        """Applies the network in training, with the batch's statistics: `((logits, features), new batch_stats)`.

        `dropout` is the key of modules with dropout, which the architectures of this library have not, and of the
        spikes of a `coding`.
        """
        if self.coding != "direct" and images.ndim == 4:
            images = self.encode(images, dropout)
        if self.synapses:
            raise InputError("an expanded network has no gradients; train the network that it was made of")
        if self.rate_module is None:
            rngs = None if dropout is None else {"dropout": dropout}
            outputs, updates = self._run(variables, images, ("batch_stats",), train=True, rngs=rngs)
            return outputs, updates.get("batch_stats", {})
        inputs = jax.lax.stop_gradient((variables, images))
        (logits, features), updates = self._run(*inputs, ("batch_stats", "rates"), train=True)
        means = self._with_time(images).mean(axis=1, keepdims=True)
        variables = {"params": variables["params"], "rates": jax.lax.stop_gradient(updates["rates"])}
        outputs: Any = self.rate_module.apply(variables, means, train=True)
        mean_logits = jnp.broadcast_to(outputs[0].astype(jnp.float32), logits.shape)
        return (linearise(logits, mean_logits, 1.0), features | outputs[1]), updates["batch_stats"]

    def encode(self, images: Array, key: Array | None = None) -> Array:
        """What the network reads of static images `[B, H, W, C]`, `[B, T, H, W, C]`; `key` is that of training."""
        if self.num_steps is None:
            raise InputError("an ANN has no time steps")
        return encode(self.coding, images, self.num_steps, key)

    def _run(self, variables: Variables, images: Array, mutable: Any = (), **options: Any) -> tuple[Outputs, Any]:
        with self._context(variables):
            return self._apply(variables, images, mutable, **options)

    def _context(self, variables: Variables) -> contextlib.AbstractContextManager[None]:
        return expanded(self.synapses, variables["params"]) if self.synapses else contextlib.nullcontext()

    def _apply(self, variables: Variables, images: Array, mutable: Any = (), **options: Any) -> tuple[Outputs, Any]:
        batch, images = images.shape[0], self._with_time(images)
        outputs, updates = self.module.apply(variables, images, mutable=["firing_rates", *mutable], **options)
        logits, stages = outputs if self.repeats else self._checked(outputs, images.shape)
        if self.frames is not None and self.num_steps is None:
            logits, stages = self.frames.outputs(batch, (logits, stages))
        if self.repeats and self.num_steps is not None:  # a module without neurons does not repeat a static image
            logits = at_every_step(logits, self.num_steps)
        rates: dict[str, Any] = traverse_util.flatten_dict(updates.get("firing_rates", {}), sep="/")
        firing_rates = {name.removesuffix("/rate"): rate for name, rate in rates.items()}
        return (logits.astype(jnp.float32), {**stages, "firing_rates": firing_rates}), updates

    def _with_time(self, images: Array) -> Array:
        if self.frames is not None:
            images = self.frames.images(images)
            if self.num_steps is None:
                return images
        if images.ndim == (4 if self.num_steps is None else 5):
            return images
        if images.ndim == 4 and self.coding != "direct":
            return self.encode(images)
        if images.ndim == 4:
            steps = 1 if self.repeats else self.num_steps
            return jnp.broadcast_to(images[:, None], (images.shape[0], steps, *images.shape[1:]))
        expected = "[B, H, W, C] or [B, T, H, W, C]"
        if self.num_steps is None:
            expected = "[B, H, W, C]; for sequences [B, T, H, W, C], build it with frames"
        raise InputError(f"images have shape {images.shape}; this network takes {expected}")

    def _checked(self, outputs: Any, shape: tuple[int, ...]) -> Outputs:
        """`check_outputs`, where features may be the maps of the stages directly."""
        if isinstance(outputs, tuple) and len(outputs) == 2 and isinstance(outputs[1], dict):
            features = outputs[1]
            if features and not any(isinstance(x, dict) for x in features.values()):
                outputs = outputs[0], {"stages": features}
            elif unknown := ", ".join(sorted(features.keys() - {"stages", "pre_activations"})):
                raise InputError(f"{self.title}: its features {unknown} should be in 'stages' or 'pre_activations'")
        hint = "; a spiking network needs Network(module, num_steps=T)" if self.num_steps is None else ""
        logits, stages = check_outputs(self.title, outputs, shape[: 1 if hint else 2], hint)
        if not jnp.issubdtype(logits.dtype, jnp.floating):
            raise InputError(f"{self.title}: its logits are {logits.dtype}; make them floats")
        return logits, stages


def _init(module: nn.Module) -> Callable[[Array, Array], Any]:
    return jax.jit(functools.partial(module.init, train=False))


@functools.lru_cache(maxsize=16)
def _init_of_equals(module: nn.Module, prng: str) -> Callable[[Array, Array], Any]:
    """The same for modules of `build`, whose fields say what they compute; `prng` is what raw keys are keys of.

    They are traced and compiled once, so that a context of Flax around a later call (`nn.intercept_methods`) has no
    effect.
    """
    del prng
    return _init(module)


def with_weights_of(other: Variables, variables: Variables) -> Variables:
    """A network's variables, with copies of the arrays of another network of the same architecture and width.

    Scalars are not copied: they belong to the neurons (a learnable tau, the threshold of a quantised activation). The
    exception are thresholds of integer neurons, which are those of the `QCFS` or of the integer neurons in their place.
    Raises `InputError` if an array is missing in one of the networks, or has another shape there.
    """
    mine: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/")
    theirs: dict[str, Any] = traverse_util.flatten_dict(other, sep="/")
    for path in [path for path in mine if path.endswith("/qcfs_threshold")]:
        mine[path] = theirs.get(path, theirs.get(path.replace("/qcfs_threshold", "/threshold"), mine[path]))
    for path in sorted(mine.keys() | theirs.keys()):
        shapes = [getattr(part.get(path), "shape", ()) or "missing" for part in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{path} is {shapes[0]} in one network and {shapes[1]} in the other")
    return traverse_util.unflatten_dict({p: jnp.copy(theirs[p]) if x.shape else x for p, x in mine.items()}, sep="/")
