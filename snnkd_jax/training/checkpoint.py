"""Checkpoints: written by Orbax in the background, verified bit for bit when read, moved aside when damaged.

Several processes write and read one checkpoint together, on a shared file system, and agree on what is damaged.

A checkpoint has two parts: "network", the variables of the network alone, and "training", the rest of the `TrainState`:
connectors and optimiser state. Each is saved with a fingerprint of its bits, one uint32 per array.
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
                """Left to `StopRequest`: JAX requires increasing step numbers, and each network's start at 0."""
                return False

        self._directory = directory
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        with _quiet():
            self._manager = Manager(directory.absolute(), options=options, item_names=("network", "training"))

    def save(self, state: TrainState) -> None:
        """Starts saving the state; returns as soon as `state` may be donated."""
        import orbax.checkpoint as ocp

        step = int(state.step)
        if step not in self._manager.all_steps():
            parts = {name: ocp.args.StandardSave(part) for name, part in _fingerprinted_parts(state).items()}
            self._manager.save(step, args=ocp.args.Composite(**parts))

    def restore(self, template: TrainState, mesh: Mesh) -> TrainState | None:
        """Returns the newest undamaged state, sharded as by `mesh.divided`; None if there is none.

        Warns of damaged checkpoints, and if none can be read. `template` has its structure, shapes and dtypes.
        """
        parts, damaged = _parts(template), 0
        while (step := broadcast_from_host0(max(self._manager.all_steps(), default=-1))) >= 0:
            try:
                read = {name: _read(self._directory / str(step) / name, part, mesh) for name, part in parts.items()}
            except DamagedCheckpoint as error:
                self._move_aside(step, error)
                damaged += 1
                continue
            training = read["training"]
            state = {name: {"network": x, **training[name]} for name, x in read["network"].items()}
            return TrainState(put_replicated(mesh, np.int32(step)), **state, opt_state=training["opt_state"])
        if damaged:
            warnings.warn(f"none of the {damaged} checkpoints in {self._directory} can be read", stacklevel=2)
        return None

    def _move_aside(self, step: int, error: "DamagedCheckpoint") -> None:
        """Moves a damaged checkpoint to another directory, so that its step can be saved again."""
        folder = self._directory.parent / f"{self._directory.name}-damaged"
        names = (f"{step}-{n}" if n else str(step) for n in itertools.count())
        target = next(folder / name for name in names if not (folder / name).exists())
        if is_host0():
            folder.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(target)
        broadcast_from_host0(step)  # the other processes wait for the move
        self._manager.reload()
        what = f"checkpoint {step} in {self._directory} is damaged ({error}); it was moved to {target}"
        warnings.warn(f"{what}, and the one before it is used", stacklevel=3)

    def close(self) -> None:
        """Waits until everything is on disk, and releases the background threads."""
        self._manager.close()


def load_network(directory: Path, template: Tree, mesh: Mesh) -> Tree:
    """Reads a network's variables from the newest checkpoint in the directory of a training.

    `template` has their structure, shapes and dtypes. Raises `InputError` if there is no checkpoint, or the newest is
    damaged or of another network.
    """
    path = newest(directory)
    try:
        return _read(path / "network", template, mesh)
    except DamagedCheckpoint as error:
        raise InputError(f"checkpoint {path} is damaged or of another network ({error})") from error


def newest(directory: Path) -> Path:
    """Finds the newest checkpoint in the directory of a training; raises `InputError` if it holds none."""
    steps = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    step = broadcast_from_host0(max(steps, default=-1))
    if step < 0:
        raise InputError(f"{directory} holds no checkpoint")
    return directory / str(step)


def save_network(directory: Path, variables: Tree) -> None:
    """Saves variables that were trained elsewhere, for `load_network`; replaces an earlier attempt."""
    import orbax.checkpoint as ocp

    with _quiet(), ocp.StandardCheckpointer() as writer:
        content = {"tree": variables, "fingerprint": jax.jit(checksum)(variables)}
        writer.save((directory / "0" / "network").absolute(), content, force=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax: its log, and after a failed read the tracebacks and warnings of reads that were pending."""
    logger = logging.getLogger("absl")
    level, hooks = logger.level, (sys.excepthook, sys.unraisablehook)
    logger.setLevel(logging.CRITICAL)
    sys.excepthook = sys.unraisablehook = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        logger.setLevel(level)
        sys.excepthook, sys.unraisablehook = hooks


def _parts(state: TrainState) -> dict[str, Tree]:
    trees = {"params": state.params, "batch_stats": state.batch_stats}
    rest = {part: {name: x for name, x in tree.items() if name != "network"} for part, tree in trees.items()}
    return {"network": variables_of(state), "training": {**rest, "opt_state": state.opt_state}}


@jax.jit
def _fingerprinted_parts(state: TrainState) -> dict[str, Tree]:
    """Copies the parts, since training reuses the memory of the originals, and adds fingerprints."""
    parts = jax.tree.map(jnp.copy, _parts(state))
    return {name: {"tree": part, "fingerprint": checksum(part)} for name, part in parts.items()}


class DamagedCheckpoint(Exception):
    """A checkpoint that some process cannot read, or whose content does not match its fingerprint."""


def _read(path: Path, template: Tree, mesh: Mesh) -> Tree:
    """Reads one part; raises `DamagedCheckpoint` in all processes if anything is wrong with it in any of them."""
    leaves = len(jax.tree.leaves(template))
    content = {"tree": template, "fingerprint": jax.ShapeDtypeStruct((leaves,), jnp.uint32)}
    read: Tree = None
    reason = ""
    with _quiet():
        try:
            read = _read_own_part(path, content, mesh)
        except (MemoryError, PermissionError):
            raise  # not the checkpoint's fault
        except Exception as error:  # Orbax, TensorStore, JSON and the file system each raise their own
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
        for _ in range(2 if reason else 0):
            gc.collect()
            time.sleep(0.2)
    if reasons := [reason for reason in gather_texts(reason) if reason]:
        raise DamagedCheckpoint(reasons[0])
    if not np.array_equal(jax.jit(checksum, out_shardings=replicated(mesh))(read["tree"]), read["fingerprint"]):
        raise DamagedCheckpoint("its content does not match the fingerprint with which it was saved")
    return read["tree"]


def _read_own_part(path: Path, template: Tree, mesh: Mesh) -> Tree:
    """Reads the shards of this process, without waiting for other processes, which may have failed."""
    import orbax.checkpoint as ocp

    target = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        template,
        state_sharding(mesh, template),
    )
    me = jax.process_index()
    alone = {"primary_host": me, "active_processes": {me}, "barrier_sync_key_prefix": f"process_{me}"}
    with ocp.StandardCheckpointer(multiprocessing_options=ocp.options.MultiprocessingOptions(**alone)) as reader:
        read = reader.restore(path.absolute(), target)
    for x, expected in zip(jax.tree.leaves(read), jax.tree.leaves(target), strict=True):
        if x.shape != expected.shape or x.dtype != expected.dtype:
            raise ValueError(f"an array has shape {x.shape} and dtype {x.dtype}, not {expected.shape} {expected.dtype}")
    return read
