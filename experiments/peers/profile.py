"""Where the time of a step goes: milliseconds by class of op, from a trace of a few steps in a worker."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from snnkd_jax.errors import InputError

from .op_class import CLASSES, OTHER, Program
from .timeline import read_trace, wall_time
from .workload import Step


def profile(step: Step, n: int) -> dict[str, Any]:
    """Traces n steps of a step that has run before.

    Returns, in milliseconds of a step, `milliseconds` by class, `idle`, during which no op ran (dispatch, waiting,
    Python), and `step`, their sum: the mean step by the clock, tracing included. `threads` is how many worked on
    average while any did. Raises `InputError` if the trace has no ops, as on other platforms than CPU.
    """
    text = step.program()
    assert text is not None, "only programs of JAX can be profiled"
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # which would take longer than small ops
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory, profiler_options=options):
            seconds = step.run(n)
        spent, worked = wall_time(read_trace(Path(directory)))
    if not spent:
        raise InputError(f"profile_ops on {jax.default_backend()}: the trace has no ops that can be read; use the CPU")
    classes = Program(text).classes()
    milliseconds = dict.fromkeys(CLASSES, 0.0)
    for op, nanoseconds in spent.items():
        milliseconds[classes.get(op, OTHER)] += nanoseconds / n / 1e6
    total, busy = 1e3 * sum(seconds) / n, sum(milliseconds.values())
    return {
        "milliseconds": milliseconds,
        "idle": total - busy,
        "step": total,
        "threads": worked / n / 1e6 / busy,
        "steps": n,
    }
