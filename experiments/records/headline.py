"""The README's table: eight records, one row each.

Seven are of trainings, and one is of a conversion, the alternative to training a spiking network.
"""

from typing import Any

from records.trainings import steps_of, student_and_gain, teacher_of, without_kd
from snnkd_jax.errors import InputError
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import percent

Records = list[dict[str, Any]]

TRAININGS = {
    "cifar10-vgg11-response": "`kdsnn-response`, teacher airbench94",
    "cifar10-vgg11-none-initial": "cross-entropy, initialised from the teacher",
    "cifar10-vgg11-response-initial": "`kdsnn-response`, initialised from the teacher",
    "cifar10-headline": "`temporal`, initialised from the teacher",
    "mnist-airbench": "`temporal`",
    "fashion-airbench": "`temporal`",
    "digits": "`temporal`",
}
"""Record to how its student was trained."""

CONVERSION, CONVERTED_AT = "cifar10-vgg11-qcfs", 4


def headline_section(records: Records, steps: Records) -> str:
    """The table; raises `InputError` if a record is missing.

    Args:
        records: of trainings, `experiments/results/`.
        steps: of accuracy against T, `experiments/results/steps/`.
    """
    rows = []
    for name, how in TRAININGS.items():
        record = _named(records, name)
        config, without = record["config"], without_kd(record, records)
        accuracy, gained = student_and_gain(record, records)
        data = f"[{record['dataset']}](experiments/results/{name}.json)"
        direct = "–" if without is None else percent(without)
        student, gained = f"{config['student']} × {config['width']:g}", gained.split(";")[0]
        rows.append((data, student, steps_of(record), how, teacher_of(record), direct, accuracy, gained))
    record = _named(steps, CONVERSION)
    (entry,) = record["entries"]
    data = f"[{record['dataset']}](experiments/results/steps/{CONVERSION}.json)"
    converted = percent([accuracy[CONVERTED_AT - 1] for accuracy in entry["accuracy"]])
    how = f"{entry['method']}, not trained as a spiking network"
    rows.append((data, _short(entry["network"]), CONVERTED_AT, how, percent(entry["ordinary"]), "–", converted, "–"))
    heading = ("data", "student", "T", "trained by", "teacher, %", "without KD, %", "student, %", "gain, points")
    return markdown_table(heading, rows)


def _short(network: str) -> str:
    return network.replace(", width", " ×")


def _named(records: Records, name: str) -> dict[str, Any]:
    for record in records:
        if record["name"] == name:
            return record
    raise InputError(f"the README's table needs the record {name!r}, which is not in experiments/results/; restore it")
