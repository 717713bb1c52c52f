"""The tables of options in the tutorial.

The records, in `experiments/results/knobs/`, are written by `experiments/knobs.py`.
"""

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


def knob_source(records: list[dict[str, Any]]) -> str:
    """Where the numbers come from, in words."""
    return "".join(
        f"[{r['name']}](../experiments/results/knobs/{r['name']}.json): `{r['command']}`, {r['dataset']}; each student "
        f"is `{r['run_command']}` with the teacher of its seed and one option changed; seeds "
        f"{', '.join(map(str, r['seeds']))}; {r['hardware']}, jax {r['versions']['jax']}.\n"
        for r in records
    )
