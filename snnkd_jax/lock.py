"""The lock of a directory, `lock.json`: one process writes there at a time, on whichever host.

The file names host and process, and is renewed while the process lives. The lock of a process that is gone is taken
over: at once on the same machine, and on another one when it has not been renewed for `STALE` seconds and is not
renewed while one watches, so that clocks need not agree.

A file system creates the file exclusively. A bucket cannot, so there the file is written, and after a while read again:
of two processes that start together, the one that wrote last goes on.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

from snnkd_jax.errors import InputError
from snnkd_jax.files import is_remote, write_json

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
        while not self._create():
            if (holder := self._read()) is None:
                continue
            if not self._is_gone(holder):
                raise InputError(f"{self._what} is in use by {_name(holder)}; wait until it ends, or name another")
            self._remove(holder)
        self._renewing.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._renewing.join()
        with contextlib.suppress(OSError):
            if not self._lost and (self._read() or {}).get("token") == self._token:
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

    def _create(self) -> bool:
        """Writes the file if there is none; returns whether it is this process's."""
        if is_remote(self._path):
            if self._read() is not None:
                return False
            write_json(self._path, self._content)
            time.sleep(SETTLING)
            return (self._read() or {}).get("token") == self._token
        try:
            with self._path.open("x") as file:
                json.dump(self._content, file)
        except FileExistsError:
            return False
        return True

    def _remove(self, holder: dict[str, Any]) -> None:
        """Removes the file of a process that is gone, unless another has been faster."""
        if is_remote(self._path):
            self._path.unlink(missing_ok=True)
            return
        aside = self._path.with_name(f"{secrets.token_hex(8)}.tmp")
        with contextlib.suppress(FileNotFoundError):
            self._path.rename(aside)
            if (_load(aside) or {}).get("token") != holder.get("token"):
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self._path)  # of a faster one: put it back
            aside.unlink()

    def _read(self) -> dict[str, Any] | None:
        """The content of the file, None if there is none; that of a damaged one is empty."""
        for _ in range(10):  # another process may be writing it
            if (found := _load(self._path)) != {}:
                return found
            time.sleep(0.1)
        return {}

    def _is_gone(self, holder: dict[str, Any]) -> bool:
        if holder.get("machine") == _machine():
            return _start_of(holder["process"]) != holder["process_start"]
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
            with contextlib.suppress(Exception):  # a disk that is full or out of reach for a moment
                if (self._read() or {}).get("token") != self._token:
                    self._lost = True
                    return
                write_json(self._path, self._content)


def _load(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


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
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # it has ended, and its parent has not asked yet
    except OSError:
        pass
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "running"
