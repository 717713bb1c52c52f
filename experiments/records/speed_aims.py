"""What was to be reached in speed, set before it was measured, and what the records have of it.

Ratios between libraries are those of medians of one record, in which they took turns.
"""

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from records.aims import Aim, Records, named
from snnkd_jax.report.markdown import markdown_table

OURS, COMPILED = "snnkd_jax", "SpikingJelly, compiled"
AT_4, AT_16 = "cpu-jax012", "time-steps-jax012"
Entry = dict[str, Any]


def speed_aims_section(records: Records) -> str:
    """The table of aims on the speed page."""
    at_4, at_16 = named(records, AT_4), named(records, AT_16)
    aims = [
        *_against_others(at_4, {"train": 0.9, "rate": 1.8, "inference": 0.95}),
        *_against_others(at_16, {"train": 1.0, "rate": 3.0}),
        *_integer(at_4),
        *_with_teacher(named(records, "profile")),
        *_growth(at_4, at_16),
        *_to_accuracy(named(records, "time-to-accuracy-integer")),
    ]
    rows = ((aim, found, "yes" if reached else "**no**") for aim, found, reached in aims)
    return markdown_table(("aim", "found", "reached"), rows)


_TASKS = {"train": "exact step", "rate": "rate-based step", "inference": "inference"}


def _against_others(record: dict[str, Any], least: dict[str, float]) -> Iterable[Aim]:
    """Images/s over those of the fastest other library, whose training is exact."""
    for task, ratio in least.items():
        for model in _models(record):
            (ours,) = _entries(record, model, task, lambda library: library == OURS)
            others = _entries(record, model, "inference" if task == "inference" else "train", lambda x: x != OURS)
            fastest = max(others, key=_speed)
            found = _speed(ours) / _speed(fastest)
            what = f"{_TASKS[task]}, {model}, T = {ours['num_steps']}"
            aim = f"{what}: at least {ratio:g} times as fast as the fastest other library"
            yield aim, f"{found:.2f} ({fastest['library']})", found >= ratio


_STEPS = {
    "train": "exact step, T = 4",
    "rate": "rate-based step, T = 4",
    "integer": "integer step, T x D = 1 x 4",
}


def _integer(record: dict[str, Any]) -> Iterable[Aim]:
    for model in _models(record):
        exact, integer = (_entries(record, model, task, lambda x: x == OURS)[0] for task in ("train", "integer"))
        found = _speed(integer) / _speed(exact)
        yield (
            f"integer step, {model}, T x D = 1 x 4: at least 3.3 times as fast as ours at T = 4",
            f"{found:.2f}",
            found >= 3.3,
        )


def _with_teacher(record: dict[str, Any]) -> Iterable[Aim]:
    """Milliseconds of a step that is not traced."""
    for model in _models(record):
        steps = {e["task"]: e for e in record["entries"] if e["model"] == model and e["num_steps"] == 4}
        for kd in ("kd", "kd-rate", "kd-integer"):
            task = kd.removeprefix("kd").removeprefix("-") or "train"
            found = steps[kd]["untraced"] / steps[task]["untraced"]
            aim = f"{_STEPS[task]}, {model}, with a teacher of its size: at most 1.25 of the time without"
            yield aim, f"{found:.2f}", found <= 1.25


def _growth(at_4: dict[str, Any], at_16: dict[str, Any]) -> Iterable[Aim]:
    """What T = 16 needs, in units of T = 4."""
    for model in (m for m in _models(at_4) if m in _models(at_16)):
        few, many = (
            {task: _entries(record, model, task, lambda x: x == OURS)[0] for task in ("train", "rate")}
            for record in (at_4, at_16)
        )
        memory = many["rate"]["peak_bytes"] / few["rate"]["peak_bytes"]
        first = many["train"]["first_step_seconds"] / few["train"]["first_step_seconds"]
        yield f"memory, rate-based, {model}: at T = 16 at most 1.2 of that at T = 4", f"{memory:.2f}", memory <= 1.2
        yield f"first step, exact, {model}: at T = 16 at most 1.5 of that at T = 4", f"{first:.2f}", first <= 1.5


def _to_accuracy(record: dict[str, Any]) -> Iterable[Aim]:
    """Means over the seeds."""
    seconds = {name: found["seconds"] for name, found in record["found"].items()}
    ours, theirs = seconds["snnkd_jax, integer"], seconds[COMPILED]
    level = f"{100 * record['target']:g} % on {record['dataset']}, {record['config']['student']}"
    aim = f"time to {level}: integer neurons at most half of that of LIF neurons of {COMPILED}"
    if None in ours or None in theirs:
        yield aim, "not reached by all runs", False
        return
    found = statistics.fmean(ours) / statistics.fmean(theirs)
    yield aim, f"{found:.2f} (means of {len(ours)} and {len(theirs)} seeds)", found <= 0.5


def _models(record: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(entry["model"] for entry in record["entries"]))


def _entries(record: dict[str, Any], model: str, task: str, library: Callable[[str], bool]) -> list[Entry]:
    """Those of a model and a task, of the libraries for which `library` holds."""
    return [e for e in record["entries"] if e["model"] == model and e["task"] == task and library(e["library"])]


def _speed(entry: Entry) -> float:
    return entry["images_per_second"]["median"]
