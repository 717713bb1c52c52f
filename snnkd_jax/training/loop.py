"""The training loop: batches, progress, evaluation, checkpoints, interruption and resumption.

The loop never waits for the step that it has just started: it reads the metrics of the one before.
"""

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from snnkd_jax.data.batches import Batch, EvalBatches, Source
from snnkd_jax.errors import InputError
from snnkd_jax.models import Variables
from snnkd_jax.parallel.hosts import is_host0, print_on_host0
from snnkd_jax.parallel.mesh import put_batch, put_replicated
from snnkd_jax.training.checkpoint import Checkpoints
from snnkd_jax.training.compiled import CompiledSteps, Evaluation, compile_steps
from snnkd_jax.training.interrupt import Interrupted, StopRequest
from snnkd_jax.training.metrics import EpochMetrics, MetricsLog, mean_rate
from snnkd_jax.training.profiling import Profiler
from snnkd_jax.training.trainer import Trainer, TrainState, variables_of

# A layer outside this range of firing rates passes nothing on, or nothing but a constant (thresholds are a guess).
SILENT_RATE, SATURATED_RATE = 0.001, 0.95

Callback = Callable[[dict[str, Any]], None]
"""Called with the entry of every epoch: `epoch`, `loss`, each term, `accuracy`, `validation`, ..."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a training is kept: checkpoints in `<directory>/<role>`, metrics in the log, and who may stop it."""

    directory: Path
    role: str
    log: MetricsLog
    stop: StopRequest
    checkpoint_every: int | None = None
    """Steps between checkpoints; None: one per epoch."""
    keep_checkpoints: int = 3
    profile: bool = False
    """Write a trace of a few steps to `<directory>/profile`."""


