"""Step-by-step inference: a network that computes one time step per call, and the state between calls.

One program is compiled for each of the batch sizes 1, 2, 4, 8, ...; other batches are filled up to the next one. A
whole sequence runs through the same program as a stream, so both give the same bits.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import NDArray

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.models import Network, Variables
from snnkd_jax.parallel.compiler import compile_options


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prediction:
    """A prediction for a batch of images, after `steps` int32 `[B]` time steps for each; 1 with an ANN.

    `logits` float32 `[B, K]` are means over the steps, `confidence` `[B]` is the probability of the most likely class,
    and `firing_rates` are the spikes per neuron and step `[B]`, by layer.
    """

    logits: Any
    confidence: Any
    steps: Any
    firing_rates: dict[str, Any]
    class_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @property
    def classes(self) -> Any:
        """The most likely class of each image, integers `[B]`."""
        return self.logits.argmax(-1)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the most likely class of each image."""
        return tuple(self.class_names[i] for i in np.asarray(self.classes))


class Rows(NamedTuple):
    """The state of a filled-up batch between time steps; the first axis of every array is the batch.

    `state` is that of the neurons; `logits` `[b, K]` and `firing_rates` `[b]` are sums over `steps` int32 `[b]` so far.
    """

    state: Variables
    logits: Array
    firing_rates: dict[str, Array]
    steps: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The state of `batch` streams between time steps; `rows` includes those that fill up the batch."""

    rows: Rows
    batch: int = dataclasses.field(metadata={"static": True})

    def only(self, kept: NDArray) -> "State":
        """The state of the streams with these indices, integers `[n]`, n >= 1, filled up with repetitions of them."""
        return State(_take(self.rows, np.resize(kept, padded_size(len(kept)))), len(kept))


@dataclasses.dataclass(frozen=True, eq=False)
class Stepper:
    """Computes time steps on the device of `variables`; `network` is spiking with `num_steps=1`, or an ANN."""

    network: Network
    variables: Variables
    normalisation: Normalisation
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    def start(self, batch: int) -> State:
        """The state of `batch` streams before the first step."""
        return State(_take(self._first, np.zeros(padded_size(batch), int)), batch)

    def restart(self, state: State, streams: NDArray) -> State:
        """The state in which the streams with these indices, integers `[n]`, are before their first step."""
        if not len(streams):
            return state
        started = np.zeros(len(state.rows.steps), bool)
        started[streams] = True
        return State(_where(started, self._first, state.rows), state.batch)

    def __call__(self, state: State, images: Array | NDArray) -> tuple[State, Prediction]:
        """The state after a time step, of frames `[batch, H, W, C]` as from `as_pixels`, and the prediction so far."""
        full = len(state.rows.steps)
        traced = any(isinstance(x, Tracer) for x in jax.tree.leaves((state, images)))
        if full != state.batch:
            pad = jnp.pad if isinstance(images, jax.Array) else np.pad
            images = pad(images, ((0, full - state.batch), (0, 0), (0, 0), (0, 0)))
        # Compiler options belong to the outermost jit, which may be the user's.
        rows, prediction = (self._step if traced else self._compiled)(self.variables, state.rows, images)
        if full != state.batch:
            prediction = jax.tree.map(lambda x: x[: state.batch], prediction)
        return State(rows, state.batch), prediction

    def _step(self, variables: Variables, rows: Rows, images: Array | NDArray) -> tuple[Rows, Prediction]:
        pixels, state = self.normalisation(images), rows.state
        if self.network.num_steps is None:
            logits, features = self.network.apply(variables, pixels)
        else:
            (logits, features), state = self.network.apply_from(variables, pixels, state)
            logits = logits[:, 0]
        rates = jax.tree.map(jnp.add, rows.firing_rates, features["firing_rates"])
        rows = Rows(state, rows.logits + logits, rates, rows.steps + 1)
        steps = rows.steps.astype(jnp.float32)
        mean = rows.logits / steps[:, None]
        rates = {name: rate / steps for name, rate in rates.items()}
        return rows, Prediction(mean, jax.nn.softmax(mean).max(-1), rows.steps, rates, self.class_names)

    @functools.cached_property
    def _compiled(self):
        return jax.jit(self._step, compiler_options=compile_options())

    @functools.cached_property
    def _first(self) -> Rows:
        """The state of one stream before the first step."""
        with jax.ensure_compile_time_eval():  # cached, so not a tracer of the user's jit that makes the first call
            image = jnp.zeros((1, *self.image_shape))
            logits, features = jax.eval_shape(self.network.apply, self.variables, image)
            state = {} if self.network.num_steps is None else self.network.initial_state(self.variables, image)
            rates = {name: jnp.zeros(1) for name in features["firing_rates"]}
            rows = Rows(state, jnp.zeros((1, logits.shape[-1])), rates, jnp.zeros(1, jnp.int32))
            # On the device of later states, or a step would be compiled twice.
            return jax.device_put(rows, jax.tree.leaves(self.variables)[0].sharding)


def padded_size(batch: int) -> int:
    """The size to which a batch is filled up: the next of 1, 2, 4, 8, ..."""
    return 1 << max(batch - 1, 0).bit_length()


@jax.jit
def _take(tree: Any, rows: Array) -> Any:
    return jax.tree.map(lambda x: x[rows], tree)


@jax.jit
def _where(rows: Array, chosen: Any, others: Any) -> Any:
    """`chosen`, of one row, in these rows, bools `[b]`, of `others`."""
    return jax.tree.map(lambda x, y: jnp.where(rows.reshape(-1, *[1] * (y.ndim - 1)), x, y), chosen, others)
