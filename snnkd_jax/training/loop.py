"""The training loop: batches, progress, evaluation, checkpoints, interruption and resumption.

The loop never waits for the step that it has just dispatched: it reads the metrics of the one before.
"""

import contextlib
import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from snnkd_jax.data.batches import Batch, EvalBatches, Source
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.converted import diverged_thresholds
from snnkd_jax.parallel.hosts import is_host0, print_on_host0
from snnkd_jax.parallel.mesh import put_batch, put_replicated, state_sharding
from snnkd_jax.training.checkpoint import Checkpoints
from snnkd_jax.training.compiled import CompiledSteps, Evaluation, compile_steps
from snnkd_jax.training.interrupt import StopRequest
from snnkd_jax.training.metrics import EpochMetrics, MetricsLog, mean_rate
from snnkd_jax.training.profiling import Profiler
from snnkd_jax.training.trainer import Trainer, TrainState, variables_of

# A layer outside this range of firing rates transmits nothing or only a constant (the thresholds are a guess).
SILENT_RATE, SATURATED_RATE = 0.001, 0.95

Callback = Callable[[dict[str, Any]], None]
"""A function that gets the entry of every epoch: `epoch`, `loss`, each term, `accuracy`, `validation` if any, ..."""


@dataclasses.dataclass(frozen=True)
class RunContext:
    """The run that a training belongs to: checkpoints in `<directory>/<role>`, the metrics log, the stop request.

    `checkpoint_every` counts training steps; None: one checkpoint per epoch. `profile` writes a trace of a few steps to
    `<directory>/profile`. `extended` is the number of epochs by which the run was extended before the present time.
    """

    directory: Path
    role: str
    log: MetricsLog
    stop: StopRequest
    checkpoint_every: int | None = None
    keep_checkpoints: int = 3
    profile: bool = False
    extended: int = 0


def train(
    trainer: Trainer,
    teacher_variables: Variables,
    training: Source,
    validation: EvalBatches | None,
    *,
    epochs: int,
    mesh: Mesh,
    context: RunContext | None = None,
    callbacks: Sequence[Callback] = (),
    fresh_from: int = 0,
    bptt_epochs: int = 0,
    initial: Variables | None = None,
) -> tuple[TrainState, CompiledSteps, list[dict[str, Any]]]:
    """Trains to the end of the last epoch, from the newest checkpoint of its run if there is one.

    Args:
        trainer, mesh: the training steps, and the devices that they run on.
        teacher_variables: variables of the trainer's teacher.
        training, validation: batches, as in `Inputs`; without validation, the entries of epochs have none.
        context: checkpoints, metrics and interruption; None writes no file, and logs call the role "network".
        fresh_from: epochs after which the optimiser begins anew: those of the run that is extended.
        epochs, callbacks, bptt_epochs, initial: as in `fit`; the first process calls the callbacks.

    Returns:
        The final state, the compiled steps, with which it can be evaluated, and the entries of all epochs.

    Raises:
        InputError: if the loss is no longer finite.
        Interrupted: after a signal of `StopRequest`, when the state has been saved.
    """
    steps = through_time = compile_steps(trainer, mesh)
    if bptt_epochs:
        through_time = compile_steps(
            dataclasses.replace(trainer, network=dataclasses.replace(trainer.network, rate_module=None)), mesh
        )
    batch_size, steps_per_epoch = training.batch_size, training.steps_per_epoch
    num_steps = epochs * steps_per_epoch
    role, checkpoints, state, history, profile_directory = "network", None, None, [], None
    if context is not None:
        role = context.role
        checkpoints = Checkpoints(context.directory / role, mesh, context.keep_checkpoints)
        state = checkpoints.restore(jax.eval_shape(trainer.init))
        profile_directory = context.directory / "profile" if context.profile and is_host0() else None
    state = state or steps.init(initial)
    start = int(state.step)
    if fresh_from and start == fresh_from * steps_per_epoch:
        init, variables = trainer.init_optimizer, (state.params, state.batch_stats)
        sharding = state_sharding(mesh, jax.eval_shape(init, *variables))
        state = state._replace(opt_state=jax.jit(init, out_shardings=sharding)(*variables))
    if context is not None:
        history = context.log.rewind(role, start)
    if 0 < start < num_steps:
        print_on_host0(f"{role}: resumed at step {start} of {num_steps}")
    teacher_variables = put_replicated(mesh, teacher_variables)
    epoch_metrics, warned = EpochMetrics(), set()
    progress = tqdm(
        desc=role,
        total=num_steps * batch_size,
        initial=start * batch_size,
        unit=" images",
        unit_scale=True,
        # None: on a terminal only; elsewhere one line per epoch is enough. A program without a console has no stderr.
        disable=None if is_host0() and sys.stderr is not None else True,
        dynamic_ncols=True,
    )
    output = contextlib.nullcontext if context is None else context.stop.saved_if_output_is_lost
    closing = contextlib.nullcontext() if checkpoints is None else contextlib.closing(checkpoints)
    with closing, Profiler(profile_directory, start, num_steps) as profiler, progress:
        if context is not None and start < num_steps and context.stop.poll():  # do not compile first
            raise context.stop.interrupted(f"{role}: stopped before step {start + 1} of {num_steps}")
        for step in range(start, num_steps):
            batch = put_batch(mesh, training(step))
            profiler.before(step)
            with jax.transfer_guard("disallow"), jax.profiler.StepTraceAnnotation(role, step_num=step):
                if steps.teach is not None and "teacher" not in batch:
                    # Not inside the step, where XLA rounds differently: so they are those of a store bit for bit.
                    batch["teacher"] = steps.teach(teacher_variables, state.step, trainer.teacher_images(batch))
                current = through_time if step >= num_steps - bptt_epochs * steps_per_epoch else steps
                state, metrics = current.train(state, teacher_variables, batch)
            profiler.after(step, metrics)
            epoch_metrics.add(metrics)
            epoch = step // steps_per_epoch + 1
            shown = {name: f"{value:.3f}" for name, value in epoch_metrics.latest.items() if name != "grad_norm"}
            with output():
                progress.update(batch_size)
                progress.set_postfix({"epoch": epoch} | shown)
            if (step + 1) % steps_per_epoch == 0:
                means = epoch_metrics.take(batch_size)
                if not math.isfinite(means["loss"]):
                    raise InputError(
                        f"{role} diverged: the mean loss of epoch {epoch} is {means['loss']}; try a lower "
                        "learning_rate or clip_norm=1, in another run_dir"
                    )
                entry = {"phase": role, "epoch": epoch, "step": step + 1, **means}
                if validation is not None:
                    entry["validation"] = evaluate(steps.evaluate, variables_of(state), validation(), mesh)
                history.append(entry)
                if context is not None:
                    context.log.write(entry)
                with output():
                    print_on_host0(_epoch_line(entry, epochs))
                where = f"{role}, epoch {epoch}"
                _warn_of_rates(where, entry.get("validation", {}).get("firing_rates", {}), warned)
                _warn_of_thresholds(where, trainer.network, variables_of(state), warned)
                for callback in callbacks if is_host0() else ():
                    callback(dict(entry))
            if context is None or checkpoints is None:
                continue
            stopping = context.stop.poll()
            if stopping or step + 1 == num_steps or (step + 1) % (context.checkpoint_every or steps_per_epoch) == 0:
                checkpoints.save(state)
            if stopping:  # closing the checkpoints waits until they are on disk
                raise context.stop.interrupted(f"{role}: stopped at step {step + 1} of {num_steps} and saved")
    return state, steps, history


