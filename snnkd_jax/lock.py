"""The lock of a directory, `lock.json`: one process writes there at a time, on whichever host.

The file names host and process, and is renewed while the process lives. The lock of a process that is gone is taken
over: at once on the same machine, and on another one when it has not been renewed for `STALE` seconds and is not
renewed while one watches, so that clocks need not agree.

Between reading and writing the file it is locked by `flock`, which is not enough by itself: not all shared file systems
have it. A bucket has not, so there the file is written, and after a while read again: of two processes that start
together, the one that wrote last goes on.
"""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from snnkd_jax.errors import InputError
from snnkd_jax.files import is_remote

NAME = "lock.json"
RENEWAL, STALE, SETTLING = 10.0, 60.0, 2.0
"""Seconds between renewals, without renewal until a process counts as gone, and until a written lock is read again."""


class Lock:
    """A context in which this process alone writes into `directory`; raises `InputError` if another one does."""

    def __init__(self, argument: str, directory: Path):
        self._what, self._path = f"{argument} {directory}", directory / NAME
        self._token = secrets.token_hex(8)
        self._since = time.time()
        self._done, self._lost = threading.Event(), False
        self._renewing = threading.Thread(target=self._renew, name="lock", daemon=True)

    def __enter__(self) -> Self:
        while True:
            holder = self._read()
            if holder is not None and not self._is_gone(holder):
                raise InputError(f"{self._what} is in use by {_name(holder)}; wait until it ends, or name another")
            if self._replace(holder):
                break
        self._renewing.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._renewing.join()
        with contextlib.suppress(OSError), self._alone() as content:
            if content is None or content.get("token") == self._token:
                self._path.unlink()

    def check(self) -> None:
        """Raises `InputError` if another process has taken the lock over, because this one stood still for long."""
        if self._lost:
            holder = _name(self._read() or {})
            raise InputError(f"{self._what} was taken over by {holder} while this process stood still")

    @property
    def _content(self) -> dict[str, Any]:
        return {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "machine": _machine(),
            "process_start": _start_of(os.getpid()),
            "since": self._since,
            "renewed": time.time(),
            "token": self._token,
        }

    def _replace(self, holder: dict[str, Any] | None) -> bool:
        """Writes the file if it still is what was read, None for no file; returns whether it is this process's now."""
        with self._alone() as content:
            if content != holder:
                return False
            self._write()
        if is_remote(self._path):
            time.sleep(SETTLING)
            return (self._read() or {}).get("token") == self._token
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[dict[str, Any] | None]:
        """Yields the content while no other process is between reading and writing it, where files can be locked."""
        if is_remote(self._path):
            yield _load(self._path)
            return
        while True:
            with self._path.open("a") as file:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                if self._is_at_its_path(file.fileno()):  # else it was deleted meanwhile
                    yield _load(self._path)
                    return

    def _is_at_its_path(self, file: int) -> bool:
        try:
            return self._path.stat().st_ino == os.fstat(file).st_ino
        except FileNotFoundError:
            return False

    def _write(self) -> None:
        """In place, since the file is what is locked; a reader that comes in between reads again."""
        self._path.write_bytes(json.dumps(self._content).encode())

    def _read(self) -> dict[str, Any] | None:
        """The content of the file, None if there is none; that of a damaged one is empty."""
        for _ in range(10):  # another process may be writing it
            if (found := _load(self._path)) != {}:
                return found
            time.sleep(0.1)
        return {}

    def _is_gone(self, holder: dict[str, Any]) -> bool:
        if holder.get("machine") == _machine():
            return _start_of(holder["process"]) != holder.get("process_start")
        if 0 <= time.time() - holder.get("renewed", 0) <= STALE:
            return False
        end = time.monotonic() + 1.5 * RENEWAL
        while time.monotonic() < end:
            if self._read() != holder:
                return False
            time.sleep(RENEWAL / 10)
        return True

    def _renew(self) -> None:
        while not self._done.wait(RENEWAL):
            with contextlib.suppress(Exception), self._alone() as content:  # a disk may be full for a moment
                self._lost = content is not None and content.get("token") != self._token
                if self._lost:
                    return
                self._write()


def _load(path: Path) -> dict[str, Any] | None:
    try:
        data = path.read_bytes()
        found = json.loads(data) if data else None
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    kinds = {"process": int, "renewed": int | float, "since": int | float}
    if found is None or (isinstance(found, dict) and all(isinstance(found.get(k), kind) for k, kind in kinds.items())):
        return found
    return {}


def _name(holder: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.get("since", 0)))
    return f"process {holder.get('process')} on {holder.get('host')}, since {since}"


def _machine() -> str:
    """What process ids refer to: the machine since it was started, and the namespace of processes in it."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _start_of(process: int) -> str | None:
    """When a process was started, since ids are used again; None if there is none."""
    if Path("/proc/self/stat").exists():
        try:
            state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if state in "ZX" else fields[18]  # it has ended, and its parent has not asked yet
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "running, of another user"
    return "running"
