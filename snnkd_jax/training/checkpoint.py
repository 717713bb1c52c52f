"""Checkpoints: written by Orbax in the background, listed in the directory's manifest, and verified when read.

A checkpoint has two parts: "network", the variables of the network alone, and "training", the rest of the `TrainState`:
connectors and optimiser state. The first process writes it, whole, since a state that is sharded over processes is
gathered first; every process reads its own shards. In a bucket, files are written from and read into a temporary
directory.
"""

import concurrent.futures
import contextlib
import gc
import itertools
import logging
import secrets
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from snnkd_jax.errors import InputError
from snnkd_jax.files import delete, files_in, is_remote, move, write_atomically
from snnkd_jax.parallel.hosts import broadcast_from_host0, gather_texts, is_distributed, is_host0, raise_on_all_hosts
from snnkd_jax.parallel.mesh import put_replicated, replicated, state_sharding
from snnkd_jax.training.manifest import (
    DamagedCheckpoint,
    Manifest,
    list_files,
    read_manifest,
    run_id,
    verified,
    warn_of_strangers,
)
from snnkd_jax.training.trainer import TrainState, variables_of

Tree = Any

_UNFINISHED = ".saving"
"""In the names of folders that a process that died while it saved has left behind."""


class Checkpoints:
    """The checkpoints `<directory>/<step>/` of one training; the newest `keep` are kept."""

    def __init__(self, directory: Path, mesh: Mesh, keep: int = 3):
        self._directory, self._mesh, self._keep = directory, mesh, keep
        with raise_on_all_hosts():
            self._manifest = read_manifest(directory) or Manifest(run_id(directory.parent), directory.name)
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._pending: concurrent.futures.Future[Manifest] | None = None
        # Training reuses the memory of the originals.
        self._copies = jax.jit(lambda state: jax.tree.map(jnp.copy, _parts(state)), out_shardings=replicated(mesh))

    def save(self, state: TrainState) -> None:
        """Starts saving the state; returns as soon as `state` may be donated."""
        step = int(state.step)
        if step in self._manifest.steps:
            return
        self._wait()
        parts = self._copies(state)
        if is_host0():
            own = jax.tree.map(_own_copy, parts)
            self._pending = self._writer.submit(_write, self._directory, step, own, self._manifest, self._keep)

    def restore(self, template: TrainState) -> TrainState | None:
        """Returns the newest undamaged state, sharded as by `state_sharding`; None if nothing has been saved.

        Warns of damaged checkpoints, which are moved aside, and of files that the manifest does not list; raises
        `InputError` if no checkpoint can be read. `template` has the state's structure, shapes and dtypes.
        """
        self._tidy()
        parts, damaged = _parts(template), 0
        while self._manifest.steps:
            step = self._manifest.steps[-1]
            try:
                read = {name: self._read(f"{step}/{name}", part) for name, part in parts.items()}
            except DamagedCheckpoint as error:
                self._move_aside(step, str(error))
                damaged += 1
                continue
            training = read["training"]
            state = {name: {"network": x, **training[name]} for name, x in read["network"].items()}
            return TrainState(put_replicated(self._mesh, np.int32(step)), **state, opt_state=training["opt_state"])
        if damaged:
            raise InputError(
                f"none of the {damaged} checkpoints of {self._directory} can be read; copy them again, or delete "
                f"{self._directory} to train this network anew"
            )
        return None

    def _read(self, prefix: str, template: Tree) -> Tree:
        return _read(self._directory, self._manifest, prefix, template, self._mesh)

    def _tidy(self) -> None:
        """Deletes what a process that died has left, and warns of strangers; moves those out of the way of a save."""
        if not is_host0() or not self._directory.is_dir():
            return
        for path in list(self._directory.iterdir()):
            if _UNFINISHED in path.name:
                delete(path)
        warn_of_strangers(self._directory, self._manifest)
        for path in list(self._directory.iterdir()):
            if path.name.isdecimal() and int(path.name) not in self._manifest.steps:
                move(path, _free_name(self._directory, path.name))

    def _move_aside(self, step: int, reason: str) -> None:
        """Moves a damaged checkpoint to another directory, so that its step can be saved again."""
        self._manifest = self._manifest.without([step])
        if is_host0():
            target = _free_name(self._directory, str(step))
            if (self._directory / str(step)).is_dir():
                move(self._directory / str(step), target)
            self._manifest.write(self._directory)
            what = f"checkpoint {step} in {self._directory} is damaged ({reason}); it was moved to {target}"
            warnings.warn(f"{what}, and the one before it is used", stacklevel=3)
        broadcast_from_host0(step)  # the other processes wait for the move

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._manifest = pending.result()

    def close(self) -> None:
        """Waits until everything is on disk."""
        try:
            self._wait()
        finally:
            self._writer.shutdown()


