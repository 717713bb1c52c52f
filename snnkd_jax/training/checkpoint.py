"""Checkpoints: written by Orbax in the background, checked bit for bit when read, damaged ones set aside.

Several processes write and read one checkpoint between them, on a file system that all see, and decide together which
step is read and whether it is damaged.

A checkpoint has two parts: "network", the variables of the network alone, and "training", the rest of the `TrainState`:
connectors and optimiser. Each carries a fingerprint of its bits, 32 for each array.
"""

import contextlib
import gc
import itertools
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from snnkd_jax.digest import checksum
from snnkd_jax.errors import InputError
from snnkd_jax.parallel.hosts import broadcast_from_host0, gather_texts, is_host0
from snnkd_jax.parallel.mesh import put_replicated, replicated, state_sharding
from snnkd_jax.training.trainer import TrainState, variables_of

Tree = Any


class Checkpoints:
    """The checkpoints `<directory>/<step>/` of one training; the newest `keep` are kept."""

    def __init__(self, directory: Path, keep: int = 3):
        import orbax.checkpoint as ocp

        class Manager(ocp.CheckpointManager):
            def reached_preemption(self, step: int) -> bool:  # noqa: ARG002
                """Left to `StopRequest`: JAX needs numbers that grow from question to question, steps begin again."""
                return False

        self._directory = directory
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        with _quiet():
            self._manager = Manager(directory.absolute(), options=options, item_names=("network", "training"))

    def save(self, state: TrainState) -> None:
        """Starts saving the state; returns once it is safe to go on with (and donate) `state`."""
        import orbax.checkpoint as ocp

        step = int(state.step)
        if step not in self._manager.all_steps():
            parts = {name: ocp.args.StandardSave(part) for name, part in _sealed_parts(state).items()}
            self._manager.save(step, args=ocp.args.Composite(**parts))

    def restore(self, template: TrainState, mesh: Mesh) -> TrainState | None:
        """The newest undamaged state, sharded as by `mesh.state_sharding`; None if there is none.

        Warns of every damaged checkpoint that is newer, and of there being none left. `template` is a state of the same
        structure, shapes and dtypes.
        """
        parts, damaged = _parts(template), 0
        while (step := broadcast_from_host0(max(self._manager.all_steps(), default=-1))) >= 0:
            try:
                read = {name: _read(self._directory / str(step) / name, part, mesh) for name, part in parts.items()}
            except DamagedCheckpoint as damage:
                self._set_aside(step, damage)
                damaged += 1
                continue
            network, training = read["network"], read["training"]
            state = {name: {"network": x, **training[name]} for name, x in network.items()}
            step = put_replicated(mesh, jnp.asarray(step, jnp.int32))
            return TrainState(step, **state, opt_state=training["opt_state"])
        if damaged:
            warnings.warn(f"none of the {damaged} checkpoints in {self._directory} can be read", stacklevel=2)
        return None

    def _set_aside(self, step: int, damage: "DamagedCheckpoint") -> None:
        """Moves a damaged checkpoint out of the way, so that its step can be saved again."""
        folder = self._directory.parent / f"{self._directory.name}-damaged"
        names = (f"{step}-{n}" if n else str(step) for n in itertools.count())
        target = next(folder / name for name in names if not (folder / name).exists())
        if is_host0():
            folder.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(target)
        broadcast_from_host0(step)  # the others look when it is done
        self._manager.reload()
        what = f"checkpoint {step} in {self._directory} is damaged ({damage}); it was moved to {target}"
        warnings.warn(f"{what}, and the one before it is used", stacklevel=3)

    def wait(self) -> None:
        """Returns when everything saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and releases the background threads."""
        self._manager.close()


def load_network(directory: Path, template: Tree, mesh: Mesh) -> Tree:
    """The variables of the newest checkpoint in the directory of a training.

    `template` has their structure, shapes and dtypes. Raises `InputError` if there is no checkpoint, or the newest is
    damaged or of another network.
    """
    path = newest(directory)
    try:
        return _read(path / "network", template, mesh)
    except DamagedCheckpoint as damage:
        raise InputError(f"checkpoint {path} is damaged or of another network ({damage})") from damage


