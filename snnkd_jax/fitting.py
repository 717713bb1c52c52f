"""Trains one network from objects: data, network, teacher, objective, optimiser, augmentation.

    data = from_arrays(train=(x, y), test=(xt, yt))
    teacher = fit(build("resnet18", num_classes=7), data)
    student = fit(build("resnet18", num_classes=7, neuron=LIF(), num_steps=4), data, teacher=teacher)

Nothing else trains: `experiment.run` builds the objects from a configuration and calls `fit`.
"""

import contextlib
import dataclasses
import functools
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
from snnkd_jax.data.inputs import Data, Inputs
from snnkd_jax.digest import fingerprint, jaxpr_digest, sha256, title
from snnkd_jax.distill.objective import Objective
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.files import read_json, write_json
from snnkd_jax.inference.trained import Trained, load
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.description import describe_network
from snnkd_jax.parallel.compiler import compilation_cache
from snnkd_jax.parallel.hosts import (
    broadcast_from_host0,
    check_equal_on_all_hosts,
    host0_first,
    is_distributed,
    is_host0,
    print_on_host0,
)
from snnkd_jax.parallel.mesh import check_batch_size, data_mesh
from snnkd_jax.runs.result import result_of
from snnkd_jax.runs.run_dir import content_digests, open_run_dir, report_disk_full
from snnkd_jax.training.compiled import Evaluation
from snnkd_jax.training.interrupt import StopRequest
from snnkd_jax.training.loop import Callback, Place, evaluate, train
from snnkd_jax.training.metrics import MetricsLog
from snnkd_jax.training.optim import make_optimizer
from snnkd_jax.training.saved import describe, write_network
from snnkd_jax.training.teacher_store import taught_source
from snnkd_jax.training.trainer import Trainer, variables_of

Optimizer = optax.GradientTransformation | Callable[[int], optax.GradientTransformation] | None


