"""Trains one network: batches, progress, evaluation, checkpoints, interruption and resumption.

The loop never waits for the step that it has just started: it reads the metrics of the one before.
"""

import dataclasses
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from snnkd_jax.data.batches import Batch, EvalBatches, Source
from snnkd_jax.errors import InputError
from snnkd_jax.models import Variables
from snnkd_jax.parallel.hosts import is_first, say
from snnkd_jax.parallel.mesh import put_batch, put_replicated
from snnkd_jax.training.checkpoint import Checkpoints
from snnkd_jax.training.compiled import CompiledEvaluation, CompiledSteps, compile_steps
from snnkd_jax.training.interrupt import Interrupted, StopRequest
from snnkd_jax.training.metrics import EpochMetrics, MetricsLog, mean_rate
from snnkd_jax.training.profiling import Profiler
from snnkd_jax.training.trainer import Trainer, TrainState

# A layer outside this range of firing rates passes nothing on, or nothing but a constant (thresholds are a guess).
SILENT_RATE, SATURATED_RATE = 0.001, 0.95


def fit(
    phase: str,
    trainer: Trainer,
    teacher_variables: Variables,
    training: Source,
    validation: EvalBatches,
    *,
    epochs: int,
    mesh: Mesh,
    run_dir: Path,
    log: MetricsLog,
    stop: StopRequest,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 3,
    profile: bool = False,
    bptt_epochs: int = 0,
    initial: Variables | None = None,
) -> tuple[TrainState, CompiledSteps]:
    """Trains to the end of the last epoch, from the newest checkpoint in `<run_dir>/<phase>` if there is one.

    Args:
        phase: names the network in logs and directories.
        trainer: what is trained, and how.
        teacher_variables: of the trainer's teacher; an empty dict without one.
        training: where batches come from; it says how large they are and how many make an epoch.
        validation: begins a pass over the examples that are held out.
        epochs: how long.
        mesh: the devices.
        run_dir, log: where checkpoints and metrics go.
        stop: asked after every step.
        checkpoint_every: steps between checkpoints; None saves at the end of each epoch.
        keep_checkpoints: how many are kept.
        profile: write a trace of a few steps to `<run_dir>/profile`.
        bptt_epochs: so many epochs at the end differentiate a network of rates through time.
        initial: the weights that the network begins with, as in `Trainer.init`.

    Returns:
        The final state, and the compiled steps, with which it can be evaluated.

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
    checkpoints = Checkpoints(run_dir / phase, keep_checkpoints)
    state = checkpoints.restore(jax.eval_shape(trainer.init), mesh)
    if state is None:
        state = steps.init(initial)
    start = int(state.step)
    log.rewind(phase, start)
    if 0 < start < num_steps:
        say(f"{phase}: resumed at step {start} of {num_steps}")
    teacher_variables = put_replicated(mesh, teacher_variables)
    epoch_metrics = EpochMetrics()
    warned: set[str] = set()
    try:
        with (
            Profiler(run_dir / "profile" if profile and is_first() else None, start, num_steps) as profiler,
            tqdm(
                desc=phase,
                total=num_steps * batch_size,
                initial=start * batch_size,
                unit=" images",
                unit_scale=True,
                disable=None if is_first() else True,  # None: on a terminal only; elsewhere an epoch's line has to do
                dynamic_ncols=True,
            ) as progress,
        ):
            for step in range(start, num_steps):
                batch = put_batch(mesh, training(step))
                profiler.before(step)
                with jax.transfer_guard("disallow"), jax.profiler.StepTraceAnnotation(phase, step_num=step):
                    if steps.teach is not None and "teacher" not in batch:
                        # Not inside the step, where it is compiled with the rest and rounds otherwise: so its outputs
                        # are those of a store bit for bit.
                        batch["teacher"] = steps.teach(teacher_variables, state.step, batch["images"])
                    finishing = step >= num_steps - bptt_epochs * steps_per_epoch
                    state, metrics = (exact if finishing else steps).train(state, teacher_variables, batch)
                profiler.after(step, metrics)
                epoch_metrics.add(metrics)
                progress.update(batch_size)
                progress.set_postfix({"epoch": step // steps_per_epoch + 1} | _shown(epoch_metrics.latest))
                end_of_epoch = (step + 1) % steps_per_epoch == 0
                if end_of_epoch:
                    means = epoch_metrics.take(batch_size)
                    if not math.isfinite(means["loss"]):
                        raise InputError(
                            f"{phase} diverged: the mean loss of epoch {(step + 1) // steps_per_epoch} is "
                            f"{means['loss']}; try a lower learning_rate or clip_norm=1, in another run_dir"
                        )
                    entry = {
                        "phase": phase,
                        "epoch": (step + 1) // steps_per_epoch,
                        "step": step + 1,
                        **means,
                        "validation": evaluate(steps, variables_of(state), validation(), mesh),
                    }
                    log.write(entry)
                    say(_epoch_line(entry, epochs))
                    _warn_of_rates(f"{phase}, epoch {entry['epoch']}", entry["validation"]["firing_rates"], warned)
                due = end_of_epoch if checkpoint_every is None else (step + 1) % checkpoint_every == 0
                stopping = stop.asked()
                if due or stopping or step + 1 == num_steps:
                    checkpoints.save(state)
                if stopping:
                    checkpoints.wait()
                    message = f"{phase}: stopped at step {step + 1} of {num_steps} and saved; the same command goes on"
                    raise Interrupted(message, stop.exit_status)
    finally:
        checkpoints.close()
    return state, steps


def variables_of(state: TrainState) -> Variables:
    """The network's variables, without connectors."""
    return {"params": state.params["network"], "batch_stats": state.batch_stats["network"]}


