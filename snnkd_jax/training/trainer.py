"""The training and evaluation steps: pure functions, which `snnkd_jax.training.compiled` compiles.

A step is `(state, teacher variables, batch) -> (state, metrics)`. The teacher runs in evaluation mode, without gradient
and outside the state: inside the step, unless `Trainer.teach` has computed its outputs in a separate program.
All randomness is keyed by `(seed, state.step)`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from snnkd_jax.data.augment import Augment
from snnkd_jax.data.normalisation import Normalisation, to_unit_range
from snnkd_jax.digest import jaxpr_digest
from snnkd_jax.distill.guidance import Guidance, Targets
from snnkd_jax.distill.objective import Objective
from snnkd_jax.distill.outputs import StudentOutputs
from snnkd_jax.distill.teacher import TeacherNetwork
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables, with_weights_of
from snnkd_jax.training.lookahead import Lookahead

# Folded into the key of a step for masked channels and for the student's noise, and into the former for dropout;
# augmentation splits off others.
_BLUR, _NOISE, _DROPOUT = 1_000_000, 2_000_000, 1

Metrics = dict[str, Any]
Batch = dict[str, Any]
Gradient = tuple[Any, Variables, Metrics]
"""The gradient of the loss, the new batch statistics, and metrics."""


class TrainState(NamedTuple):
    """What training updates; `params` and `batch_stats` have "network" and, if there are any, "connectors" by term.

    `opt_state` is that of the optimiser, or a pair of it and that of a `Lookahead`.
    """

    step: Array
    params: Variables
    batch_stats: Variables
    opt_state: Any


def variables_of(state: TrainState) -> Variables:
    """Returns the network's variables, without connectors."""
    return {"params": state.params["network"], "batch_stats": state.batch_stats["network"]}


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The constants of a training, and its step.

    `teacher_normalisation` None: `normalisation`. `gather` replicates sharded variables where they are used.
    `student_noise` is applied to the augmented images, float32 in [0, 1], for the student: the teacher sees them
    without it. With `paired_shape` [h, w, c] it sees other images instead, `paired` of the batch, as they are.

    With `accumulate` N > 1 a step processes its batch in N parts, one after another, in the memory of one, and updates
    the parameters once, with the mean of their gradients. Part n has the images n, n + N, n + 2N, ... If the
    objective's terms are means over examples, that is the gradient of the whole batch, except for batch norm, which
    takes its statistics over each part and updates the running ones N times. Augmentation and noise are those of the
    whole batch.

    Raises `InputError` if the network does not fit the images, the augmentation or the noise, and as `Guidance` does.
    """

    network: Network
    objective: Objective
    optimizer: optax.GradientTransformation
    normalisation: Normalisation
    augment: Augment | None
    image_shape: tuple[int, int, int]
    seed: int
    teacher: TeacherNetwork | None = None
    teacher_normalisation: Normalisation | None = None
    accumulate: int = 1
    lookahead: Lookahead | None = None
    frames: int | None = None
    paired_shape: tuple[int, int, int] | None = None
    student_noise: Augment | None = None
    gather: Callable[[Variables], Variables] = lambda variables: variables

    def __post_init__(self):
        for name in ("augment", "student_noise"):
            if (function := getattr(self, name)) is not None:
                _check_keeps_images(name, function, self.pixels(2))
        _ = self.guidance  # checks the objective and the teacher
        jax.eval_shape(self.init)

    def pixels(self, batch: int) -> jax.ShapeDtypeStruct:
        """Returns the shape of a batch of images, or of sequences with one frame per time step."""
        return _shape(batch, *(() if self.frames is None else (self.frames,)), *self.image_shape)

    def digest_of(self, function: Augment | None) -> str | None:
        """A digest of the computation of an augmentation or noise; None for none."""
        return None if function is None else jaxpr_digest(function, jax.random.key(0), self.pixels(2))

    def init(self, initial: Variables | None = None) -> TrainState:
        """Draws the state before the first step, or initialises it from another network (`with_weights_of`)."""
        network_key, connector_key = jax.random.split(jax.random.key(self.seed))
        network = self.network.init(network_key, self.image_shape)
        variables: dict[str, Any] = {"network": network if initial is None else with_weights_of(initial, network)}
        if connectors := self.guidance.init(connector_key):
            variables["connectors"] = connectors
        params, batch_stats = ({name: v[part] for name, v in variables.items()} for part in ("params", "batch_stats"))
        return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, self.init_optimizer(params, batch_stats))

    def init_optimizer(self, params: Variables, batch_stats: Variables) -> Any:
        """The `opt_state` of a `TrainState` before the first step of a schedule."""
        opt_state = self.optimizer.init(params)
        return opt_state if self.lookahead is None else (opt_state, self.lookahead.init(params, batch_stats))

    def step(self, state: TrainState, teacher_variables: Variables, batch: Batch) -> tuple[TrainState, Metrics]:
        """Makes one update.

        `batch` has `images` uint8 `[B, H, W, C]`, `labels` int32 `[B]`, and `teacher` if `teach` has computed it;
        `teacher_variables` are not used without a teacher. Returns the new state, and scalars: `loss`, each term by
        name, `accuracy`, `grad_norm`, and under `firing_rates` the mean rate of each layer.
        """
        key, images = self._augmented(state.step, batch["images"])
        batch = {**batch, "images": images}
        if self.student_noise is not None:
            batch["student"] = self.student_noise(jax.random.fold_in(key, _NOISE), to_unit_range(images))
        gradient = functools.partial(self._gradient, state.params, teacher_variables)
        if self.accumulate == 1:
            grads, batch_stats, metrics = gradient(state.batch_stats, batch, jax.random.fold_in(key, _BLUR))
        else:
            grads, batch_stats, metrics = self._accumulated(gradient, state, batch, key)
        before = state.opt_state if self.lookahead is None else state.opt_state[0]
        with jax.named_scope("optimizer"):
            updates, opt_state = self.optimizer.update(grads, before, state.params)
            params: Any = optax.apply_updates(state.params, updates)
            if self.lookahead is not None:
                slow, params, batch_stats = self.lookahead.update(state.opt_state[1], params, batch_stats)
                opt_state = opt_state, slow
        metrics["grad_norm"] = optax.tree.norm(grads)
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    def _accumulated(self, gradient: Callable[..., Gradient], state: TrainState, batch: Batch, key: Array) -> Gradient:
        """Applies `gradient` to the parts of a batch; returns mean gradients and metrics, and the last statistics."""

        def add(carry, part):
            total, batch_stats = carry
            n, batch = part
            grads, batch_stats, metrics = gradient(batch_stats, batch, jax.random.fold_in(key, _BLUR + n))
            return (jax.tree.map(jnp.add, total, grads), batch_stats), metrics

        start = jax.tree.map(jnp.zeros_like, state.params), state.batch_stats
        parts = self.accumulate
        # Part n takes every N-th image, so that each device has its share of every part already.
        xs = jnp.arange(parts), jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        (total, batch_stats), metrics = jax.lax.scan(add, start, xs)
        grads = jax.tree.map(lambda x: x / parts, total)
        return grads, batch_stats, jax.tree.map(lambda x: x.mean(axis=0), metrics)

    def _gradient(
        self, params: Variables, teacher_variables: Variables, batch_stats: Variables, batch: Batch, blur_key: Array
    ) -> Gradient:
        """Differentiates the loss on augmented images with respect to `params`."""
        images = self.normalisation(batch.get("student", batch["images"]))
        targets = batch.get("teacher")
        if self.is_guided and targets is None:
            targets = self._targets(teacher_variables, self.teacher_images(batch))

        def loss_fn(params: Variables):
            params = self.gather(params)
            variables = {"params": params["network"], "batch_stats": batch_stats["network"]}
            outputs, network_stats = self.network.apply_train(variables, images, jax.random.fold_in(blur_key, _DROPOUT))
            student = StudentOutputs.of(*outputs)
            connectors = {"params": params.get("connectors", {}), "batch_stats": batch_stats.get("connectors", {})}
            with jax.named_scope("loss"):
                terms, connector_stats = self.guidance.values(
                    student, targets, batch["labels"], teacher_variables, connectors, blur_key
                )
                loss = self.objective.loss(terms)
            stats = {"network": network_stats} | ({"connectors": connector_stats} if connector_stats else {})
            return loss, (terms, student.logits, student.firing_rates, stats)

        (loss, (terms, logits, rates, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        metrics = {
            "loss": loss,
            **{name: term.mean() for name, term in terms.items()},
            "accuracy": _correct(logits, batch["labels"])[:, -1].mean(),
            "firing_rates": {name: rate.mean() for name, rate in rates.items()},
        }
        return grads, stats, metrics

    @functools.cached_property
    def guidance(self) -> Guidance:
        """The objective's terms for the network, and for the teacher if they read one."""
        teacher = self.teacher if self.objective.reads_teacher else None
        return Guidance(self.objective, self.network, teacher, self.image_shape, self.frames, self.paired_shape)

    @property
    def is_guided(self) -> bool:
        """Whether the objective reads the teacher."""
        return self.guidance.teacher is not None

    def teach(self, teacher_variables: Variables, step: Array, images: Array) -> Targets:
        """Computes the teacher outputs that the objective reads, for the `teacher_images` of the batch of a step."""
        seen = self._augmented(step, images)[1] if self.paired_shape is None else images
        return self._targets(teacher_variables, seen)

    def teacher_images(self, batch: Batch) -> Array:
        """The images of a batch that the teacher sees."""
        return batch["images"] if self.paired_shape is None else batch["paired"]

    def teacher_pixels(self, batch: int) -> jax.ShapeDtypeStruct:
        """Returns the shape of a batch of images that the teacher sees."""
        return self.pixels(batch) if self.paired_shape is None else _shape(batch, *self.paired_shape)

    def _augmented(self, step: Array, images: Array) -> tuple[Array, Array]:
        """Returns the key of a step, and its augmented images."""
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        return key, images if self.augment is None else self.augment(key, images)

    def _targets(self, teacher_variables: Variables, pixels: Array) -> Targets:
        normalisation = self.teacher_normalisation or self.normalisation
        with jax.named_scope("teacher"):
            return self.guidance.targets(teacher_variables, normalisation(pixels))


