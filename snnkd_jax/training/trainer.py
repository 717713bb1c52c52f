"""The training and the evaluation step: pure functions, which `snnkd_jax.training.compiled` compiles.

A step is `(state, teacher variables, batch) -> (state, metrics)`. The teacher runs in evaluation mode, receives no
gradient, and is not part of the state that is checkpointed. It runs inside the step, unless the batch has its outputs:
`Trainer.teach` computes them in a program of its own. Everything random is keyed by `(seed, state.step)`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from snnkd_jax.data.augment import Augmentation, augment
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.distill.connector import Connectors
from snnkd_jax.distill.objective import (
    Guidance,
    Objective,
    StagePair,
    loss_terms,
    pair_stages,
    presets_of_logits,
    weighted_sum,
)
from snnkd_jax.errors import InputError
from snnkd_jax.models import Features, Network, Variables, with_weights_of
from snnkd_jax.models.layers import MaxPool
from snnkd_jax.models.recorder import calls

# Of the key of a step, apart from those that the augmentation splits off.
_BLUR = 1_000_000

Metrics = dict[str, Any]
Batch = dict[str, Any]

TeacherOutputs = dict[str, Any]
"""What an objective reads of a teacher, float32: `logits` `[B, K]`, and `features`, stage to `[B, H, W, C]`."""


class TeacherNetwork(Protocol):
    """What can guide a student: an ordinary `Network`, or a `snnkd_jax.distill.teacher.Teacher`."""

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> Any:
        """Variables for images `[H, W, C]`, of the shapes of those that it is applied with."""
        ...

    def apply(self, variables: Any, images: Array) -> tuple[Array, Features]:
        """Logits `[B, K]` and features as in `snnkd_jax.distill.teacher`, of normalised images `[B, H, W, C]`."""
        ...


class TrainState(NamedTuple):
    """All that changes in training, and all that a checkpoint holds.

    `params` and `batch_stats` have the entries "network" and, for objectives on features, "connectors".
    """

    step: Array
    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What is constant in a training: which network, on which objective, how. `teacher` is required by some objectives.

    `teacher_normalisation` is of the pixels that the teacher sees; None: `normalisation`. `gather` makes variables
    whole, where they are used, that lie divided among devices.

    With `accumulate` N > 1 a step goes through its batch in N parts, one after another, in the memory of one, and
    updates the parameters once, by the mean of their gradients. Part n has the images n, n + N, n + 2N, ... Without
    batch norm that is the gradient of the whole batch, if the objective's terms are means over examples. Batch norm
    normalises each part by its own statistics and updates the running ones N times; what an objective takes over the
    batch (correlations between examples, the margin) it takes over the part. Augmentation is that of the whole batch.

    Raises `InputError` if the network does not fit the images, if a teacher is missing or gives not what the objective
    reads, or, for an objective on features, if no stage of the student fits one of the teacher's.
    """

    network: Network
    objective: Objective
    optimizer: optax.GradientTransformation
    normalisation: Normalisation
    augmentation: Augmentation
    image_shape: tuple[int, int, int]
    seed: int
    teacher: TeacherNetwork | None = None
    teacher_normalisation: Normalisation | None = None
    accumulate: int = 1
    gather: Callable[[Variables], Variables] = lambda variables: variables

    def __post_init__(self):
        if self.accumulate < 1:
            raise InputError(f"accumulate={self.accumulate!r} must be at least 1")
        if self.teacher is None and self.objective.needs_teacher:
            raise InputError("this objective needs a teacher; give one, or kd_weight=0 and feature_weight=0")
        if self.is_guided:
            self._check_teacher()
        jax.eval_shape(self.init)

    def init(self, initial: Variables | None = None) -> TrainState:
        """The state before the first step, a function of the seed, or with the weights of another network.

        Raises `InputError` as `with_weights_of`.
        """
        network_key, connector_key = jax.random.split(jax.random.key(self.seed))
        network = self.network.init(network_key, self.image_shape)
        variables: dict[str, Any] = {"network": network if initial is None else with_weights_of(initial, network)}
        if self._connectors.channels:
            stages = jax.tree.map(jnp.zeros_like, self._student_shapes[1]["stages"])
            variables["connectors"] = self._connectors.init(connector_key, stages, train=False, blur_key=connector_key)
        params = {name: v["params"] for name, v in variables.items()}
        batch_stats = {name: v["batch_stats"] for name, v in variables.items()}
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, self.optimizer.init(params))

    def step(self, state: TrainState, teacher_variables: Variables, batch: Batch) -> tuple[TrainState, Metrics]:
        """One update.

        Args:
            state: before the update.
            teacher_variables: of `teacher`; an empty dict without one.
            batch: `images` uint8 `[B, H, W, C]`, `labels` int32 `[B]`, and `teacher`, if `teach` was called for it.

        Returns:
            The state after the update, and scalars: `loss`, each loss term by name, `accuracy`, `grad_norm`, and
            under `firing_rates` the mean rate of each layer.
        """
        key = self._key(state.step)
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
        teacher_outputs = batch.get("teacher")
        if self.is_guided and teacher_outputs is None:
            teacher_outputs = self._outputs(teacher_variables, batch["images"])

        def loss_fn(params: Variables):
            params = self.gather(params)
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

    @property
    def is_guided(self) -> bool:
        """Whether the objective reads the teacher."""
        return self.teacher is not None and self.objective.needs_teacher

    def teach(self, teacher_variables: Variables, step: Array, images: Array) -> TeacherOutputs:
        """What the objective reads of the teacher in a training step.

        Args:
            teacher_variables: of `teacher`.
            step: of the state before the update, int32.
            images: of the batch, uint8 `[B, H, W, C]`; they are augmented as in the step.
        """
        return self._outputs(teacher_variables, augment(self.augmentation, self._key(step), images))

    def _key(self, step: Array) -> Array:
        return jax.random.fold_in(jax.random.key(self.seed), step)

    def _outputs(self, teacher_variables: Variables, pixels: Array) -> TeacherOutputs:
        assert self.teacher is not None
        normalisation = self.teacher_normalisation or self.normalisation
        logits, features = self.teacher.apply(teacher_variables, normalisation(pixels))
        stages = {name: features[self.objective.teacher_features][name] for name in self._stage_pairs.values()}
        outputs = {"logits": logits, "features": stages}
        return jax.lax.stop_gradient(jax.tree.map(lambda x: x.astype(jnp.float32), outputs))

    def _guidance(
        self,
        teacher_variables: Variables,
        teacher_outputs: TeacherOutputs,
        connectors: Variables,
        features: Features,
        blur_key: Array,
    ) -> tuple[Guidance, Variables]:
        """What the objective compares the student's features with, and the connectors' new batch statistics, if any."""
        teacher_logits, teacher_features = teacher_outputs["logits"], teacher_outputs["features"]
        stages, connected, updates = _time_mean(features["stages"]), {}, {}
        if self._connectors.channels:
            connected, updates = self._connectors.apply(
                connectors, stages, train=True, blur_key=blur_key, mutable=["batch_stats"]
            )
            updates = {"connectors": updates["batch_stats"]}
        pairs = tuple(StagePair(stages[s], connected.get(s), teacher_features[t]) for s, t in self._stage_pairs.items())
        if not self.objective.reads_with_head:
            return Guidance(teacher_logits, pairs), updates
        return Guidance(teacher_logits, pairs, stages[max(stages)], _head(teacher_variables)), updates

    @functools.cached_property
    def _stage_pairs(self) -> dict[str, str]:
        """Student stage to teacher stage, those that the objective compares."""
        if self.teacher is None or not self.objective.compares_stages:
            return {}
        pairs = pair_stages(self._student_shapes[1]["stages"], self._teacher_stages)
        if self.objective.feature in ("last", "blur"):
            last = max(pairs)
            return {last: pairs[last]}
        return pairs

    @functools.cached_property
    def _connectors(self) -> Connectors:
        if self.teacher is None or not self._stage_pairs or self.objective.feature == "attention":
            return Connectors(())
        channels = tuple((s, self._teacher_stages[t].shape[-1]) for s, t in self._stage_pairs.items())
        return Connectors(channels, blur=self.objective.feature == "blur")

    def _check_teacher(self) -> None:
        """Raises `InputError` if the teacher does not give what the objective reads."""
        logits, _ = self._teacher_shapes
        num_classes = self._student_shapes[0].shape[-1]
        if logits.shape != (1, num_classes):
            raise InputError(
                f"the teacher gives logits of shape {logits.shape} for one image, the student has {num_classes} classes"
            )
        if self.objective.compares_stages and not self._teacher_stages:
            raise InputError(
                f"the teacher gives no {self.objective.teacher_features}, which this objective compares; give them "
                f"(snnkd_jax.distill.teacher says how), or use {presets_of_logits()}"
            )
        if self.objective.reads_with_head:
            self._check_head()

    def _check_head(self) -> None:
        """Raises `InputError` if the teacher's head cannot read the student's last stage."""
        assert self.teacher is not None
        channels = []
        roles = (("student", self.network, self._student_shapes), ("teacher", self.teacher, self._teacher_shapes))
        for role, network, (_, features) in roles:
            stages = features["stages"]
            variables = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), self.image_shape))
            kernel, _ = _head(variables)
            channels.append(stages[max(stages)].shape[-1] if stages else kernel.shape[0])
            if kernel.shape[0] != channels[-1]:
                raise InputError(
                    f"the {role}'s classifier reads a hidden layer, not its last stage; use another preset"
                )
            if stages and any(
                isinstance(call.module, MaxPool) and call.inputs.shape[-3:] == stages[max(stages)].shape[-3:]
                for call in calls(network, variables, self.image_shape)
            ):
                raise InputError(
                    f"the {role}'s classifier reads maxima of its last stage, not the mean; use pool='avg', or another "
                    "preset"
                )
        if channels[0] != channels[1]:
            raise InputError(
                f"the teacher's classifier reads {channels[1]} channels, the student's last stage has {channels[0]}; "
                "use networks of one width, or another preset"
            )

    @functools.cached_property
    def _student_shapes(self) -> tuple[Any, Any]:
        return self._shapes(self.network)

    @functools.cached_property
    def _teacher_shapes(self) -> tuple[Any, Any]:
        assert self.teacher is not None
        return self._shapes(self.teacher)

    @property
    def _teacher_stages(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Those that the objective compares with the student's."""
        return self._teacher_shapes[1][self.objective.teacher_features]

    def _shapes(self, network: TeacherNetwork) -> tuple[Any, Any]:
        """The shapes of a network's logits and features for one image; those of stage ends are without time."""

        def outputs(key):
            variables = network.init(key, self.image_shape)
            logits, features = network.apply(variables, jnp.zeros((1, *self.image_shape)))
            return logits, {kind: _time_mean(features[kind]) for kind in ("stages", "pre_activations")}

        return jax.eval_shape(outputs, jax.random.key(0))


def evaluate_batch(
    network: TeacherNetwork, normalisation: Normalisation, variables: Variables, batch: Batch
) -> Metrics:
    """Sums over the examples of a batch whose `mask` is 1.

    Returns:
        `count`; `correct` `[T]`, by the mean of the logits of the first t steps; `loss`, the cross-entropy in
        nats by all steps; and under `firing_rates` the rate of each layer.
    """
    mask = batch["mask"]
    logits, features = network.apply(variables, normalisation(batch["images"]))
    logits = _with_steps(logits)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.mean(axis=1), batch["labels"])
    return {
        "count": mask.sum(),
        "correct": mask @ _correct(logits, batch["labels"]),
        "loss": mask @ loss,
        "firing_rates": {name: mask @ rate for name, rate in features["firing_rates"].items()},
    }


def _head(variables: Variables) -> tuple[Array, Array]:
    """Kernel `[C, K]` and bias `[K]` of the read-out, which every body calls "head"."""
    try:
        head = variables["params"]["head"]
        return head["kernel"], head["bias"]
    except (KeyError, TypeError, IndexError):
        raise InputError(
            f"the teacher's variables have no params/head, which this objective reads; use {presets_of_logits()}"
        ) from None


def _time_mean(stages: dict[str, Array]) -> dict[str, Array]:
    """Averages a spiking network's stage ends over time, `[B, T, H, W, C]` to `[B, H, W, C]`, in float32."""
    return {name: (x.mean(axis=1) if x.ndim == 5 else x).astype(jnp.float32) for name, x in stages.items()}


def _with_steps(logits: Array) -> Array:
    """Logits `[B, T, K]`; those of an ordinary network, `[B, K]`, are one step."""
    return logits if logits.ndim == 3 else logits[:, None]


def _correct(logits: Array, labels: Array) -> Array:
    """1.0 where the summed logits of the first t steps, `[B, t, K]`, are largest for the label: `[B, T]`."""
    return (jnp.argmax(jnp.cumsum(logits, axis=1), axis=-1) == labels[:, None]).astype(jnp.float32)