def evaluate(steps: CompiledEvaluation, variables: Variables, batches: Iterable[Batch], mesh: Mesh) -> dict[str, Any]:
    """Evaluates on all examples of the batches, of which each process gives its own rows.

    Returns:
        `accuracy` in [0, 1] by all steps; `accuracy_by_step`, by the first 1, 2, ..., T steps; `loss`, the mean
        cross-entropy in nats; `firing_rate`, the mean of the layers' rates; and `firing_rates` by layer.
    """
    sums = None
    for batch in batches:
        part = steps.evaluate(variables, put_batch(mesh, batch))
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


def _shown(metrics: dict[str, Any]) -> dict[str, str]:
    """The progress bar's fields: losses, accuracy, mean firing rate."""
    return {name: f"{value:.3f}" for name, value in metrics.items() if value is not None and name != "grad_norm"}


def _epoch_line(entry: dict[str, Any], epochs: int) -> str:
    parts = [f"{entry['phase']}: epoch {entry['epoch']}/{epochs}"]
    hidden = ("phase", "epoch", "step", "averaged_steps", "validation", "grad_norm", "seconds", "images_per_second")
    parts += [f"{name} {value:.3f}" for name, value in entry.items() if name not in hidden]
    parts += [f"val accuracy {entry['validation']['accuracy']:.4f}", f"{entry['images_per_second']:.0f} images/s"]
    return "  ".join(parts)


def _warn_of_rates(where: str, rates: dict[str, float], warned: set[str]) -> None:
    """Names silent and saturated layers, each once a run."""
    for state, names in (
        ("silent", [name for name, rate in rates.items() if rate < SILENT_RATE]),
        ("saturated", [name for name, rate in rates.items() if rate > SATURATED_RATE]),
    ):
        if new := [name for name in names if name not in warned]:
            warned.update(new)
            listed = ", ".join(f"{name} ({rates[name]:.4f})" for name in new)
            warnings.warn(f"{where}: {state} layers (spikes per neuron and step): {listed}", stacklevel=3)
