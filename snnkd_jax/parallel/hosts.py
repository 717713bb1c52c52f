"""Processes that train together, one per host or per device: initialisation, agreement, failure detection, shutdown.

All run the same program with the same arguments. What may differ between them, files above all, is communicated, so
that all take the same branch: a process that stopped alone would leave the others waiting. For a single process all of
this costs nothing.
"""

import contextlib
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

from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.parallel.devices import all_devices, idle_gpus

T = TypeVar("T")

# Rough estimates in seconds. A survivor reports the loss and exits after WATCHDOG_TIMEOUT; failing that, JAX ends it
# after HEARTBEAT_TIMEOUT, and at once when it is the first process that is gone.
INITIALIZATION_TIMEOUT, WATCHDOG_TIMEOUT, HEARTBEAT_TIMEOUT, SHUTDOWN_TIMEOUT = 300, 15, 25, 10

PATIENCE = 20
"""Seconds after which a process says for whom it waits at the start."""

_JAX_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_CLUSTER_VARIABLES = (*_JAX_VARIABLES, "SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
_CLUSTER_VARIABLES += ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID")
_CLUSTER_VARIABLES += ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")

_shutting_down = threading.Event()


def initialize(distributed: bool | None) -> None:
    """Connects to the other processes; call it before anything touches devices.

    They are found by `JAX_COORDINATOR_ADDRESS` (host:port of the first process), `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`; what is not set is taken from SLURM, Open MPI, Kubernetes or the metadata of a TPU slice. False
    for `distributed` means a single process, None several only where JAX finds them. Warns of GPUs that stay idle.
    Raises `InputError` if the processes are not found or cannot connect; if not all of them have come after
    `INITIALIZATION_TIMEOUT`, it prints a line on stderr and exits with status 2.
    """
    if not (distributed is False or jax.distributed.is_initialized()):
        _connect(distributed)
    all_devices()
    if (idle := idle_gpus()) is not None:
        warnings.warn(idle, stacklevel=2)


def _connect(distributed: bool | None) -> None:
    given = {name: os.environ[name] for name in _JAX_VARIABLES if name in os.environ}
    address, count, index = (given.get(name) for name in _JAX_VARIABLES)
    try:
        with warnings.catch_warnings(), _waiting():
            warnings.filterwarnings("ignore", "(?s).*Kubernetes environment detected")
            jax.distributed.initialize(
                address,
                None if count is None else int(count),
                None if index is None else int(index),
                cluster_detection_method="deactivate" if len(given) == len(_JAX_VARIABLES) else None,
                initialization_timeout=INITIALIZATION_TIMEOUT + 60,  # it would end the process with a stack
                heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
                shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
            )
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"the other processes cannot be reached ({str(error)[:300]})") from error
    except RuntimeError as error:
        if distributed or "must be called before" not in str(error):
            raise
        return  # a program that has used devices already is a single process
    except (ValueError, OSError) as error:  # the latter where a TPU machine has no metadata
        if distributed or given:
            raise InputError(
                f"distributed={distributed!r}, {given or 'no cluster found'}: {error}; set {', '.join(_JAX_VARIABLES)}"
            ) from error
        return
    try:
        all_devices()
    except InputError:
        jax.distributed.shutdown()
        raise
    if is_distributed():
        threading.Thread(target=_watchdog, name="watchdog", daemon=True).start()