def train(
    trainer: Trainer,
    teacher_variables: Variables,
    training: Source,
    validation: EvalBatches,
    *,
    epochs: int,
    mesh: Mesh,
    place: Place | None = None,
    callbacks: Sequence[Callback] = (),
    bptt_epochs: int = 0,
    initial: Variables | None = None,
) -> tuple[TrainState, CompiledSteps, list[dict[str, Any]]]:
    """Trains to the end of the last epoch, from the newest checkpoint at its place if there is one.

    Args:
        trainer, mesh: what is trained, and on which devices.
        teacher_variables: of the trainer's teacher.
        training, validation: batches, as `Inputs` has them.
        place: checkpoints, metrics and interruption; None writes no file, and logs call the role "network".
        epochs, callbacks, bptt_epochs, initial: as in `fit`; the first process calls the callbacks.

    Returns:
        The final state, the compiled steps, with which it can be evaluated, and the entries of all epochs.

    Raises:
        InputError: if the loss is no longer finite.
        Interrupted: after SIGTERM or SIGINT, when the state has been saved.
    """
    steps = compile_steps(trainer, mesh)
    exact = steps
    if bptt_epochs:
        exact = compile_steps(dataclasses.replace(trainer, network=trainer.network.through_time()), mesh)
    batch_size, steps_per_epoch = training.batch_size, training.steps_per_epoch
    num_steps = epochs * steps_per_epoch
    role, checkpoints, state, history = "network", None, None, []
    if place is not None:
        role = place.role
        checkpoints = Checkpoints(place.directory / role, place.keep_checkpoints)
        state = checkpoints.restore(jax.eval_shape(trainer.init), mesh)
    if state is None:
        state = steps.init(initial)
    start = int(state.step)
    if place is not None:
        history = place.log.rewind(role, start)
    if 0 < start < num_steps:
        print_on_host0(f"{role}: resumed at step {start} of {num_steps}")
    teacher_variables = put_replicated(mesh, teacher_variables)
    epoch_metrics, warned = EpochMetrics(), set()
    profiled = place.directory / "profile" if place is not None and place.profile and is_host0() else None
    progress = tqdm(
        desc=role,
        total=num_steps * batch_size,
        initial=start * batch_size,
        unit=" images",
        unit_scale=True,
        disable=None if is_host0() else True,  # None: on a terminal only; elsewhere an epoch's line has to do
        dynamic_ncols=True,
    )
    closing = contextlib.nullcontext() if checkpoints is None else contextlib.closing(checkpoints)
    with closing, Profiler(profiled, start, num_steps) as profiler, progress:
        for step in range(start, num_steps):
            batch = put_batch(mesh, training(step))
            profiler.before(step)
            with jax.transfer_guard("disallow"), jax.profiler.StepTraceAnnotation(role, step_num=step):
                if steps.teach is not None and "teacher" not in batch:
                    # Not inside the step, where it is compiled with the rest and rounds otherwise: so its outputs are
                    # those of a store bit for bit.
                    batch["teacher"] = steps.teach(teacher_variables, state.step, batch["images"])
                finishing = step >= num_steps - bptt_epochs * steps_per_epoch
                state, metrics = (exact if finishing else steps).train(state, teacher_variables, batch)
            profiler.after(step, metrics)
            epoch_metrics.add(metrics)
            progress.update(batch_size)
            epoch = step // steps_per_epoch + 1
            shown = {name: f"{value:.3f}" for name, value in epoch_metrics.latest.items() if name != "grad_norm"}
            progress.set_postfix({"epoch": epoch} | shown)
            end_of_epoch = (step + 1) % steps_per_epoch == 0
            if end_of_epoch:
                means = epoch_metrics.take(batch_size)
                if not math.isfinite(means["loss"]):
                    raise InputError(
                        f"{role} diverged: the mean loss of epoch {epoch} is {means['loss']}; try a lower "
                        "learning_rate or clip_norm=1, in another run_dir"
                    )
                found = evaluate(steps.evaluate, variables_of(state), validation(), mesh)
                entry = {"phase": role, "epoch": epoch, "step": step + 1, **means, "validation": found}
                history.append(entry)
                if place is not None:
                    place.log.write(entry)
                print_on_host0(_epoch_line(entry, epochs))
                _warn_of_rates(f"{role}, epoch {epoch}", found["firing_rates"], warned)
                for callback in callbacks if is_host0() else ():
                    callback(dict(entry))
            if place is None or checkpoints is None:
                continue
            every = place.checkpoint_every
            due = end_of_epoch if every is None else (step + 1) % every == 0
            stopping = place.stop.asked()
            if due or stopping or step + 1 == num_steps:
                checkpoints.save(state)
            if stopping:
                checkpoints.wait()
                message = f"{role}: stopped at step {step + 1} of {num_steps} and saved; run the same command to resume"
                raise Interrupted(message, place.stop.exit_status)
    return state, steps, history


def evaluate(evaluation: Evaluation, variables: Variables, batches: Iterable[Batch], mesh: Mesh) -> dict[str, Any]:
    """Evaluates on all examples of the batches, of which each process gives its own rows.

    Returns `accuracy` in [0, 1] by all steps; `accuracy_by_step`, by the first 1, 2, ..., T steps; `loss`, the mean
    cross-entropy in nats; `firing_rate`, the mean of the layers' rates; and `firing_rates` by layer.
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
    parts = [f"{entry['phase']}: epoch {entry['epoch']}/{epochs}"]
    hidden = ("phase", "epoch", "step", "averaged_steps", "validation", "grad_norm", "seconds", "images_per_second")
    parts += [f"{name} {value:.3f}" for name, value in entry.items() if name not in hidden]
    parts += [f"val accuracy {entry['validation']['accuracy']:.4f}", f"{entry['images_per_second']:.0f} images/s"]
    return "  ".join(parts)


def _warn_of_rates(where: str, rates: dict[str, float], warned: set[str]) -> None:
    """Names silent and saturated layers, each once per training."""
    new = {name: rate for name, rate in rates.items() if name not in warned}
    for state, found in (
        ("silent", {name: rate for name, rate in new.items() if rate < SILENT_RATE}),
        ("saturated", {name: rate for name, rate in new.items() if rate > SATURATED_RATE}),
    ):
        if found:
            warned.update(found)
            listed = ", ".join(f"{name} ({rate:.4f})" for name, rate in found.items())
            warnings.warn(f"{where}: {state} layers (spikes per neuron and step): {listed}", stacklevel=3)
