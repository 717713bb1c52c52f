"""A trace of a few training steps, for TensorBoard (its profile plugin) or Perfetto (ui.perfetto.dev)."""

import contextlib
import warnings
from pathlib import Path
from typing import Any

import jax

# Traced steps, counted from the first of a session; those before them compile and fill caches.
PROFILED_STEPS = range(5, 10)


class Profiler(contextlib.ExitStack):
    """A context that traces `PROFILED_STEPS` of the steps from `start` to `stop` into `directory`; None traces nothing.

    A trace cut short by an interruption is written too. Warns if there are too few steps.
    """

    def __init__(self, directory: Path | None, start: int, stop: int):
        super().__init__()
        self._directory = directory
        self._steps = range(start + PROFILED_STEPS.start, min(start + PROFILED_STEPS.stop, stop))
        if directory is not None and not self._steps:
            message = f"no trace: {stop - start} steps are left, and the first {PROFILED_STEPS.start} are not traced"
            warnings.warn(message, stacklevel=2)

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._directory is not None and self._steps and step == self._steps.start:
            self.enter_context(jax.profiler.trace(self._directory, create_perfetto_trace=True))

    def after(self, step: int, outputs: Any) -> None:
        """To be called when a step has been dispatched, with its outputs."""
        if self._directory is not None and step + 1 == self._steps.stop:
            jax.block_until_ready(outputs)
            self.close()