def evaluate(evaluation: Evaluation, variables: Variables, batches: Iterable[Batch], mesh: Mesh) -> dict[str, Any]:
    """Evaluates on all examples of the batches, of which each process supplies its own rows.

    Returns `accuracy` in [0, 1] after all steps; `accuracy_by_step`, after the first 1, 2, ..., T steps; `loss`, the
    mean cross-entropy in nats; `firing_rate`, the mean of the layers' rates; and `firing_rates` by layer.
    """
    sums = None
    for batch in batches:
        part = evaluation(variables, put_batch(mesh, batch))
        sums = part if sums is None else jax.tree.map(lambda a, b: a + b, sums, part)
    sums = jax.device_get(sums)
    count = float(sums["count"])
    by_step = [float(correct) / count for correct in sums["correct"]]
    rates = {name: float(rate) / count for name, rate in sums["firing_rates"].items()}
    return {
        "accuracy": by_step[-1],
        "accuracy_by_step": by_step,
        "loss": float(sums["loss"]) / count,
        "firing_rate": mean_rate(rates),
        "firing_rates": rates,
    }


def _epoch_line(entry: dict[str, Any], epochs: int) -> str:
    hidden = ("phase", "epoch", "step", "averaged_steps", "validation", "grad_norm", "seconds", "images_per_second")
    means = [f"{name} {value:.3f}" for name, value in entry.items() if name not in hidden]
    validation = [f"val accuracy {entry['validation']['accuracy']:.4f}"] if "validation" in entry else []
    speed = f"{entry['images_per_second']:.0f} images/s"
    return "  ".join([f"{entry['phase']}: epoch {entry['epoch']}/{epochs}", *means, *validation, speed])


def _warn_of_rates(where: str, rates: dict[str, float], warned: set[str]) -> None:
    """Warns of silent and saturated layers, of each once per training."""
    for state, low, high in (("silent", -math.inf, SILENT_RATE), ("saturated", SATURATED_RATE, math.inf)):
        if found := [name for name, rate in rates.items() if low < rate < high and name not in warned]:
            warned.update(found)
            listed = ", ".join(f"{name} ({rates[name]:.4f})" for name in found)
            warnings.warn(f"{where}: {state} layers (spikes per neuron and step): {listed}", stacklevel=3)


def _warn_of_thresholds(where: str, network: Network, variables: Variables, warned: set[str]) -> None:
    """Warns of thresholds of quantised activations that have diverged, of each layer once per training."""
    thresholds = diverged_thresholds(network, variables)
    if found := [name for name in thresholds if name not in warned]:
        warned.update(found)
        listed = ", ".join(f"{name} ({thresholds[name]:g})" for name in found)
        advice = "such a network cannot be converted or teach; train it with a lower learning rate"
        warnings.warn(f"{where}: learned thresholds that diverged: {listed}; {advice}", stacklevel=3)
