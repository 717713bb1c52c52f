"""Signals that stop a run: it saves a checkpoint at the end of the step and exits.

Of several processes one may get the signal; all stop after the same step. JAX passes SIGTERM on to the others and has
them agree on the step, the first one that none of them has completed.
"""

import signal
from types import FrameType
from typing import Any

from jax.experimental import multihost_utils

from snnkd_jax.parallel.hosts import is_distributed


class Interrupted(Exception):
    """Raised after the checkpoint is on disk; `exit_status` is 0 for SIGTERM and 130 for SIGINT."""

    def __init__(self, message: str, exit_status: int):
        super().__init__(message)
        self.exit_status = exit_status


class StopRequest:
    """A context in which SIGTERM and SIGINT set a flag instead of ending the process; a second one ends it.

    With several processes JAX handles SIGTERM, and SIGINT is turned into one. `exit_status` is that of the signal.
    """

    exit_status = 0
    _requested = False
    _polls = 0

    def __enter__(self) -> "StopRequest":
        self._alone = not is_distributed()
        numbers = (signal.SIGTERM, signal.SIGINT) if self._alone else (signal.SIGINT,)
        # A handler that is not Python's, such as JAX's, is None and cannot be put back.
        self._previous: dict[int, Any] = {n: signal.signal(n, self._handle) or signal.SIG_DFL for n in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._requested, self.exit_status = True, 130 if number == signal.SIGINT else 0
        signal.signal(number, self._previous[number])
        if not self._alone:
            signal.raise_signal(signal.SIGTERM)

    def poll(self) -> bool:
        """Whether to stop after this step; to be called after every step in every process, the same in all."""
        if self._alone:
            return self._requested
        self._polls += 1
        return multihost_utils.reached_preemption_sync_point(self._polls)
