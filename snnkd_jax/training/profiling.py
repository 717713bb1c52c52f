"""A trace of a few training steps, for TensorBoard (its profile plugin) or Perfetto (ui.perfetto.dev)."""

import warnings
from pathlib import Path
from typing import Any

import jax

# Steps after the first of a session that are traced: not the very first, which compile and fill caches.
PROFILED_STEPS = range(5, 10)


class Profiler:
    """Traces `PROFILED_STEPS` of the training steps from `start` to `stop` into `directory`; None traces nothing.

    A context: a trace that is cut short by an interruption is written too. Warns if there are too few steps.
    """

    def __init__(self, directory: Path | None, start: int, stop: int):
        self._directory, self._active = directory, False
        self._steps = range(start + PROFILED_STEPS.start, min(start + PROFILED_STEPS.stop, stop))
        if directory is not None and not self._steps:
            message = f"no trace: {stop - start} steps are left, and the first {PROFILED_STEPS.start} are not traced"
            warnings.warn(message, stacklevel=2)

    def __enter__(self) -> "Profiler":
        return self

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._directory is not None and self._steps and step == self._steps.start:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._active = True

    def after(self, step: int, outputs: Any) -> None:
        """To be called when a step has been started, with what it will return."""
        if self._active and step + 1 == self._steps.stop:
            jax.block_until_ready(outputs)
            self.__exit__()

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._active = False
            jax.profiler.stop_trace()
