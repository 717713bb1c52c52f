"""The training and the evaluation step: pure functions, compiled once, the same on one device and on many.

A step is `(state, teacher variables, batch) -> (state, metrics)`. The teacher runs in evaluation mode inside the same
program, receives no gradient, and is not part of the state that is checkpointed. Everything random is keyed by
`(seed, state.step)`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from numpy.typing import NDArray

from snnkd_jax.augment import Augmentation, augment
from snnkd_jax.backend import compile_options, replicated, split
from snnkd_jax.distill import Guidance, Objective, StagePair, loss_terms, pair_stages, weighted_sum
from snnkd_jax.errors import InputError
from snnkd_jax.models import Features, Network, Variables
from snnkd_jax.models.connector import Connectors

# Of the key of a step, apart from those that the augmentation splits off.
_BLUR = 1_000_000

Metrics = dict[str, Any]
Batch = dict[str, Array]


class TrainState(NamedTuple):
    """All that changes in training, and all that a checkpoint holds.

    `params` and `batch_stats` have the entries "network" and, for objectives on features, "connectors".
    """

    step: Array
    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Pixel statistics of the training set in [0, 1], one value a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Array | NDArray) -> Array:
        """Bytes `[..., C]` to float32 of mean 0 and standard deviation 1."""
        return (jnp.asarray(images, jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What is constant in a training: which network, on which objective, how. `teacher` is required by some objectives.

    With `accumulate` N > 1 a step goes through its batch in N parts, one after another, in the memory of one, and
    updates the parameters once, by the mean of their gradients. Part n has the images n, n + N, n + 2N, ... Without
    batch norm that is the gradient of the whole batch, if the objective's terms are means over examples. Batch norm
    normalises each part by its own statistics and updates the running ones N times; what an objective takes over the
    batch (correlations between examples, the margin) it takes over the part. Augmentation is that of the whole batch.

    Raises `InputError` if the network does not fit the images, if a teacher is missing, or, for an objective on
    features, if no stage of the student fits one of the teacher's.
    """

    network: Network
    objective: Objective
    optimizer: optax.GradientTransformation
    normalisation: Normalisation
    augmentation: Augmentation
    image_shape: tuple[int, int, int]
    seed: int
    teacher: Network | None = None
    accumulate: int = 1

    def __post_init__(self):
        if self.accumulate < 1:
            raise InputError(f"accumulate={self.accumulate!r} must be at least 1")
        if self.teacher is None and self.objective.needs_teacher:
            raise InputError("this objective needs a teacher; give one, or kd_weight=0 and feature_weight=0")
        self._check_head()
        jax.eval_shape(self.init)

    def init(self) -> TrainState:
        """The state before the first step, a function of the seed."""
        network_key, connector_key = jax.random.split(jax.random.key(self.seed))
        variables: dict[str, Any] = {"network": self.network.init(network_key, self.image_shape)}
        if self._connectors.channels:
            stages = jax.tree.map(jnp.zeros_like, self._stage_shapes(self.network))
            variables["connectors"] = self._connectors.init(connector_key, stages, train=False, blur_key=connector_key)
        params = {name: v["params"] for name, v in variables.items()}
        batch_stats = {name: v["batch_stats"] for name, v in variables.items()}
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, self.optimizer.init(params))

    def step(self, state: TrainState, teacher_variables: Variables, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update.

        Args:
            state: before the update.
            teacher_variables: of `teacher`; an empty dict without one.
            batch: `images` uint8 `[B, H, W, C]`, `labels` int32 `[B]`.

        Returns:
            The state after the update, and scalars: `loss`, each loss term by name, `accuracy`, `grad_norm`, and
            under `firing_rates` the mean rate of each layer.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), state.step)
        batch = {**batch, "images": augment(self.augmentation, key, batch["images"])}
        gradient = functools.partial(self._gradient, state.params, teacher_variables)
        if self.accumulate == 1:
            grads, batch_stats, metrics = gradient(state.batch_stats, batch, jax.random.fold_in(key, _BLUR))
        else:
            grads, batch_stats, metrics = self._accumulated(gradient, state, batch, key)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics |= {"grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    def _accumulated(
        self, gradient: Callable[..., tuple[Any, Variables, Metrics]], state: TrainState, batch: Batch, key: Array
    ) -> tuple[Any, Variables, Metrics]:
        """`gradient` of the parts of a batch: means of gradients and metrics, and the last batch statistics."""

        # Part n takes every N-th image, so that each device finds its share of every part among its own.
        def divide(x: Array) -> Array:
            return x.reshape(-1, self.accumulate, *x.shape[1:]).swapaxes(0, 1)

        def add(carry, part):
            total, batch_stats = carry
            n, batch = part
            grads, batch_stats, metrics = gradient(batch_stats, batch, jax.random.fold_in(key, _BLUR + n))
            return (jax.tree.map(jnp.add, total, grads), batch_stats), metrics

        start = jax.tree.map(jnp.zeros_like, state.params), state.batch_stats
        parts = jnp.arange(self.accumulate), jax.tree.map(divide, batch)
        (total, batch_stats), metrics = jax.lax.scan(add, start, parts)
        grads = jax.tree.map(lambda x: x / self.accumulate, total)
        return grads, batch_stats, jax.tree.map(lambda x: x.mean(axis=0), metrics)

    def _gradient(
        self, params: Variables, teacher_variables: Variables, batch_stats: Variables, batch: Batch, blur_key: Array
    ) -> tuple[Any, Variables, Metrics]:
        """The loss's gradient by `params`, new batch statistics, and metrics, on augmented images."""
        images = self.normalisation(batch["images"])
        teacher_outputs = None
        if self.teacher is not None and self.objective.needs_teacher:
            teacher_outputs = jax.lax.stop_gradient(self.teacher.apply(teacher_variables, images))

        def loss_fn(params: Variables):
            variables = {"params": params["network"], "batch_stats": batch_stats["network"]}
            (logits, features), network_stats = self.network.apply_train(variables, images)
            guidance, stats = None, {"network": network_stats}
            if teacher_outputs is not None:
                connectors = {"params": params.get("connectors", {}), "batch_stats": batch_stats.get("connectors", {})}
                guidance, updates = self._guidance(teacher_variables, teacher_outputs, connectors, features, blur_key)
                stats |= updates
            logits = _with_steps(logits)
            terms = loss_terms(self.objective, logits, batch["labels"], guidance)
            loss = weighted_sum(self.objective, terms)
            return loss, (terms, logits, features["firing_rates"], stats)

        (loss, (terms, logits, rates, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        metrics = {
            "loss": loss,
            **{name: term.mean() for name, term in terms.items()},
            "accuracy": _correct(logits, batch["labels"])[:, -1].mean(),
            "firing_rates": {name: rate.mean() for name, rate in rates.items()},
        }
        return grads, stats, metrics

    def _guidance(
        self,
        teacher_variables: Variables,
        teacher_outputs: tuple[Array, Features],
        connectors: Variables,
        features: Features,
        blur_key: Array,
    ) -> tuple[Guidance, Variables]:
        """What the objective compares the student's features with, and the connectors' new batch statistics, if any."""
        teacher_logits, teacher_features = teacher_outputs
        stages, connected, updates = _time_mean(features["stages"]), {}, {}
        if self._connectors.channels:
            connected, updates = self._connectors.apply(
                connectors, stages, train=True, blur_key=blur_key, mutable=["batch_stats"]
            )
            updates = {"connectors": updates["batch_stats"]}
        pairs = tuple(
            StagePair(stages[s], connected.get(s), teacher_features["stages"][t], teacher_features["currents"][t])
            for s, t in self._stage_pairs.items()
        )
        if not self.objective.reads_with_head:
            return Guidance(teacher_logits, pairs), updates
        return Guidance(teacher_logits, pairs, stages[max(stages)], _head(teacher_variables)), updates

    def evaluate(self, variables: Variables, batch: Batch) -> Metrics:
        """Sums over the examples of a batch whose `mask` is 1.

        Returns:
            `count`; `correct` `[T]`, by the mean of the logits of the first t steps; `loss`, the cross-entropy in
            nats by all steps; and under `firing_rates` the rate of each layer.
        """
        mask = batch["mask"]
        logits, features = self.network.apply(variables, self.normalisation(batch["images"]))
        logits = _with_steps(logits)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits.mean(axis=1), batch["labels"])
        return {
            "count": mask.sum(),
            "correct": mask @ _correct(logits, batch["labels"]),
            "loss": mask @ loss,
            "firing_rates": {name: mask @ rate for name, rate in features["firing_rates"].items()},
        }

    @functools.cached_property
    def _stage_pairs(self) -> dict[str, str]:
        """Student stage to teacher stage, those that the objective compares."""
        if self.teacher is None or not self.objective.compares_stages:
            return {}
        pairs = pair_stages(self._stage_shapes(self.network), self._stage_shapes(self.teacher))
        if self.objective.feature in ("last", "blur"):
            last = max(pairs)
            return {last: pairs[last]}
        return pairs

    @functools.cached_property
    def _connectors(self) -> Connectors:
        if self.teacher is None or not self._stage_pairs or self.objective.feature == "attention":
            return Connectors(())
        teacher = self._stage_shapes(self.teacher)
        channels = tuple((s, teacher[t].shape[-1]) for s, t in self._stage_pairs.items())
        return Connectors(channels, blur=self.objective.feature == "blur")

    def _check_head(self) -> None:
        """Raises `InputError` if the teacher's head cannot read the student's last stage."""
        if self.teacher is None or not self.objective.reads_with_head:
            return
        channels = []
        for role, network in (("student", self.network), ("teacher", self.teacher)):
            stages = self._stage_shapes(network)
            kernel, _ = _head(jax.eval_shape(lambda network=network: network.init(jax.random.key(0), self.image_shape)))
            channels.append(stages[max(stages)].shape[-1])
            if kernel.shape[0] != channels[-1]:
                raise InputError(
                    f"the {role}'s classifier reads a hidden layer, not its last stage; use another preset"
                )
        if channels[0] != channels[1]:
            raise InputError(
                f"the teacher's classifier reads {channels[1]} channels, the student's last stage has {channels[0]}; "
                "use networks of one width, or another preset"
            )

    def _stage_shapes(self, network: Network) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes `[1, H, W, C]` of a network's stage ends, without time."""

        def stages(key):
            variables = network.init(key, self.image_shape)
            return _time_mean(network.apply(variables, jnp.zeros((1, *self.image_shape)))[1]["stages"])

        return jax.eval_shape(stages, jax.random.key(0))


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """The jitted functions of a trainer on a mesh; each is traced once."""

    train: Callable[[TrainState, Variables, Batch], tuple[TrainState, Metrics]]
    evaluate: Callable[[Variables, Batch], Metrics]


def compile_steps(trainer: Trainer, mesh: Mesh) -> CompiledSteps:
    """Jits the steps: state replicated and donated, batches split along the axis "data"."""
    whole, parts = replicated(mesh), split(mesh)
    options = compile_options(mesh.devices.flat[0].platform)
    return CompiledSteps(
        train=jax.jit(
            trainer.step,
            in_shardings=(whole, whole, parts),
            out_shardings=whole,
            donate_argnums=0,
            compiler_options=options,
        ),
        evaluate=jax.jit(trainer.evaluate, in_shardings=(whole, parts), out_shardings=whole, compiler_options=options),
    )


def _head(variables: Variables) -> tuple[Array, Array]:
    """Kernel `[C, K]` and bias `[K]` of the read-out, which every body calls "head"."""
    return variables["params"]["head"]["kernel"], variables["params"]["head"]["bias"]


def _time_mean(stages: dict[str, Array]) -> dict[str, Array]:
    """Averages a spiking network's stage ends over time, `[B, T, H, W, C]` to `[B, H, W, C]`, in float32."""
    return {name: (x.mean(axis=1) if x.ndim == 5 else x).astype(jnp.float32) for name, x in stages.items()}


def _with_steps(logits: Array) -> Array:
    """Logits `[B, T, K]`; those of an ordinary network, `[B, K]`, are one step."""
    return logits if logits.ndim == 3 else logits[:, None]


def _correct(logits: Array, labels: Array) -> Array:
    """1.0 where the summed logits of the first t steps, `[B, t, K]`, are largest for the label: `[B, T]`."""
    return (jnp.argmax(jnp.cumsum(logits, axis=1), axis=-1) == labels[:, None]).astype(jnp.float32)
