"""Signals that ask a run to stop: it saves a checkpoint at the end of the step and exits.

Of several processes one may get the signal; all stop after the same step. JAX passes SIGTERM on to the others and has
them agree on the step, the first one that none of them has left behind.
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
    """While entered, SIGTERM and SIGINT are noted instead of ending the process; a second one ends it.

    With several processes SIGTERM is JAX's, and SIGINT becomes one.
    """

    _signal_number: int | None = None
    _times_asked = 0

    def __enter__(self) -> "StopRequest":
        self._alone = not is_distributed()
        numbers = (signal.SIGTERM, signal.SIGINT) if self._alone else (signal.SIGINT,)
        # A handler that is not Python's, such as JAX's, is None and cannot be put back.
        self._previous: dict[int, Any] = {n: signal.signal(n, self._note) or signal.SIG_DFL for n in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signal_number = number
        signal.signal(number, self._previous[number])
        if not self._alone:
            signal.raise_signal(signal.SIGTERM)

    def asked(self) -> bool:
        """Whether to stop after this step. To be called after every step, by every process: all get one answer."""
        if self._alone:
            return self._signal_number is not None
        self._times_asked += 1
        return multihost_utils.reached_preemption_sync_point(self._times_asked)

    @property
    def exit_status(self) -> int:
        """130 if this process got SIGINT, else 0."""
        return 130 if self._signal_number == signal.SIGINT else 0
