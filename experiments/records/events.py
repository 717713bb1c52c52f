"""The table of the page on events, from `experiments/results/events/`: trainings by what student and teacher see."""

from typing import Any

from records.trainings import folded, teacher_of
from snnkd_jax.errors import InputError
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import gain, percent
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config, config_of
from snnkd_jax.runs.recipe import BOOKKEEPING, DISTILLATION, SEED, differences

Records = list[dict[str, Any]]

BASELINE = "student_baseline/test_accuracy"


def events_section(records: Records) -> str:
    """A row for the student of mean frames, one for that of single frames, and one per teacher; then the commands.

    Raises `InputError` if they are not of the same student and seeds.
    """
    if not records:
        return ""
    direct = next(record for record in records if BASELINE in record["metrics"])
    without = direct["metrics"][BASELINE]["values"]
    rows = [("frame by frame", "–", "–", percent(without), "–")]
    for record in records:
        config, values = _config(record), record["metrics"]["student/test_accuracy"]["values"]
        _check(record, direct)
        if config.is_plain:
            rows.insert(0, ("the mean over time", "–", "–", percent(values), gain(values, without)))
            continue
        teacher = f"`{config.objective.preset}`, {config.teacher.teacher_frames}"
        rows.append(("frame by frame", teacher, teacher_of(record), percent(values), gain(values, without)))
    heading = ("student sees", "trained by, teacher sees", "teacher, %", "student, %", "against no KD, points")
    commands = []
    for record in records:
        seeds, minutes = ", ".join(map(str, record["seeds"])), record["metrics"]["seconds"]["mean"] / 60
        machine = f"{record['hardware']}, jax {record['versions']['jax']}"
        link = f"[{record['name']}](../experiments/results/{record['name']}.json)"
        text = f"- {link}: `{command(_config(record))}`; seeds {seeds}, {minutes:.1f} min each on {machine}."
        commands.append(f"{text} {record['notes']}".rstrip())
    terms = (
        f"Test accuracy after the last epoch, mean ± standard deviation over seeds {seeds}; differences are between\n"
    )
    terms += "students of the same seed, ± their standard error.\n"
    return f"{markdown_table(heading, rows)}\n{terms}\n{folded(commands)}"


def _config(record: dict[str, Any]) -> Config:
    return config_of(record["config"], f"the record {record['name']!r}")


def _check(record: dict[str, Any], direct: dict[str, Any]) -> None:
    """Raises `InputError` unless a record differs from another in distillation and in what the student sees alone."""
    names = differences(_config(record), _config(direct), (*SEED, *BOOKKEEPING, *DISTILLATION, "student_frames"))
    if names or record["seeds"] != direct["seeds"]:
        raise InputError(f"records {record['name']} and {direct['name']} differ in {', '.join(names) or 'seeds'}")
