"""The events of a trace as the wall time of each op.

An event of an op may have others within it on its thread (a conditional and the ops of its branch); each moment belongs
to the innermost. An op may also hand parts of its work to a pool of threads. The trace shows such a task without a
name, but with a number, and at which moment it was handed over: its time is the op's whose it was then.

Threads work in parallel: a moment at which n threads work is divided equally among their n ops. So the times of all ops
add up to the time at which any thread worked, and never exceed that of the clock. A thread that waits within an op for
the op's other threads counts as working on it.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax


@dataclasses.dataclass
class Event:
    """What a thread did from `start` to `end`, in nanoseconds.

    Attributes:
        start: when it began.
        end: when it ended.
        op: the HLO instruction that it runs; None for a task.
        task: the number of the task that it is.
        hands_over: the number of the task that it hands to the pool; such an event takes no time.
    """

    start: float
    end: float
    op: str | None = None
    task: int | None = None
    hands_over: int | None = None


def wall_time(threads: Iterable[Sequence[Event]]) -> tuple[dict[str, float], float]:
    """Op to its nanoseconds of wall time, and the nanoseconds that all threads together worked."""
    edges = []
    for thread, events in enumerate(threads):
        for e in events:
            if e.hands_over is not None:
                edges.append((e.start, 2, 0.0, thread, e))
            elif e.end > e.start:
                # Of two that start at once the longer is the outer one, and a task starts after it was handed over.
                edges.append((e.start, 1 if e.op is not None else 3, e.start - e.end, thread, e))
                edges.append((e.end, 0, 0.0, thread, e))
    stacks: dict[int, dict[int, str | None]] = collections.defaultdict(dict)  # of a thread: open event to its op
    owners: dict[int | None, str | None] = {}
    spent: dict[str, float] = collections.defaultdict(float)
    worked, before = 0.0, 0.0
    for time, kind, _, thread, event in sorted(edges, key=lambda edge: edge[:4]):
        busy = [op for stack in stacks.values() if (op := _innermost(stack)) is not None]
        for op in busy:
            spent[op] += (time - before) / len(busy)
        worked += (time - before) * len(busy)
        before, stack = time, stacks[thread]
        if kind == 0:
            del stack[id(event)]
        elif kind == 2:
            owners[event.hands_over] = _innermost(stack)
        else:
            stack[id(event)] = owners.get(event.task) if event.op is None else event.op
    return dict(spent), worked


def _innermost(stack: dict[int, str | None]) -> str | None:
    return next(reversed(stack.values()), None)


def read_trace(directory: Path) -> list[list[Event]]:
    """The events of each thread of a trace of `jax.profiler` on CPU."""
    (file,) = directory.rglob("*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    return [_events(line) for plane in planes if plane.name == "/host:CPU" for line in plane.lines]


def _events(line) -> list[Event]:
    events, open_tasks = [], []
    for e in sorted(line.events, key=lambda e: e.start_ns):
        stats = dict(e.stats)
        if "hlo_op" in stats:
            events.append(Event(e.start_ns, e.start_ns + e.duration_ns, op=stats["hlo_op"]))
        elif e.name == "ThreadpoolListener::Record":
            events.append(Event(e.start_ns, e.start_ns, hands_over=stats["_p"]))
        elif e.name == "ThreadpoolListener::StartRegion":
            open_tasks.append(Event(e.start_ns, e.start_ns, task=stats["_c"]))
        elif e.name == "ThreadpoolListener::StopRegion" and open_tasks:
            events.append(open_tasks.pop())
            events[-1].end = e.start_ns
    return events
