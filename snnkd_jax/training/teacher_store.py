"""A teacher's outputs for every training step, kept in files, so that one teacher is paid for once over many students.

Batches and augmentation are functions of (seed, step), so the outputs of a step are the same in every run of one seed.
They are stored as float32 by the program that a run without a store uses: the training is the same bit for bit.

A store is a folder named after what its contents depend on; `store.json` in it says that in full. A file `000050.bin`
has the outputs of the steps from 50 on, one record a step, and at its end the SHA-256 of all before. Files are replaced
whole, so runs may share a store, and may be killed at any time. Files that are missing are computed when a run comes to
them, whole, be it beyond the run's end.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray
from tqdm import tqdm

from snnkd_jax.data.batches import Batch, Source
from snnkd_jax.digest import fingerprint, sha256, title
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_atomically
from snnkd_jax.parallel.mesh import put_batch, put_replicated
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.trainer import Trainer

# To be raised when batches, augmentation or the files become other ones.
FORMAT = 2

# A run that is told to stop does so after a file, and one that is killed loses what it computed of one (guesses).
STEPS_PER_FILE, BYTES_PER_FILE = 50, 2**26

# Relative to the largest value: a store of the same teacher that was made on another machine differs less (a guess).
TOLERANCE = 0.02


class TaughtSource:
    """A source whose batches have the teacher's outputs, read from a store or computed and added to it.

    `outputs` are those of a step, as shapes.
    """

    def __init__(self, source: Source, folder: Path, outputs: Any, compute: Callable[[int], Any]):
        self._source, self._folder, self._compute = source, folder, compute
        leaves, self._tree = jax.tree.flatten(outputs)
        self._record = np.dtype([(f"leaf{i}", "<f4", x.shape) for i, x in enumerate(leaves)])
        self._first: int | None = None
        self._records: NDArray = np.empty(0, self._record)
        self.batch_size, self.steps_per_epoch = source.batch_size, source.steps_per_epoch
        self._steps_per_file = max(1, min(STEPS_PER_FILE, BYTES_PER_FILE // self._record.itemsize))
        self._size = self._steps_per_file * self._record.itemsize

    def __call__(self, step: int) -> Batch:
        """The batch with `teacher`; raises `InputError` if a file of the store is damaged or cannot be written."""
        return self._source(step) | {"teacher": self.outputs(step)}

    def outputs(self, step: int) -> Any:
        """What the teacher says of the batch of a step."""
        first = step - step % self._steps_per_file
        if first != self._first:
            if not self._path(first).exists():
                self._write(first)
            self._first, self._records = first, self._read(first)
        record = self._records[step - first]
        return jax.tree.unflatten(self._tree, [record[name] for name in self._record.names or ()])

    def missing_bytes(self, num_steps: int) -> int:
        """What the files will take that a training of so many steps has to add."""
        return self._size * sum(not self._path(i).exists() for i in range(0, num_steps, self._steps_per_file))

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:06}.bin"

    def _write(self, first: int) -> None:
        records = np.empty(self._steps_per_file, self._record)
        for i in range(self._steps_per_file):
            records[i] = tuple(jax.tree.leaves(self._compute(first + i)))
        _write(self._path(first), records.tobytes() + _digest(records))

    def _read(self, first: int) -> NDArray:
        """The records of a file, mapped into memory and checked."""
        path = self._path(first)
        if path.stat().st_size == self._size + hashlib.sha256().digest_size:
            records = np.memmap(path, self._record, "r", shape=(self._steps_per_file,))
            if np.fromfile(path, np.uint8, offset=self._size).tobytes() == _digest(records):
                return records
        raise InputError(f"store_teacher: {path} is damaged; delete it, and its steps are computed again")


def taught_source(
    source: Source,
    root: Path,
    trainer: Trainer,
    teacher_variables: Any,
    *,
    num_steps: int,
    mesh: Mesh,
    described: dict[str, Any],
) -> TaughtSource:
    """Opens the store for a training in the folder `root`, or begins it, and says how large it will be.

    Args:
        source: of the training batches.
        root: where stores are.
        trainer, teacher_variables, num_steps, mesh: of the student's training.
        described: what tells this teacher and these data from others, beyond what is given here; JSON values.

    Raises:
        InputError: if there are several processes, the disk has too little space, or the store was made by another
            teacher in spite of its description.
    """
    if jax.process_count() > 1:
        raise InputError(f"store_teacher works in one process, not in {jax.process_count()}; run without it")
    teach = compile_steps(trainer, mesh).teach
    assert teach is not None
    variables = put_replicated(mesh, teacher_variables)

    def compute(step: int) -> Any:
        images = put_batch(mesh, source(step)["images"])
        return jax.device_get(teach(variables, put_replicated(mesh, np.int32(step)), images))

    first = source(0)["images"]  # by the split, the order and what is done on the host as well
    outputs = jax.eval_shape(trainer.teach, teacher_variables, np.int32(0), first)
    augment = trainer.augment
    known = {
        "format": FORMAT,
        **described,
        "teacher_variables": fingerprint(teacher_variables),
        "teacher_normalisation": dataclasses.asdict(trainer.teacher_normalisation or trainer.normalisation),
        "augmentation": None if augment is None else [title(augment), trainer.augment_digest],
        "seed": trainer.seed,
        "first_batch": sha256(np.asarray(first).tobytes()),
        "batch_size": source.batch_size,
        "outputs": {jax.tree_util.keystr(p): list(x.shape) for p, x in jax.tree_util.tree_leaves_with_path(outputs)},
        "files": [STEPS_PER_FILE, BYTES_PER_FILE],
    }
    folder = root / sha256(json.dumps(known, sort_keys=True).encode())[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"store_teacher {root} cannot be written ({error.strerror}); name another folder") from error
    _write(folder / "store.json", json.dumps(known, indent=2).encode())
    taught = TaughtSource(source, folder, outputs, compute)
    missing, free = taught.missing_bytes(num_steps), shutil.disk_usage(folder).free
    tqdm.write(f"store_teacher: {missing / 1e9:.3g} GB for {num_steps} steps are to be added to {folder}")
    if missing > free:
        raise InputError(
            f"store_teacher: {missing / 1e9:.3g} GB are needed, {root} has {free / 1e9:.3g} GB free; name a folder on "
            "another disk, a preset that reads logits alone, or no store"
        )
    for stored, computed in zip(jax.tree.leaves(taught.outputs(0)), jax.tree.leaves(compute(0)), strict=True):
        if not np.abs(stored - computed).max() <= TOLERANCE * np.abs(computed).max():
            raise InputError(f"store_teacher: {folder} is of another teacher, or of other data; delete it")
    return taught


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"store_teacher: {path} cannot be written ({error.strerror})") from error


def _digest(records: NDArray) -> bytes:
    return hashlib.sha256(records.tobytes()).digest()
