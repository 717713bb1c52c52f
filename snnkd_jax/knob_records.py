"""What the tutorial says of each knob, from `experiments/results/knobs/`, which `experiments/knobs.py` writes."""

import statistics
from typing import Any

from snnkd_jax.records import mean_and_std


def knob_table(records: list[dict[str, Any]], group: str) -> str:
    """A table of one group of options: the recipe's student, and one for each other value.

    The change is the mean of the differences between students of one seed ± its standard error.
    """
    return "\n".join(_table(record, group) for record in records)


def _table(record: dict[str, Any], group: str) -> str:
    recipe, *others = record["entries"]
    lines = [
        "| option | recipe | tried | accuracy, % | change, points | spikes per neuron and step |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| | | | {_percent(recipe)} | | {mean_and_std(recipe['firing_rate'], 3)} |",
    ]
    for entry in others:
        if entry["group"] == group:
            cells = [f"`{entry['option']}`", str(entry["recipe"]), str(entry["value"]), _percent(entry)]
            cells += [_change(entry, recipe), mean_and_std(entry["firing_rate"], 3)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _percent(entry: dict[str, Any]) -> str:
    return mean_and_std([100 * accuracy for accuracy in entry["accuracy"]], 2)


def _change(entry: dict[str, Any], recipe: dict[str, Any]) -> str:
    changes = [100 * (a - b) for a, b in zip(entry["accuracy"], recipe["accuracy"], strict=True)]
    error = f" ± {statistics.stdev(changes) / len(changes) ** 0.5:.2f}" if len(changes) > 1 else ""
    return f"{statistics.fmean(changes):+.2f}{error}"


def knob_source(records: list[dict[str, Any]]) -> str:
    """Where the numbers come from, in words."""
    return "".join(
        f"[{r['name']}](../results/knobs/{r['name']}.json): `{r['command']}`, {r['dataset']}; each student is "
        f"`{r['run_command']}` with the teacher of its seed and one option changed; seeds "
        f"{', '.join(map(str, r['seeds']))}; {r['hardware']}, jax {r['versions']['jax']}.\n"
        for r in records
    )
