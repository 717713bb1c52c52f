"""Several processes that train together, one per host or per device: how they meet, agree, and notice that one is gone.

All run the same program on the same arguments. Whatever differs between them, files above all, is agreed upon, so that
all go the same way: a process that stopped alone would leave the others waiting. One process agrees with itself at no
cost.
"""

import contextlib
import hashlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from snnkd_jax.errors import InputError
from snnkd_jax.parallel.mesh import all_devices

T = TypeVar("T")

# Guesses, in seconds. A survivor says what happened and ends after SILENCE; JAX ends whoever could not after HEARTBEAT,
# and at once when it is the first process that is gone.
MEETING, SILENCE, HEARTBEAT, PARTING = 300, 15, 25, 10

# Of the texts that processes exchange, in bytes.
_LONGEST = 1024

_parting = threading.Event()


def join(distributed: bool | None) -> None:
    """Meets the other processes. To be called before anything touches devices.

    They are found through `JAX_COORDINATOR_ADDRESS` (host:port of the first process), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`; what of these is not set is asked of SLURM, Open MPI, Kubernetes or the metadata of a TPU slice.
    With `distributed` False there are none, with None only where JAX finds them. Raises `InputError` if they are not
    found, or do not come.
    """
    if distributed is False or jax.distributed.is_initialized():
        return
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    told = {name: os.environ[name] for name in names if name in os.environ}
    address, count, index = (told.get(name) for name in names)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*Kubernetes environment detected")
            jax.distributed.initialize(
                address,
                None if count is None else int(count),
                None if index is None else int(index),
                cluster_detection_method="deactivate" if len(told) == len(names) else None,
                initialization_timeout=MEETING,
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=PARTING,
            )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"the other processes cannot be met ({str(error)[:300]})") from error
    except RuntimeError as error:
        if distributed or "must be called before" not in str(error):
            raise
        return  # a program that has used devices before has decided to be alone
    except (ValueError, OSError) as error:  # the latter where a TPU machine has no metadata
        if distributed or told:
            raise InputError(
                f"distributed={distributed!r}, {told or 'no cluster found'}: {error}; set {', '.join(names)}"
            ) from error
        return
    try:
        all_devices()
    except InputError:
        jax.distributed.shutdown()
        raise
    if several():
        threading.Thread(target=_watch, name="watch", daemon=True).start()


def several() -> bool:
    """Whether there are other processes; touches devices only after these have been met."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return not several() or jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, in the first process only."""
    if is_first():
        tqdm.write(text)


def _watch() -> None:
    """Ends this process when another one is gone; the main thread may be waiting for it inside a computation."""
    everyone = _barrier()
    try:
        while not _parting.wait(1):
            everyone(key="snnkd_jax_alive", timeout_ms=1000 * SILENCE)
    except jax.errors.JaxRuntimeError:
        if _parting.is_set():
            return
        message = "error: another process of this run is gone, and its own output says why; start all of them to resume"
        print(message, file=sys.stderr, flush=True)
        os._exit(1)


def _barrier() -> Callable[..., None]:
    from orbax.checkpoint import multihost  # two seconds of import, needed by several processes only

    return multihost.get_barrier_sync_fn()


def wait_if_lost() -> None:
    """After an unexpected error: if it comes of another process being gone, this one is ended while it waits."""
    time.sleep(SILENCE + 5)


def leave(status: int) -> int:
    """Parts from the others and returns the exit status; ends the process if they do not part as well."""
    if not several():
        return status
    _parting.set()
    try:
        _barrier()(key="snnkd_jax_parting", timeout_ms=1000 * PARTING)
    except jax.errors.JaxRuntimeError:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an ordinary exit would wait for them
    jax.distributed.shutdown()
    return status


def gathered(text: str) -> list[str]:
    """The texts of all processes, in their order, cut after 1024 bytes."""
    if not several():
        return [text]
    row = np.frombuffer(text.encode()[:_LONGEST].ljust(_LONGEST, b"\0"), np.uint8)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in multihost_utils.process_allgather(row)]


def of_first(value: int) -> int:
    """The first process's value."""
    return int(gathered(str(value))[0])


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Around what each process does without the others: an `InputError` in one is raised in all."""
    try:
        yield
    except InputError as error:
        gathered(str(error))
        raise
    for i, message in enumerate(gathered("")):
        if message:
            raise InputError(f"process {i}: {message}")


def first_then_others(function: Callable[[], T]) -> T:
    """Calls it in the first process, then in the others, which find what the first has made."""
    with together():
        results = [function()] if is_first() else []
    with together():
        results = results or [function()]
    return results[0]


def check_same(what: str, value: bytes) -> None:
    """Raises `InputError` in all processes unless they have the same value."""
    if len(set(gathered(hashlib.sha256(value).hexdigest()))) > 1:
        raise InputError(f"the processes of this run differ in {what}; they must be the same")
