"""The tables of presets: students that differ in their objective alone.

Those of CIFAR-10, in `experiments/results/presets/`, are written by `experiments/presets.py`; those of digits, in
`experiments/results/knobs/`, by `experiments/knobs.py`.
"""

import statistics
from typing import Any

from records.knobs import knob_source
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import gain, mean_and_std, percent

TERMS = "± standard deviation over seeds; the gain is over `none` with the same seeds, ± standard error."


def presets_section(records: list[dict[str, Any]]) -> str:
    """A table of the presets of each record, the best first, with its source."""
    parts = []
    for record in records:
        students = {entry["preset"]: entry | {"accuracy": entry["test_accuracy"]} for entry in record["entries"]}
        parts += [preset_table(students), f"Test accuracy after the last epoch, {TERMS}\n", _source(record)]
    return "\n".join(parts)


def _source(record: dict[str, Any]) -> str:
    seconds = {entry["preset"]: statistics.median(entry["seconds"]) for entry in record["entries"]}
    slowest = max(seconds, key=seconds.__getitem__)
    return (
        f"[{record['name']}](../experiments/results/presets/{record['name']}.json): `{record['command']}`, "
        f"{record['dataset']}; each student is `{record['run_command']}` with its preset and seed, "
        f"{statistics.median(seconds.values()) / 60:.0f} minutes in the median and {seconds[slowest] / 60:.0f} for "
        f"`{slowest}`; the teacher has {100 * record['teacher_accuracy']:.2f} %; {record['hardware']}, jax "
        f"{record['versions']['jax']}. {record['notes']}".rstrip()
        + "\n"
    )


def loss_section(records: list[dict[str, Any]]) -> str:
    """The same of digits, from the records of options."""
    tables = []
    for record in records:
        tried = [entry for entry in record["entries"] if entry.get("group") == "loss"]
        students = {entry["value"]: entry for entry in tried} | {tried[0]["recipe"]: record["entries"][0]}
        tables.append(preset_table({name: entry | {"seeds": record["seeds"]} for name, entry in students.items()}))
    return "\n".join(["".join(tables), f"Accuracy on images that are held out, {TERMS}\n", knob_source(records)])


def preset_table(students: dict[str, dict[str, Any]]) -> str:
    """The table of students by preset, each with its `seeds`, and the `accuracy` and `firing_rate` of each seed.

    The gain is the mean of the differences from `none` between students of one seed ± its standard error.
    """
    none = dict(zip(students["none"]["seeds"], students["none"]["accuracy"], strict=True))
    rows = []
    for name, student in sorted(students.items(), key=lambda item: -statistics.fmean(item[1]["accuracy"])):
        pairs = zip(student["seeds"], student["accuracy"], strict=True)
        both = [(accuracy, none[seed]) for seed, accuracy in pairs if seed in none]
        gained = "–" if name == "none" or not both else gain(*zip(*both, strict=True))
        rates = mean_and_std(student["firing_rate"], 3)
        rows.append((f"`{name}`", len(student["seeds"]), percent(student["accuracy"]), gained, rates))
    heading = ("preset", "seeds", "accuracy, %", "gain over `none`, points", "spikes per neuron and step")
    return markdown_table(heading, rows)
