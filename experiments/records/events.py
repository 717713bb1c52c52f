"""The table of the page on events, from `experiments/results/events/`: trainings by what student and teacher see."""

from typing import Any

from records.trainings import folded, student_and_gain, teacher_of, without_kd
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import percent
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import config_of

ORDER = ("mean", "each", "channels", "images")
"""What a teacher sees; and of students, the mean before single frames."""


def events_section(records: list[dict[str, Any]]) -> str:
    """A row for each record, students without a teacher first, and the commands."""
    if not records:
        return ""
    rows = []
    for record in sorted(records, key=_place):
        config = config_of(record["config"], f"the record {record['name']!r}")
        accuracy, gained = student_and_gain(record, records)
        sees = {"each": "frame by frame", "mean": "the mean over time"}[config.student.student_frames]
        row = [sees, "–", "–", percent(record["metrics"]["student/test_accuracy"]["values"]), "–"]
        if not config.is_plain:
            without = without_kd(record, records)
            assert without is not None
            row = [sees, f"`{config.objective.preset}`, {_seen(record)}", teacher_of(record), accuracy, gained]
        rows.append((*row, len(record["seeds"])))
    heading = ("student sees", "trained by, teacher sees", "teacher, %", "student, %", "gain by KD, points", "seeds")
    commands = [
        f"- [{record['name']}](../experiments/results/{record['name']}.json): "
        f"`{command(config_of(record['config'], record['name']))}`; seeds {', '.join(map(str, record['seeds']))}, "
        f"{record['metrics']['seconds']['mean'] / 60:.1f} min each on {record['hardware']}. {record['notes']}".rstrip()
        for record in sorted(records, key=_place)
    ]
    return f"{markdown_table(heading, rows)}\n{folded(commands)}"


def _seen(record: dict[str, Any]) -> str:
    config = record["config"]
    return "images" if config.get("teacher_images") else config["teacher_frames"]


def _place(record: dict[str, Any]) -> tuple[Any, ...]:
    plain = record["config"]["preset"] == "none"
    return (
        not plain,
        record["config"]["student_frames"] != "mean",
        record["config"]["preset"],
        ORDER.index(_seen(record)),
    )