def _shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def _check_keeps_images(name: str, function: Augment, images: jax.ShapeDtypeStruct) -> None:
    """Raises `InputError` unless a function of a key and images returns images of their shape and dtype."""
    try:
        found = jax.eval_shape(function, jax.random.key(0), images)
    except Exception as error:
        raise InputError(
            f"{name} of images {images.shape} fails ({type(error).__name__}: {error}); it must be a pure function "
            "(key, images [B, ...] in [0, 1]) -> images"
        ) from error
    shape, dtype = getattr(found, "shape", type(found)), getattr(found, "dtype", None)
    if (shape, dtype) != (images.shape, images.dtype):
        raise InputError(f"{name} returns {dtype} {shape} for images float32 {images.shape}; keep both")


def evaluate_batch(
    network: TeacherNetwork, normalisation: Normalisation, variables: Variables, batch: Batch
) -> Metrics:
    """Sums over the examples of a batch whose `mask` is 1.

    Returns `count`; `correct` `[T]`, by the mean logits of the first t steps; `loss`, the cross-entropy in nats after
    all steps; and under `firing_rates` the rate of each layer.
    """
    mask = batch["mask"]
    outputs = StudentOutputs.of(*network.apply(variables, normalisation(batch["images"])))
    logits = outputs.logits
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.mean(axis=1), batch["labels"])
    return {
        "count": mask.sum(),
        "correct": mask @ _correct(logits, batch["labels"]),
        "loss": mask @ loss,
        "firing_rates": {name: mask @ rate for name, rate in outputs.firing_rates.items()},
    }


def _correct(logits: Array, labels: Array) -> Array:
    """Returns 1.0 where the summed logits of the first t steps are largest for the label, `[B, T, K]` to `[B, T]`."""
    return (jnp.argmax(jnp.cumsum(logits, axis=1), axis=-1) == labels[:, None]).astype(jnp.float32)
