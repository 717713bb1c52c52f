"""Signals that stop a run: it saves a checkpoint at the end of the step and exits.

They are those of a user (Ctrl-C, `kill`), and those with which a scheduler or a terminal tells a job that it must end:
SIGUSR1 and SIGUSR2 ahead of a time limit (SLURM `--signal`, SGE `-notify`, LSF), SIGXCPU at a limit of CPU time
(`ulimit -t`, SGE `s_cpu`), and SIGHUP when the terminal is closed.

Of several processes one may get the signal; all stop after the same step. JAX passes SIGTERM on to the others and has
them agree on the step, the first one that none of them has completed.
"""

import contextlib
import errno
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

from snnkd_jax.parallel.hosts import is_distributed

SCHEDULER_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGHUP)


class Interrupted(Exception):
    """Raised after the checkpoint is on disk; `exit_status` is 130 for SIGINT, and 0 for the other signals."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status


class StopRequest:
    """A context in which signals set a flag instead of ending the process. `exit_status` is that of the signal.

    A second SIGTERM or SIGINT ends the process; schedulers repeat the others. A program's own SIGTERM or SIGINT handler
    is called when the context is left; other signals that the program handles or ignores (`nohup`) are not touched.
    Only the main thread can handle signals: in another, they act as without the context. With several processes JAX
    handles SIGTERM, and the others are turned into one.
    """

    exit_status = 0
    _requested = False
    _lost_output: OSError | None = None
    _polls = 0

    def __enter__(self) -> "StopRequest":
        self._alone = not is_distributed()
        self._previous: dict[int, Any] = {}
        self._deferred: dict[int, FrameType | None] = {}
        if threading.current_thread() is threading.main_thread():
            users = (signal.SIGTERM, signal.SIGINT) if self._alone else (signal.SIGINT,)
            for number in (*users, *filter(_acts_by_default, SCHEDULER_SIGNALS)):
                # A handler that is not Python's, such as JAX's, is None and cannot be put back.
                self._previous[number] = signal.getsignal(number) or signal.SIG_DFL
                signal.signal(number, self._handle)
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        for number, frame in self._deferred.items():
            self._previous[number](number, frame)
        if self._requested and error is None:  # the caller may go on to another run
            raise Interrupted("the run was finished and saved when the signal came", self.exit_status)

    def interrupted(self, what: str) -> Exception:
        """The exception to raise where `poll` says so, after everything is saved."""
        return self._lost_output or Interrupted(f"{what}; run the same command to resume", self.exit_status)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._requested, self.exit_status = True, 130 if number == signal.SIGINT else 0
        if number not in SCHEDULER_SIGNALS:
            previous = self._previous[number]
            signal.signal(number, previous)
            if callable(previous) and previous is not signal.default_int_handler:
                self._deferred[number] = frame
        self._stop_others()

    def _stop_others(self) -> None:
        if not self._alone:
            signal.raise_signal(signal.SIGTERM)

    @contextlib.contextmanager
    def saved_if_output_is_lost(self) -> Iterator[None]:
        """A context of output whose reader may be gone (`| head`, a closed terminal); then the run stops and saves."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            self._requested, self._lost_output = True, error
            self._stop_others()

    def poll(self) -> bool:
        """Whether to stop; called before the first and after every step in every process, the same in all."""
        if self._alone:
            return self._requested
        self._polls += 1
        return multihost_utils.reached_preemption_sync_point(self._polls)


def ignore_scheduler_signals() -> None:
    """Keeps a repeated signal from ending a process that has saved everything and is about to exit."""
    for number in filter(_acts_by_default, SCHEDULER_SIGNALS):
        signal.signal(number, signal.SIG_IGN)


def _acts_by_default(number: int) -> bool:
    """Whether the program neither handles nor ignores the signal, in Python or, as `faulthandler` does, in C."""
    status = Path("/proc/self/status")  # Linux; Python does not know of handlers in C
    caught = re.search(r"^SigCgt:\s*(\w+)", status.read_text() if status.exists() else "", re.MULTILINE)
    in_c = caught is not None and int(caught[1], 16) >> (number - 1) & 1
    return signal.getsignal(number) == signal.SIG_DFL and not in_c