@contextlib.contextmanager
def _waiting() -> Iterator[None]:
    """A context that says who is waited for if it lasts longer than `PATIENCE`, and ends the process in the end."""
    done = threading.Event()

    def tell() -> None:
        if done.wait(PATIENCE):
            return
        print(_awaited(), file=sys.stderr, flush=True)
        if not done.wait(INITIALIZATION_TIMEOUT - PATIENCE):
            print(f"error: after {INITIALIZATION_TIMEOUT} s, {_awaited()}", file=sys.stderr, flush=True)
            os._exit(2)

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _awaited() -> str:
    """Which processes are waited for, why, and how to do without."""
    from jax._src.distributed import global_state  # what JAX has detected is not public

    known = ", ".join(f"{name}={os.environ[name]}" for name in _CLUSTER_VARIABLES if name in os.environ)
    index, count, address = global_state.process_id, global_state.num_processes, global_state.coordinator_address
    others = f"the other {(count or 0) - 1}" if index == 0 else "process 0, which listens there"
    waits = f"process {index} of {count} waits at {address} for {others}" if count else "JAX looks for other processes"
    advice = "start all of them with the same command (srun, mpirun), or train alone with --distributed False"
    return f"{waits} ({known or 'found by JAX'}); {advice}"


def is_distributed() -> bool:
    """Whether there are other processes; touches devices only after `initialize` has found them."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_host0() -> bool:
    """Whether this process is the first, which alone writes and prints."""
    return not is_distributed() or jax.process_index() == 0


def print_on_host0(text: str) -> None:
    """Prints a line in the first process only."""
    if is_host0():
        tqdm.write(text)
        print(end="", flush=True)  # a file or a pipe shows each line at once


def _watchdog() -> None:
    """Exits when another process is gone, which the main thread may be waiting for inside a computation."""
    barrier = _barrier()
    try:
        while not _shutting_down.wait(1):
            barrier(key="snnkd_jax_alive", timeout_ms=1000 * WATCHDOG_TIMEOUT)
    except jax.errors.JaxRuntimeError:
        if _shutting_down.is_set():
            return
        message = "error: another process of this run is gone, and its own output says why; start all of them to resume"
        print(message, file=sys.stderr, flush=True)
        os._exit(1)


def _barrier() -> Callable[..., None]:
    from orbax.checkpoint import multihost  # takes two seconds, and a single process does not need it

    return multihost.get_barrier_sync_fn()


def wait_for_watchdog() -> None:
    """Waits after an unexpected error: if another process being gone is its cause, the watchdog ends this one."""
    time.sleep(WATCHDOG_TIMEOUT + 5)


def shut_down(status: int) -> int:
    """Disconnects and returns the exit status; exits with it if the others do not disconnect as well."""
    if not is_distributed():
        return status
    _shutting_down.set()
    try:
        _barrier()(key="snnkd_jax_shutdown", timeout_ms=1000 * SHUTDOWN_TIMEOUT)
    except jax.errors.JaxRuntimeError:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # an ordinary exit would wait for them
    jax.distributed.shutdown()
    return status


def gather_texts(text: str) -> list[str]:
    """The texts of all processes in their order, each truncated to 1024 bytes."""
    if not is_distributed():
        return [text]
    row = np.frombuffer(text.encode()[:1024].ljust(1024, b"\0"), np.uint8)
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in multihost_utils.process_allgather(row)]


def broadcast_from_host0(value: int) -> int:
    """The first process's value, in all processes."""
    return int(gather_texts(str(value))[0])


@contextlib.contextmanager
def raise_on_all_hosts() -> Iterator[None]:
    """Context for what each process does by itself: an `InputError` in one is raised in all."""
    try:
        yield
    except InputError as error:
        gather_texts(str(error))
        raise
    for i, message in enumerate(gather_texts("")):
        if message:
            raise InputError(f"process {i}: {message}")


def host0_first(function: Callable[[], T]) -> T:
    """Calls `function` in the first process, then in the others, which find the files that the first has made."""
    with raise_on_all_hosts():
        results = [function()] if is_host0() else []
    with raise_on_all_hosts():
        return results[0] if results else function()


def check_equal_on_all_hosts(what: str, value: bytes) -> None:
    """Raises `InputError` in all processes unless they have the same value."""
    if len(set(gather_texts(sha256(value)))) > 1:
        raise InputError(f"the processes of this run differ in {what}; they must be the same")