def newest(directory: Path) -> Path:
    """The newest checkpoint in the directory of a training; raises `InputError` if it holds none."""
    step = broadcast_from_host0(
        max((int(path.name) for path in directory.glob("*") if path.name.isdecimal()), default=-1)
    )
    if step < 0:
        raise InputError(f"{directory} holds no checkpoint")
    return directory / str(step)


def save_network(directory: Path, variables: Tree) -> None:
    """Saves variables that were trained elsewhere, for `load_network`; an earlier attempt is replaced."""
    import orbax.checkpoint as ocp

    with _quiet(), ocp.StandardCheckpointer() as writer:
        sealed = {"tree": variables, "fingerprint": jax.jit(checksum)(variables)}
        writer.save((directory / "0" / "network").absolute(), sealed, force=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what Orbax logs, such as a traceback with what it raises; what matters is reported here."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _parts(state: TrainState) -> dict[str, Tree]:
    trees = {"params": state.params, "batch_stats": state.batch_stats}
    rest = {part: {name: x for name, x in tree.items() if name != "network"} for part, tree in trees.items()}
    return {"network": variables_of(state), "training": {**rest, "opt_state": state.opt_state}}


@jax.jit
def _sealed_parts(state: TrainState) -> dict[str, Tree]:
    """Copies of the parts, with fingerprints: training goes on in the original's memory while they are saved."""
    parts = jax.tree.map(jnp.copy, _parts(state))
    return {name: {"tree": part, "fingerprint": checksum(part)} for name, part in parts.items()}


class DamagedCheckpoint(Exception):
    """A checkpoint that some process cannot read, or that does not have the content with which it was saved."""


def _read(path: Path, template: Tree, mesh: Mesh) -> Tree:
    """Reads one part; raises `DamagedCheckpoint`, in all processes, if anything is wrong with it in any."""
    leaves = len(jax.tree.leaves(template))
    sealed = {"tree": template, "fingerprint": jax.ShapeDtypeStruct((leaves,), jnp.uint32)}
    read, reason = _try_to_read(path, sealed, mesh)
    if reasons := [reason for reason in gather_texts(reason) if reason]:
        raise DamagedCheckpoint(reasons[0])
    if not np.array_equal(_fingerprint(read["tree"], mesh), read["fingerprint"]):
        raise DamagedCheckpoint("its content does not have the fingerprint with which it was saved")
    return read["tree"]


def _try_to_read(path: Path, template: Tree, mesh: Mesh) -> tuple[Tree, str]:
    """What this process reads, and an empty text or what was wrong."""
    # After a first failure the reads that are still under way report theirs, with tracebacks, through these hooks, and
    # those that were not begun warn of it when they are collected.
    hooks = sys.excepthook, sys.unraisablehook
    sys.excepthook = sys.unraisablehook = lambda *_: None
    try:
        with _quiet(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            try:
                return _read_own_part(path, template, mesh), ""
            except (MemoryError, PermissionError):
                raise  # not the checkpoint's fault
            except Exception as error:  # Orbax, TensorStore, JSON and the file system each raise their own
                reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
            for _ in range(2):
                gc.collect()
                time.sleep(0.2)
    finally:
        sys.excepthook, sys.unraisablehook = hooks
    return None, reason


def _read_own_part(path: Path, template: Tree, mesh: Mesh) -> Tree:
    """Reads what lies on the devices of this process, without waiting for the others, which may have failed."""
    target = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        template,
        state_sharding(mesh, template),
    )
    import orbax.checkpoint as ocp

    me = jax.process_index()
    alone = {"primary_host": me, "active_processes": {me}, "barrier_sync_key_prefix": f"process_{me}"}
    with ocp.StandardCheckpointer(multiprocessing_options=ocp.options.MultiprocessingOptions(**alone)) as reader:
        read = reader.restore(path.absolute(), target)
    for x, expected in zip(jax.tree.leaves(read), jax.tree.leaves(target), strict=True):
        if x.shape != expected.shape or x.dtype != expected.dtype:
            raise ValueError(f"an array has shape {x.shape} and dtype {x.dtype}, not {expected.shape} {expected.dtype}")
    return read


def _fingerprint(tree: Tree, mesh: Mesh) -> jax.Array:
    return jax.jit(checksum, out_shardings=replicated(mesh))(tree)