def fit(
    network: Network,
    data: Data,
    *,
    teacher: Trained | Teacher | None = None,
    objective: Objective | None = None,
    optimizer: Optimizer = None,
    augment: Augment | None = None,
    callbacks: Sequence[Callback] = (),
    epochs: int = 10,
    batch_size: int = 128,
    seed: int = 0,
    run_dir: str | Path | Place | None = None,
    initial: Variables | None = None,
    bptt_epochs: int = 0,
    accumulate: int = 1,
    fsdp: int | None = None,
    store_teacher: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 3,
) -> Trained:
    """Trains a network, or resumes its training, and tests it.

    Args:
        network: of `build`, or `Network(module, num_steps)` of a Flax Linen module.
        data: of `data.from_arrays` or `data.load`.
        teacher: a trained network, or any function as a `Teacher`; None: no teacher.
        objective: a preset or a sum of terms; None: `PRESETS["temporal"]` with a teacher, else the cross-entropy.
        optimizer: an optax transformation, or a function of the number of training steps that makes one; None: SGD with
            a cosine schedule (`default_optimizer`).
        augment: a pure function `(key, images [B, ...] in [0, 1]) -> images`, applied to every training batch; None:
            nothing.
        callbacks: each is called with the dictionary of every epoch as soon as it is known.
        epochs: training epochs.
        batch_size: images per training step, over all devices.
        seed: of weights, batches, augmentation and the validation split.
        run_dir: directory of checkpoints, metrics and report; the same call resumes or, when it is finished, loads the
            training in it. None writes no file. A `Place` is one that is open already.
        initial: weights, such as `teacher.variables`, of a network of the same architecture; None: random ones.
        bptt_epochs: of a network with `backprop="rate"`, so many epochs at the end are differentiated through time.
        accumulate: parts of a batch that are computed one after another, in the memory of one.
        fsdp: shard parameters and optimiser state over so many devices; None: replicated.
        store_teacher: folder in which the teacher's outputs are kept for other students; None: computed in each step.
        checkpoint_every: training steps between checkpoints; None: one per epoch.
        keep_checkpoints: checkpoints kept.

    Returns:
        The trained network, with `history`, one dictionary per epoch, and `test_accuracy`.

    Raises:
        InputError: for whatever does not fit together, before anything is trained; if the loss diverges; if `run_dir`
            holds another training.
        Interrupted: with `run_dir`, after SIGTERM or SIGINT, when everything has been saved.
    """
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("accumulate", accumulate)):
        check_count(name, value)
    check_count("seed", seed, 0)
    check_count("keep_checkpoints", keep_checkpoints)
    if checkpoint_every is not None:
        check_count("checkpoint_every", checkpoint_every)
    if not isinstance(network, Network):
        raise InputError(
            f"network is a {type(network).__name__}; give snnkd_jax.build(...), or snnkd_jax.Network(module, num_steps)"
        )
    if not (teacher is None or isinstance(teacher, Trained | Teacher)):
        raise InputError(
            f"teacher is a {type(teacher).__name__}; give what fit or load returned, snnkd_jax.Teacher(function, "
            "variables), or None"
        )
    if not (objective is None or isinstance(objective, Objective)):
        raise InputError(f"objective={objective!r} must be an Objective, such as snnkd_jax.PRESETS['temporal']")
    if not hasattr(data, "inputs"):
        raise InputError(f"data is a {type(data).__name__}; give snnkd_jax.data.from_arrays(...) or data.load(name)")
    if callable(callbacks):
        raise InputError("callbacks must be a sequence of functions; give [callback]")
    if isinstance(teacher, Trained) and teacher.image_shape[-1] != data.image_shape[-1]:
        raise InputError(
            f"the teacher takes images of {teacher.image_shape[-1]} channels, {data.name} has {data.image_shape[-1]}"
        )
    if not 0 <= bptt_epochs <= epochs:
        raise InputError(f"bptt_epochs={bptt_epochs!r} must be in 0 to epochs={epochs}")
    if bptt_epochs and network.rate_body is None:
        raise InputError(f"bptt_epochs={bptt_epochs!r} goes with a network of backprop='rate'")
    mesh = data_mesh(fsdp)
    check_batch_size(batch_size, mesh, accumulate)
    teacher = teacher.as_teacher() if isinstance(teacher, Trained) else teacher
    if objective is None:
        objective = PRESETS["none" if teacher is None else "temporal"]
    inputs = data.inputs(batch_size, seed)
    trainer = make_trainer(
        network,
        data,
        batch_size,
        teacher=teacher,
        teacher_normalisation=None if teacher is None else teacher.normalisation,
        objective=objective,
        optimizer=_made(optimizer, epochs, inputs.training.steps_per_epoch),
        augment=augment if augment is None or isinstance(augment, Augmentation) else InUnitRange(augment),
        seed=seed,
        accumulate=accumulate,
    )
    training = functools.partial(
        _trained,
        trainer,
        data,
        inputs,
        mesh,
        teacher,
        store_teacher,
        epochs=epochs,
        callbacks=callbacks,
        bptt_epochs=bptt_epochs,
        initial=initial,
    )
    if run_dir is None or isinstance(run_dir, Place):
        return training(run_dir)
    described = describe_network(network, data.image_shape)
    options = {
        "network": {k: v for k, v in described.items() if k not in ("digest", "jax")},
        **data.metadata,
        "teacher": None if teacher is None else teacher.title,
        "teacher_normalisation": teacher and teacher.normalisation and dataclasses.asdict(teacher.normalisation),
        "objective": objective.described(),
        "augment": None if trainer.augment is None else title(trainer.augment),
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "accumulate": accumulate,
        "bptt_epochs": bptt_epochs,
        "initial": None if initial is None else fingerprint(initial),
    }
    directory = Path(run_dir)
    role = "teacher" if network.num_steps is None and teacher is None else "student"
    with StopRequest() as stop, report_disk_full(directory):
        check_equal_on_all_hosts("their arguments", repr(options).encode())
        check_equal_on_all_hosts("their copies of the data set", data.identity)
        digests = _digests(trainer, None if teacher is None else teacher.variables)
        contents = content_digests(data.identity) | {"digests": digests}
        with opened_run(directory, {"fit": options}, contents) as log:
            if log is None:
                return load(directory, network=network)
            print_on_host0(f"run directory {directory}")
            trained = training(Place(directory, role, log, stop, checkpoint_every, keep_checkpoints))
        if role == "student":
            keep_observation(trained, inputs, directory)
        finish_run(directory, {role: trained.result}, log)
        return trained


