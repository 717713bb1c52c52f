"""A teacher's outputs for every training step, kept in files, so that several students share the cost of one teacher.

Batches and augmentation are functions of (seed, step), so the outputs of a step are the same in every run of one seed,
whatever noise its student sees.
They are stored as float32 by the program that a run without a store uses: the training is the same bit for bit.

A store is a folder named after a digest of `store.json` in it, which lists what its contents depend on. A file
`000050.bin` has the outputs of the steps from 50 on, and at its end its SHA-256. Files are replaced in one step, so
runs may share a store, and be killed at any time. A missing file is computed completely when a run reaches it.
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
from snnkd_jax.files import is_remote, write_atomically
from snnkd_jax.parallel.mesh import put_batch, put_replicated
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.trainer import Trainer

# To be raised when batches, augmentation or the files change.
FORMAT = 2

# A run stops only after a complete file, and one that is killed loses an incomplete one (the sizes are guesses).
STEPS_PER_FILE, BYTES_PER_FILE = 50, 2**26

# Relative to the largest value: outputs of the same teacher on another machine differ less (a guess).
TOLERANCE = 0.02


class TeacherStore:
    """A source of batches with the teacher's outputs, read from a store or computed and added to it.

    `outputs` are those of a step, as shapes.
    """

    def __init__(self, source: Source, folder: Path, outputs: Any, compute: Callable[[int], Any]):
        self._source, self._folder, self._compute = source, folder, compute
        leaves, self._tree = jax.tree.flatten(outputs)
        self._dtype = np.dtype([(f"leaf{i}", "<f4", x.shape) for i, x in enumerate(leaves)])
        self._first: int | None = None
        self._steps: NDArray = np.empty(0, self._dtype)
        self.batch_size, self.steps_per_epoch = source.batch_size, source.steps_per_epoch
        self._steps_per_file = max(1, min(STEPS_PER_FILE, BYTES_PER_FILE // self._dtype.itemsize))
        self._size = self._steps_per_file * self._dtype.itemsize

    def __call__(self, step: int) -> Batch:
        """Returns the batch with `teacher`; raises `InputError` if a file is damaged or cannot be written."""
        return self._source(step) | {"teacher": self.outputs(step)}

    def outputs(self, step: int) -> Any:
        """Returns the teacher's outputs for the batch of a step."""
        first = step - step % self._steps_per_file
        if first != self._first:
            if not self._path(first).exists():
                self._write(first)
            self._first, self._steps = first, self._read(first)
        found = self._steps[step - first]
        return jax.tree.unflatten(self._tree, [found[name] for name in self._dtype.names or ()])

    def missing_bytes(self, num_steps: int) -> int:
        """Returns the size of the files that a training of `num_steps` has to add."""
        return self._size * sum(not self._path(i).exists() for i in range(0, num_steps, self._steps_per_file))

    def _path(self, first: int) -> Path:
        return self._folder / f"{first:06}.bin"

    def _write(self, first: int) -> None:
        steps = range(first, first + self._steps_per_file)
        content = np.array([tuple(jax.tree.leaves(self._compute(step))) for step in steps], self._dtype).tobytes()
        _write(self._path(first), content + hashlib.sha256(content).digest())

    def _read(self, first: int) -> NDArray:
        """Maps a file into memory and checks it."""
        path = self._path(first)
        if path.stat().st_size == self._size + hashlib.sha256().digest_size:
            steps = np.memmap(path, self._dtype, "r", shape=(self._steps_per_file,))
            digest = hashlib.sha256(steps.tobytes()).digest()
            if np.fromfile(path, np.uint8, offset=self._size).tobytes() == digest:
                return steps
        raise InputError(f"store_teacher: {path} is damaged; delete it, and its steps are computed again")


def open_teacher_store(
    source: Source, root: Path, trainer: Trainer, variables: Any, num_steps: int, mesh: Mesh, described: dict[str, Any]
) -> TeacherStore:
    """Opens or creates the store of a training in the folder `root`, and prints how much it will add.

    `variables` are the teacher's; `described` identifies it and the data, in JSON values. Raises `InputError` if there
    are several processes, too little disk space, or a store made by another teacher of the same description.
    """
    if is_remote(root):
        raise InputError(f"store_teacher {root}: its files are mapped into memory; name a local folder")
    if jax.process_count() > 1:
        raise InputError(f"store_teacher works in one process, not in {jax.process_count()}; run without it")
    teach = compile_steps(trainer, mesh).teach
    assert teach is not None
    on_devices = put_replicated(mesh, variables)

    def compute(step: int) -> Any:
        images = put_batch(mesh, trainer.teacher_images(source(step)))
        return jax.device_get(teach(on_devices, put_replicated(mesh, np.int32(step)), images))

    first = trainer.teacher_images(source(0))  # depends on the split, the order and the host's processing as well
    outputs = jax.eval_shape(trainer.teach, variables, np.int32(0), first)
    known = {
        "format": FORMAT,
        **described,
        "teacher_variables": fingerprint(variables),
        "teacher_normalisation": dataclasses.asdict(trainer.teacher_normalisation or trainer.normalisation),
        "augmentation": trainer.augment and [title(trainer.augment), trainer.digest_of(trainer.augment)],
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
    store = TeacherStore(source, folder, outputs, compute)
    missing, free = store.missing_bytes(num_steps), shutil.disk_usage(folder).free
    tqdm.write(f"store_teacher: {missing / 1e9:.3g} GB for {num_steps} steps are to be added to {folder}")
    if missing > free:
        raise InputError(
            f"store_teacher: {missing / 1e9:.3g} GB are needed, {root} has {free / 1e9:.3g} GB free; name a folder on "
            "another disk, a preset that reads logits alone, or no store"
        )
    for stored, computed in zip(jax.tree.leaves(store.outputs(0)), jax.tree.leaves(compute(0)), strict=True):
        if not np.abs(stored - computed).max() <= TOLERANCE * np.abs(computed).max():
            raise InputError(f"store_teacher: {folder} is of another teacher, or of other data; delete it")
    return store


def _write(path: Path, content: bytes) -> None:
    try:
        write_atomically(path, content)
    except OSError as error:
        raise InputError(f"store_teacher: {path} cannot be written ({error.strerror})") from error
