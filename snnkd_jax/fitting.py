"""Training of one network from objects: data, network, teacher, objective, optimiser, augmentation.

    data = from_arrays(train=(x, y), test=(xt, yt))
    teacher = fit(build("resnet18", num_classes=7), data)
    student = fit(build("resnet18", num_classes=7, neuron=LIF(), num_steps=4), data, teacher=teacher)

All training goes through `fit`: `experiment.run` builds the objects from a configuration and calls it.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from snnkd_jax.analysis.observation import observe, save_observation
from snnkd_jax.data.augment import Augment, Augmentation, InUnitRange
from snnkd_jax.data.inputs import Data, Inputs, open_inputs
from snnkd_jax.data.normalisation import as_stored
from snnkd_jax.digest import fingerprint, jaxpr_digest, sha256, title
from snnkd_jax.distill.objective import Objective
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError
from snnkd_jax.files import as_path, check_writable, is_remote, read_sealed, write_sealed
from snnkd_jax.inference.trained import Trained, load
from snnkd_jax.lock import Lock
from snnkd_jax.models import Network, Variables, whitening
from snnkd_jax.models.description import describe_network
from snnkd_jax.parallel.compiler import compilation_cache
from snnkd_jax.parallel.hosts import (
    broadcast_from_host0,
    check_equal_on_all_hosts,
    host0_first,
    is_distributed,
    is_host0,
    print_on_host0,
    raise_on_all_hosts,
)
from snnkd_jax.parallel.mesh import check_batch_size, data_mesh, put_batch, replicated
from snnkd_jax.runs.config import RunConfig
from snnkd_jax.runs.optimisation import OptimisationConfig
from snnkd_jax.runs.option import option
from snnkd_jax.runs.result import result_of
from snnkd_jax.runs.run_dir import content_digests, epochs_extended, epochs_scheduled, open_run_dir, report_disk_full
from snnkd_jax.training.compiled import Evaluation
from snnkd_jax.training.interrupt import StopRequest
from snnkd_jax.training.lookahead import Lookahead
from snnkd_jax.training.loop import Callback, RunContext, evaluate, train
from snnkd_jax.training.metrics import MetricsLog
from snnkd_jax.training.optim import make_optimizer
from snnkd_jax.training.saved import describe, write_network
from snnkd_jax.training.teacher_store import open_teacher_store
from snnkd_jax.training.trainer import Trainer, variables_of

WHITENED_IMAGES = 5000
"""The least number of training images from which whitening filters are made (Jordan 2024)."""

Optimizer = optax.GradientTransformation | Callable[[int], optax.GradientTransformation] | None


def fit(
    network: Network,
    data: Data,
    *,
    teacher: Trained | Teacher | None = None,
    objective: Objective | None = None,
    optimizer: Optimizer = None,
    augment: Augment | None = None,
    student_noise: Augment | None = None,
    callbacks: Sequence[Callback] = (),
    epochs: int = 10,
    extend: int = 0,
    batch_size: int = 128,
    seed: int = 0,
    run_dir: str | Path | RunContext | None = None,
    initial: Variables | None = None,
    bptt_epochs: int = 0,
    accumulate: int = 1,
    lookahead: int | None = None,
    fsdp: int | None = None,
    store_teacher: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 3,
) -> Trained:
    """Trains a network, or resumes its training, and tests it.

    Args:
        network: from `build`, or `Network(module, num_steps)` with a Flax Linen module.
        data: from `data.from_arrays` or `data.load`. If it has `paired` images, the teacher sees these.
        teacher: a trained network, or any function as a `Teacher`; None: no teacher.
        objective: a preset or a sum of terms; None: `PRESETS["temporal"]` with a teacher, else the cross-entropy.
        optimizer: an optax transformation, or a function from the number of training steps to one; None: SGD with
            Nesterov momentum 0.9, peak learning rate 0.1, weight decay 5e-4 and a cosine schedule, whose warm-up takes
            one epoch but at most a tenth of the training.
        augment: a pure function `(key, images [B, ...] in [0, 1]) -> images` for training batches; None: none.
        student_noise: a function like `augment`, such as `data.StudentNoise`, for the augmented images that the network
            sees in training; the teacher sees them without it. None: none.
        callbacks: functions that are called with the dictionary of every epoch as soon as it is known.
        epochs, batch_size: training epochs, and images per training step over all devices.
        extend: epochs by which the finished training in `run_dir` is continued, see below.
        seed: seed of weights, batches, augmentation, noise and the validation split.
        run_dir: directory of checkpoints, metrics and report; the same call resumes its training or loads it when it is
            finished. None writes no file. `experiment.run` gives a `RunContext`.
        initial: initial weights, such as `teacher.variables`, of a network of the same architecture; None: random, but
            for whitening filters (`models.whitening`), which are those of training images.
        bptt_epochs: number of final epochs in which a network with `backprop="rate"` is differentiated through time.
        accumulate: parts of a batch that are computed one after another, in the memory of one.
        lookahead: steps after which the weights are replaced by a moving average, again and again
            (`training.lookahead`); None: never.
        fsdp: number of devices over which parameters and optimiser state are sharded; None: replicated.
        store_teacher: folder in which the teacher's outputs are kept for other students; None: computed in each step.
        checkpoint_every, keep_checkpoints: training steps between checkpoints (None: an epoch), and how many are kept.

    An extension is not the end of one long training: it continues from the weights, running statistics and batches of
    the last epoch, but with a fresh optimiser state and a schedule of its own over the epochs that it adds, a warm
    restart (Loshchilov & Hutter 2017, arXiv 1608.03983). Only the optimiser's constants and `extend` may change.

    Returns:
        The trained network, with `history`, one dictionary per epoch, and `test_accuracy`.

    Raises:
        InputError: if arguments do not fit together; if the loss diverges; if `run_dir` holds another training.
        Interrupted: with `run_dir`, after Ctrl-C, SIGTERM or a scheduler's signal, when everything has been saved.
    """
    run = RunConfig(seed, fsdp=fsdp, checkpoint_every=checkpoint_every, keep_checkpoints=keep_checkpoints)
    counts: dict[str, Any] = {"epochs": epochs, "extend": extend, "batch_size": batch_size, "accumulate": accumulate}
    given = OptimisationConfig(**counts, lookahead=lookahead)
    for section in (run, given):
        section.check()
    epochs, extend, batch_size, accumulate = given.epochs, given.extend, given.batch_size, given.accumulate
    bptt_epochs, fsdp, seed = option("bptt_epochs", int, bptt_epochs), run.fsdp, run.seed
    for name, value, fits, advice in (
        ("network", network, isinstance(network, Network), "snnkd_jax.build(...) or Network(module, num_steps)"),
        ("teacher", teacher, isinstance(teacher, Trained | Teacher | None), "what fit or load returned, or a Teacher"),
        ("objective", objective, isinstance(objective, Objective | None), "one such as snnkd_jax.PRESETS['temporal']"),
        ("data", data, hasattr(data, "inputs"), "snnkd_jax.data.from_arrays(...) or data.load(name)"),
        ("callbacks", callbacks, not callable(callbacks), "a sequence of functions, such as [callback]"),
    ):
        if not fits:
            found = f"={value!r}" if isinstance(value, str) else f" is a {type(value).__name__}"
            raise InputError(f"{name}{found}; give {advice}")
    seen: Data = getattr(data, "paired", None) or data
    if isinstance(teacher, Trained) and teacher.image_shape[-1] != seen.image_shape[-1]:
        raise InputError(
            f"the teacher takes images of {teacher.image_shape[-1]} channels, {seen.name} has {seen.image_shape[-1]}"
        )
    if not 0 <= bptt_epochs <= epochs or (bptt_epochs and network.rate_module is None):
        raise InputError(f"bptt_epochs={bptt_epochs!r} must be in 0 to epochs={epochs}, and needs backprop='rate'")
    if extend and run_dir is None:
        raise InputError(f"extend={extend!r} continues a finished training; name its run_dir")
    mesh = data_mesh(fsdp)
    check_batch_size(batch_size, mesh, accumulate)
    if isinstance(run_dir, RunContext):
        extended = run_dir.extended
    else:
        extended = 0 if run_dir is None else epochs_extended(as_path("run_dir", run_dir), extend)
    teacher = teacher.as_teacher() if isinstance(teacher, Trained) else teacher
    objective = objective or PRESETS["none" if teacher is None else "temporal"]
    inputs = open_inputs(data, batch_size, seed)
    steps_per_epoch = inputs.training.steps_per_epoch
    scheduled = epochs_scheduled(epochs, extend, extended) * steps_per_epoch
    trainer = make_trainer(
        network,
        data,
        batch_size,
        teacher=teacher,
        teacher_normalisation=None if teacher is None else teacher.normalisation,
        objective=objective,
        optimizer=_optimizer(optimizer, scheduled, steps_per_epoch),
        augment=augment if augment is None or isinstance(augment, Augmentation) else InUnitRange(augment),
        student_noise=student_noise,
        seed=seed,
        accumulate=accumulate,
        lookahead=None if given.lookahead is None else Lookahead(given.lookahead, scheduled),
    )
    try:
        shapes = variables_of(jax.eval_shape(trainer.init, initial))
    except InputError as error:
        raise InputError(f"initial: {error}; give the weights of a network of this architecture and width") from error
    teacher_variables: Any = () if teacher is None else teacher.variables

    def trained(context: RunContext | None) -> Trained:
        source = inputs.training
        if store_teacher is not None and teacher is not None and trainer.is_guided:
            known = {"teacher": teacher.title, "images": sha256(data.identity)}
            root, total = as_path("store_teacher", store_teacher), (epochs + extend) * steps_per_epoch
            source = open_teacher_store(source, root, trainer, teacher_variables, total, mesh, known)
        start = _whitened(trainer, inputs, mesh) if initial is None and whitening.has_filters(shapes) else initial
        options: Any = {"callbacks": callbacks, "bptt_epochs": bptt_epochs, "initial": start, "mesh": mesh}
        options |= {"epochs": epochs + extend, "fresh_from": epochs + extended if extend else 0, "context": context}
        state, steps, history = train(trainer, teacher_variables, source, inputs.validation, **options)
        variables, normalisation = variables_of(state), trainer.normalisation
        if context is not None:  # written last: without it the network does not count as fully trained
            write_network(context.directory / context.role, describe(network, data, normalisation))
        result = evaluate_on_test(steps.evaluate, variables, inputs, mesh)
        about = (data.image_shape, data.class_names, data.name)
        return Trained(network, variables, normalisation, *about, tuple(history), result)

    if run_dir is None or isinstance(run_dir, RunContext):
        return trained(run_dir)
    described = describe_network(network, data.image_shape)
    options = {
        "network": {k: v for k, v in described.items() if k not in ("digest", "jax")},
        **data.metadata,
        "teacher": None if teacher is None else teacher.title,
        "teacher_normalisation": teacher and teacher.normalisation and dataclasses.asdict(teacher.normalisation),
        "objective": objective.described(),
        "augment": None if trainer.augment is None else title(trainer.augment),
        "student_noise": None if student_noise is None else title(student_noise),
        "epochs": epochs,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "extend": extend,
        "seed": seed,
        "bptt_epochs": bptt_epochs,
        "initial": None if initial is None else fingerprint(initial),
        "lookahead": given.lookahead,
    }
    directory = as_path("run_dir", run_dir)
    role = "teacher" if network.num_steps is None and teacher is None else "student"
    with StopRequest() as stop, report_disk_full(directory):
        check_equal_on_all_hosts("their arguments", repr(options).encode())
        check_equal_on_all_hosts("their copies of the data set", data.identity)
        contents = content_digests(data.identity) | {"digests": _digests(trainer, teacher_variables)}
        with opened_run(directory, {"fit": options}, contents) as log:
            if log is None:
                return load(directory, network=network)
            print_on_host0(f"run directory {directory}")
            result = trained(RunContext(directory, role, log, stop, run.checkpoint_every, run.keep_checkpoints))
        if role == "student":
            observe_student(result, inputs, directory)
        finish_run(directory, {role: result.result}, log)
        return result


def _optimizer(optimizer: Optimizer, num_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """Builds the transformation of a training of `num_steps`; raises `InputError` for anything else."""
    made: Any = optimizer
    if optimizer is None:
        warmup, decay = min(steps_per_epoch, num_steps // 10), 5e-4
        made = make_optimizer("sgd", learning_rate=0.1, num_steps=num_steps, warmup_steps=warmup, weight_decay=decay)
    elif not hasattr(made, "update") and callable(made):
        made = made(num_steps)
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise InputError(f"optimizer={optimizer!r} must be an optax transformation, or make one of the number of steps")
    return made


def _whitened(trainer: Trainer, inputs: Inputs, mesh: Mesh) -> Variables:
    """Random initial variables, but for the whitening filters of training images."""
    measure = jax.jit(
        lambda images: whitening.patch_moments(trainer.normalisation(images)), out_shardings=replicated(mesh)
    )
    images = (batch["images"] for batch in inputs.training_sample(WHITENED_IMAGES))
    moments = [np.asarray(measure(put_batch(mesh, x)), np.float64) for x in images]
    variables = trainer.network.init(jax.random.key(trainer.seed), trainer.image_shape)
    # on the host, as every process has the same
    return jax.device_get(whitening.with_filters(variables, np.mean(moments, axis=0)))


def make_trainer(network: Network, data: Data, batch_size: int, **options: Any) -> Trainer:
    """Builds the `Trainer` with further `options`; raises `InputError` if they do not fit together."""
    if data.frames is not None and network.num_steps not in (None, data.frames):
        raise InputError(f"data has {data.frames} frames per example, the network num_steps={network.num_steps}")
    about: dict[str, Any] = {name: getattr(data, name) for name in ("normalisation", "image_shape", "frames")}
    seen: Any = getattr(data, "paired", None) or data
    if seen is not data and options.get("teacher") is not None:
        about["paired_shape"] = seen.image_shape
    options["teacher_normalisation"] = options.get("teacher_normalisation") or seen.normalisation
    if network.coding != "direct":
        if data.frames is not None:
            raise InputError(f"input_coding={network.coding!r} is for static images, and {data.name} has frames")
        about["normalisation"] = as_stored(data.image_shape[-1])
    trainer = Trainer(network, **about, **options)
    if batch_size == trainer.accumulate:  # a batch norm with one value per channel raises
        variables = variables_of(jax.eval_shape(trainer.init))
        jax.eval_shape(network.apply_train, variables, trainer.pixels(1), jax.random.key(0))
    if trainer.guidance.num_classes != len(data.class_names):
        raise InputError(
            f"{network.title} gives {trainer.guidance.num_classes} logits, but {data.name} has {len(data.class_names)} "
            "classes; make the numbers equal"
        )
    return trainer


def evaluate_on_test(evaluation: Evaluation, variables: Any, inputs: Inputs, mesh: Mesh) -> dict[str, Any]:
    """Evaluates on the test set, and counts the `parameters` in variables of any form."""
    params = variables["params"] if isinstance(variables, dict) and "params" in variables else variables
    parameters = sum(np.size(x) for x in jax.tree.leaves(params))
    return evaluate(evaluation, variables, inputs.test(), mesh) | {"parameters": parameters}


def _digests(trainer: Trainer, teacher_variables: Any) -> dict[str, str | None]:
    """Digests of the computations of network, objective, optimiser, augmentation, noise and teacher, in no file."""
    state = jax.eval_shape(trainer.init)
    variables, pixels, seen = variables_of(state), trainer.pixels(2), trainer.teacher_pixels(2)

    # Gradients, because a function may define its own, such as a surrogate.
    def network(params: Any, batch_stats: Any, images: Any, key: Any) -> Any:
        return trainer.network.apply_train({"params": params, "batch_stats": batch_stats}, images, key)[0][0].sum()

    def objective(student: Any, *others: Any) -> Any:
        return sum(values.sum() for values in trainer.guidance.values(student, *others)[0].values())

    optimizer, teacher = trainer.optimizer, trainer.guidance.teacher
    return {
        "network": jaxpr_digest(
            jax.grad(network), variables["params"], variables["batch_stats"], pixels, jax.random.key(0)
        ),
        "objective": jaxpr_digest(jax.grad(objective), *trainer.guidance.probe()),
        "optimizer": jaxpr_digest(lambda p: optimizer.update(p, optimizer.init(p), p), state.params),
        "augment": trainer.digest_of(trainer.augment),
        "student_noise": trainer.digest_of(trainer.student_noise),
        "teacher": None if teacher is None else jaxpr_digest(teacher.apply, teacher_variables, seen),
    }


@contextlib.contextmanager
def opened_run(directory: Path, what: dict[str, Any], contents: dict[str, Any]) -> Iterator[MetricsLog | None]:
    """Yields the log of a new or resumed run, None if it is finished; arguments and errors as in `open_run_dir`.

    Until it is closed no other process may write into the directory.
    """
    with contextlib.ExitStack() as stack:
        with raise_on_all_hosts():
            check_writable("run_dir", directory)
            lock = stack.enter_context(Lock("run_dir", directory)) if is_host0() else None
        host0_first(lambda: open_run_dir(directory, what, contents))
        if is_finished(directory):
            if not (directory / "report.html").exists():
                write_run_report(directory)
            yield None
            return
        if not is_remote(directory):
            stack.enter_context(compilation_cache(directory / "compilation-cache"))
        yield stack.enter_context(contextlib.closing(MetricsLog(directory, lock)))


def is_finished(directory: Path) -> bool:
    """Whether the run has its result, as the first process sees it."""
    return bool(broadcast_from_host0(int((directory / "result.json").exists())))


def finish_run(directory: Path, results: dict[str, dict[str, Any]], log: MetricsLog) -> dict[str, Any]:
    """Writes result.json and report.html; returns the content of result.json."""
    result = result_of(results) | {"seconds": log.seconds(), **read_sealed(directory / "config.json")}
    if is_host0():
        write_sealed(directory / "result.json", result)
    broadcast_from_host0(0)  # the other processes wait until it is written
    write_run_report(directory)
    return result


def observe_student(student: Trained, inputs: Inputs, directory: Path) -> None:
    """Saves the student's activity on test images for the report, while the data are available."""
    if is_distributed() or student.network.num_steps is None:  # a process has only its rows of the test set
        return
    with _warn_on_error(f"the student of {directory} cannot be observed for the report"):
        variables = jax.device_get(student.variables)  # on one device, whatever the mesh
        observed = observe(student.network, variables, student.normalisation, inputs.test())
        save_observation(directory / "student" / "observation.npz", observed)


def write_run_report(directory: Path) -> None:
    """Writes `report.html`; matplotlib is imported only here."""
    if is_host0():
        with _warn_on_error(f"{directory / 'report.html'} cannot be written"):
            from snnkd_jax.report.write import write_report

            write_report([directory])


@contextlib.contextmanager
def _warn_on_error(what: str) -> Iterator[None]:
    """Turns an error into a warning: a missing figure must not cost a result."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} ({type(error).__name__}: {error})", stacklevel=3)
