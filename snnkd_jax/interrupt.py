"""Signals that ask a run to stop: it saves a checkpoint at the end of the step and exits."""

import signal
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """Raised after the checkpoint is on disk; `exit_status` is 0 for SIGTERM and 130 for SIGINT."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_status = 130 if signal_number == signal.SIGINT else 0


class StopRequest:
    """While entered, SIGTERM and SIGINT set `signal_number` instead of ending the process; a second one ends it."""

    signal_number: int | None = None

    def __enter__(self) -> "StopRequest":
        self._previous: dict[int, Any] = {
            number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_number = number
        signal.signal(number, self._previous[number])
