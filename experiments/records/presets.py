"""The tables of presets: students that differ in their objective alone.

Those of CIFAR-10, in `experiments/results/presets/`, are written by `experiments/presets.py`; those of digits, in
`experiments/results/knobs/`, by `experiments/knobs.py`.
"""

import statistics
from typing import Any

from records.knobs import knob_source
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import gain, mean_and_std, percent

TERMS = "± standard deviation over seeds; the gain is over the same seeds without a teacher, ± standard error."


def presets_section(records: list[dict[str, Any]]) -> str:
    """A table of the presets of each record, the best first, with its source."""
    return "\n".join(part for record in records for part in (_cifar_table(record), TERMS + "\n", _source(record)))


def _cifar_table(record: dict[str, Any]) -> str:
    students = {entry["preset"]: entry | {"accuracy": entry["test_accuracy"]} for entry in record["entries"]}
    return preset_table(students)


def _source(record: dict[str, Any]) -> str:
    minutes = statistics.median(seconds for entry in record["entries"] for seconds in entry["seconds"]) / 60
    return (
        f"[{record['name']}](../experiments/results/presets/{record['name']}.json): `{record['command']}`, "
        f"{record['dataset']}; test accuracy after the last epoch; each student is `{record['run_command']}` with its "
        f"preset and seed, {minutes:.0f} minutes in the median on one core beside other work; the teacher has "
        f"{100 * record['teacher_accuracy']:.2f} %; {record['hardware']}, jax {record['versions']['jax']}.\n"
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