def default_optimizer(num_steps: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD with Nesterov momentum 0.9, peak learning rate 0.1, a cosine schedule and weight decay 5e-4.

    The warm-up takes an epoch, but no more than a tenth of the training.
    """
    warmup_steps = min(steps_per_epoch, num_steps // 10)
    return make_optimizer("sgd", learning_rate=0.1, num_steps=num_steps, warmup_steps=warmup_steps, weight_decay=5e-4)


def _made(optimizer: Optimizer, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """The transformation; raises `InputError` for anything else."""
    made: Any = optimizer or functools.partial(default_optimizer, steps_per_epoch=steps_per_epoch)
    if not hasattr(made, "update") and callable(made):
        made = made(epochs * steps_per_epoch)
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise InputError(f"optimizer={optimizer!r} must be an optax transformation, or make one of the number of steps")
    return made


def make_trainer(network: Network, data: Data, batch_size: int, **options: Any) -> Trainer:
    """The `Trainer` with further `options`; raises `InputError` if something does not fit together."""
    if data.frames is not None and network.num_steps not in (None, data.frames):
        raise InputError(f"data has {data.frames} frames per example, the network num_steps={network.num_steps}")
    about = {"normalisation": data.normalisation, "image_shape": data.image_shape, "frames": data.frames}
    trainer = Trainer(network, **about, **options)
    if batch_size == trainer.accumulate:  # a batch norm that compares nothing in one image raises
        variables = variables_of(jax.eval_shape(trainer.init))
        jax.eval_shape(network.apply_train, variables, trainer.pixels(1), jax.random.key(0))
    if trainer.guidance.num_classes != len(data.class_names):
        raise InputError(
            f"{network.title} gives {trainer.guidance.num_classes} logits, and {data.name} has {len(data.class_names)} "
            "classes; they must be the same number"
        )
    return trainer


def _trained(
    trainer: Trainer,
    data: Data,
    inputs: Inputs,
    mesh: Mesh,
    teacher: Teacher | None,
    store_teacher: str | Path | None,
    place: Place | None,
    *,
    epochs: int,
    **options: Any,
) -> Trained:
    """Trains as `train` does, with a store of the teacher's outputs or without, and tests."""
    source = inputs.training
    teacher_variables: Any = () if teacher is None else teacher.variables
    if store_teacher is not None and teacher is not None and trainer.is_guided:
        source = taught_source(
            source,
            Path(store_teacher),
            trainer,
            teacher_variables,
            num_steps=epochs * source.steps_per_epoch,
            mesh=mesh,
            described={"teacher": teacher.title, "images": sha256(data.identity)},
        )
    state, steps, history = train(
        trainer, teacher_variables, source, inputs.validation, epochs=epochs, mesh=mesh, place=place, **options
    )
    network, variables, normalisation = trainer.network, variables_of(state), data.normalisation
    if place is not None:
        # Written last: a network without it is not trained to its end.
        write_network(place.directory / place.role, describe(network, data, normalisation))
    result = tested(steps.evaluate, variables, inputs, mesh)
    about = (data.image_shape, data.class_names, data.name)
    return Trained(network, variables, normalisation, *about, tuple(history), result)


def tested(evaluation: Evaluation, variables: Any, inputs: Inputs, mesh: Mesh) -> dict[str, Any]:
    """`evaluate` on the test set, and the number of `parameters`, also of a teacher's variables of any form."""
    params = variables["params"] if isinstance(variables, dict) and "params" in variables else variables
    parameters = sum(np.size(x) for x in jax.tree.leaves(params))
    return evaluate(evaluation, variables, inputs.test(), mesh) | {"parameters": parameters}


def _digests(trainer: Trainer, teacher_variables: Any) -> dict[str, str | None]:
    """Digests of what no file holds: what network, objective, optimiser and augmentation compute."""
    state = jax.eval_shape(trainer.init)
    variables, pixels = variables_of(state), trainer.pixels(2)

    # Gradients, because of those that a function gives itself, such as a surrogate's.
    def network(params: Any, batch_stats: Any, images: Any, key: Any) -> Any:
        return trainer.network.apply_train({"params": params, "batch_stats": batch_stats}, images, key)[0][0].sum()

    def objective(student: Any, *others: Any) -> Any:
        return sum(values.sum() for values in trainer.guidance.values(student, *others)[0].values())

    def update(params: Any) -> Any:
        return trainer.optimizer.update(params, trainer.optimizer.init(params), params)

    teacher = trainer.teacher if trainer.is_guided else None
    return {
        "network": jaxpr_digest(
            jax.grad(network), variables["params"], variables["batch_stats"], pixels, jax.random.key(0)
        ),
        "objective": jaxpr_digest(jax.grad(objective), *trainer.guidance.probe()),
        "optimizer": jaxpr_digest(update, state.params),
        "augment": trainer.augment_digest,
        "teacher": None if teacher is None else jaxpr_digest(teacher.apply, teacher_variables, pixels),
    }


@contextlib.contextmanager
def opened_run(directory: Path, what: dict[str, Any], contents: dict[str, Any]) -> Iterator[MetricsLog | None]:
    """The log of a run that is begun or resumed, None if it is finished; arguments and errors as of `open_run_dir`."""
    host0_first(lambda: open_run_dir(directory, what, contents))
    if is_finished(directory):
        yield None
        return
    with contextlib.closing(MetricsLog(directory)) as log, compilation_cache(directory / "compilation-cache"):
        yield log


def is_finished(directory: Path) -> bool:
    """Whether nothing is left to do, as the first process sees it."""
    return bool(broadcast_from_host0(int((directory / "result.json").exists())))


def finish_run(directory: Path, results: dict[str, dict[str, Any]], log: MetricsLog) -> dict[str, Any]:
    """Writes result.json and report.html, and returns what the former holds."""
    result = result_of(results) | {"seconds": log.seconds(), **read_json(directory / "config.json")}
    if is_host0():
        write_json(directory / "result.json", result)
    broadcast_from_host0(0)  # the others wait until it is written
    write_run_report(directory)
    return result


def keep_observation(student: Trained, inputs: Inputs, directory: Path) -> None:
    """Keeps what the report shows of the trained student, while the data are at hand."""
    if is_distributed() or student.network.num_steps is None:  # a process has its own rows of the test set only
        return
    with _only_warned(f"the student of {directory} cannot be observed for the report"):
        # On one device, whatever the mesh.
        observed = observe(student.network, jax.device_get(student.variables), student.normalisation, inputs.test())
        save_observation(directory / "student" / "observation.npz", observed)


def write_run_report(directory: Path) -> None:
    """Writes `report.html`; matplotlib is imported only here."""
    if is_host0():
        with _only_warned(f"{directory / 'report.html'} cannot be written"):
            from snnkd_jax.report.write import write_report

            write_report([directory])


@contextlib.contextmanager
def _only_warned(what: str) -> Iterator[None]:
    """Turns an error into a warning: no result is lost because it cannot be shown."""
    try:
        yield
    except Exception as error:
        warnings.warn(f"{what} ({type(error).__name__}: {error})", stacklevel=3)
