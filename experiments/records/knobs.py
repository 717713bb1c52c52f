"""The tables of options in the tutorial, and of distillation losses.

The records, in `experiments/results/knobs/`, are written by `experiments/knobs.py`.
"""

import statistics
from typing import Any

from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import gain, mean_and_std, percent


def knob_table(records: list[dict[str, Any]], group: str) -> str:
    """A table of one group of options: the recipe's student, and one for each other value.

    The change is the mean of the differences between students of one seed ± its standard error.
    """
    return "\n".join(_table(record, group) for record in records)


def _table(record: dict[str, Any], group: str) -> str:
    recipe, *others = record["entries"]
    heading = ("option", "recipe", "tried", "accuracy, %", "change, points", "spikes per neuron and step")
    rows = [["", "", "", percent(recipe["accuracy"]), "", mean_and_std(recipe["firing_rate"], 3)]]
    for entry in others:
        if entry["group"] == group:
            cells = [f"`{entry['option']}`", entry["recipe"], entry["value"], percent(entry["accuracy"])]
            rows.append([*cells, gain(entry["accuracy"], recipe["accuracy"]), mean_and_std(entry["firing_rate"], 3)])
    return markdown_table(heading, rows)


def loss_section(records: list[dict[str, Any]]) -> str:
    """A table of distillation losses, the best first, with its source.

    The gain is the mean of the differences between students of one seed ± its standard error.
    """
    heading = ("preset", "accuracy, %", "gain over `none`, points", "spikes per neuron and step")
    tables = []
    for record in records:
        tried = [entry for entry in record["entries"] if entry.get("group") == "loss"]
        students = {entry["value"]: entry for entry in tried} | {tried[0]["recipe"]: record["entries"][0]}
        rows = []
        for name, student in sorted(students.items(), key=lambda item: -statistics.fmean(item[1]["accuracy"])):
            accuracy, rate = percent(student["accuracy"]), mean_and_std(student["firing_rate"], 3)
            gained = "–" if name == "none" else gain(student["accuracy"], students["none"]["accuracy"])
            rows.append((f"`{name}`", accuracy, gained, rate))
        tables.append(markdown_table(heading, rows))
    terms = "Accuracy on images that are held out, ± standard deviation over seeds; gain ± standard error.\n"
    return "\n".join(["".join(tables), terms, knob_source(records)])


def knob_source(records: list[dict[str, Any]]) -> str:
    """Where the numbers come from, in words."""
    return "".join(
        f"[{r['name']}](../experiments/results/knobs/{r['name']}.json): `{r['command']}`, {r['dataset']}; each student "
        f"is `{r['run_command']}` with the teacher of its seed and one option changed; seeds "
        f"{', '.join(map(str, r['seeds']))}; {r['hardware']}, jax {r['versions']['jax']}.\n"
        for r in records
    )