def load_network(directory: Path, template: Tree, mesh: Mesh) -> Tree:
    """Reads a network's variables from the newest checkpoint in the directory of a training.

    `template` has their structure, shapes and dtypes. Raises `InputError` if there is no checkpoint, or the newest is
    damaged or of another network; warns of files that the manifest does not list.
    """
    with raise_on_all_hosts():
        manifest = read_manifest(directory)
        if manifest is None or not manifest.steps:
            raise InputError(f"{directory} holds no checkpoint")
        warn_of_strangers(directory, manifest)
    path = directory / str(manifest.steps[-1])
    try:
        return _read(directory, manifest, f"{path.name}/network", template, mesh)
    except DamagedCheckpoint as error:
        raise InputError(f"checkpoint {path} is damaged or of another network ({error}); copy it again") from error


def save_network(directory: Path, variables: Tree) -> None:
    """Saves variables that were trained elsewhere, for `load_network`; replaces an earlier attempt."""
    if is_host0():
        delete(directory / "0")
        _write(directory, 0, {"network": variables}, Manifest(run_id(directory.parent), directory.name), 1)
    broadcast_from_host0(0)


def _parts(state: TrainState) -> dict[str, Tree]:
    trees = {"params": state.params, "batch_stats": state.batch_stats}
    rest = {part: {name: x for name, x in tree.items() if name != "network"} for part, tree in trees.items()}
    return {"network": variables_of(state), "training": {**rest, "opt_state": state.opt_state}}


def _own_copy(x: jax.Array) -> Any:
    """A replicated array as this process alone can write it."""
    if not is_distributed():
        return x.addressable_data(0)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        raise InputError("several processes do not save typed PRNG keys of an optimiser; use jax.random.PRNGKey there")
    return np.asarray(x.addressable_data(0))


def _write(directory: Path, step: int, parts: dict[str, Tree], manifest: Manifest, keep: int) -> Manifest:
    """Writes a checkpoint, then the manifest, and then deletes the checkpoints that it no longer lists."""
    import orbax.checkpoint as ocp

    with tempfile.TemporaryDirectory() if is_remote(directory) else contextlib.nullcontext(directory) as place:
        unfinished = Path(place).absolute() / f"{step}{_UNFINISHED}-{secrets.token_hex(4)}"
        with _silent_logger(), _alone(ocp.StandardCheckpointer) as writer:
            for name, part in parts.items():
                writer.save(unfinished / name, part)
                writer.wait_until_finished()
        if is_remote(directory):
            for path in files_in(unfinished):
                write_atomically(directory / str(step) / path.relative_to(unfinished).as_posix(), path.read_bytes())
        else:
            unfinished.rename(directory / str(step))
    kept = manifest.with_files(list_files(directory, str(step)), keep)
    kept.write(directory)
    for old in set(manifest.steps) - set(kept.steps):
        delete(directory / str(old))
    return kept


def _free_name(directory: Path, name: str) -> Path:
    """A path in `<directory>-damaged` that is not taken."""
    folder = directory.parent / f"{directory.name}-damaged"
    names = (f"{name}-{n}" if n else name for n in itertools.count())
    return next(folder / name for name in names if not (folder / name).exists())


@contextlib.contextmanager
def _silent_logger() -> Iterator[None]:
    """Silences Orbax's log."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _silent_hooks() -> Iterator[None]:
    """Silences the tracebacks and warnings of Orbax's pending reads after one has failed."""
    hooks = (sys.excepthook, sys.unraisablehook)
    sys.excepthook = sys.unraisablehook = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            yield
    finally:
        sys.excepthook, sys.unraisablehook = hooks


def _alone(checkpointer: Any) -> Any:
    """A checkpointer of Orbax that does not wait for other processes, which do not write, or may have failed."""
    import orbax.checkpoint as ocp

    me = jax.process_index()
    options = {"primary_host": me, "active_processes": {me}, "barrier_sync_key_prefix": f"process_{me}"}
    return checkpointer(multiprocessing_options=ocp.options.MultiprocessingOptions(**options))


def _read(directory: Path, manifest: Manifest, prefix: str, template: Tree, mesh: Mesh) -> Tree:
    """Reads one part; raises `DamagedCheckpoint` in all processes if anything is wrong with it in any of them."""
    read: Tree = None
    reason = ""
    with _silent_logger(), _silent_hooks():
        try:
            with verified(directory, manifest, prefix) as place:
                read = _read_own_shards(place / prefix, template, mesh)
        except (MemoryError, PermissionError):
            raise  # not the checkpoint's fault
        except DamagedCheckpoint as error:
            reason = str(error)
        except Exception as error:  # Orbax, TensorStore, JSON and the file system each raise their own
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
            for _ in range(2):  # of the reads that are pending
                gc.collect()
                time.sleep(0.2)
    if reasons := [reason for reason in gather_texts(reason) if reason]:
        raise DamagedCheckpoint(reasons[0])
    return read


def _read_own_shards(path: Path, template: Tree, mesh: Mesh) -> Tree:
    import orbax.checkpoint as ocp

    target = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        template,
        state_sharding(mesh, template),
    )
    with _alone(ocp.StandardCheckpointer) as reader:
        read = reader.restore(path.absolute(), target)
    for x, expected in zip(jax.tree.leaves(read), jax.tree.leaves(target), strict=True):
        if x.shape != expected.shape or x.dtype != expected.dtype:
            raise ValueError(f"an array has shape {x.shape} and dtype {x.dtype}, not {expected.shape} {expected.dtype}")
    return read
