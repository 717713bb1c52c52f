"""The page on accuracy under noise, from the records in `experiments/results/noise/`."""

from typing import Any

from records.trainings import folded
from snnkd_jax.report.noise import in_words, noise_table
from snnkd_jax.runs.config import config_of


def noise_section(records: list[dict[str, Any]]) -> str:
    """The kinds in a picture, then a table, a figure and the command for each record."""
    if not records:
        return ""
    parts = ["![Three digits under each kind of image noise, levels 0 to 5.](figures/noise-levels.png)\n"]
    for record in records:
        name, seeds = record["name"], ", ".join(map(str, record["seeds"]))
        parts += [
            f"## {record['dataset']}, {_method(record)}\n",
            noise_table(record),
            f"[{name}](../experiments/results/noise/{name}.json): {record['dataset']}, {_described(record)}; test "
            f"accuracy in %, each kind's mean over its five levels, ± standard deviation over seeds {seeds}, of gains "
            f"the standard error; {record['images']} test images, the same noise for every network. {in_words(record)} "
            f"[By level](figures/noise-{name}.svg).\n",
            folded(
                [f"`{record['command']}`, {_runs(record)}, on {record['hardware']}. {record['notes']}".rstrip()],
            ),
        ]
    return "\n".join(parts)


def _method(record: dict[str, Any]) -> str:
    return config_of(record["config"], record["name"]).method


def _described(record: dict[str, Any]) -> str:
    config = config_of(record["config"], record["name"])
    beginning = " (the gain is of both)" if config.student.initial_weights == "teacher" else ""
    student = config.student
    return f"{student.student}, width {student.width:g}, T = {student.num_steps}, {config.method}{beginning}"


def _runs(record: dict[str, Any]) -> str:
    baseline = record["baseline_command"]
    return f"RUN of `{record['run_command']}`" + ("" if baseline is None else f", baseline of `{baseline}`")
