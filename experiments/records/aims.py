"""What was to be shown, set before anything was measured; what the records have of it, and whether that is enough."""

import statistics
from collections.abc import Sequence
from typing import Any

from records.trainings import without_kd
from snnkd_jax.errors import InputError
from snnkd_jax.report.energy import of_ann
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import percent, points, standard_error

Records = list[dict[str, Any]]
Aim = tuple[str, str, bool]
"""The aim, what was found, and whether that reaches it."""


def aims_section(records: Records, steps: Records, noise: Records, energy: Records, presets: Records) -> str:
    """The table of aims on the results page.

    Args:
        records: of students, `experiments/results/`.
        steps, noise, energy, presets: those of the folder of that name.
    """
    aims = [
        *_accuracies(steps),
        *_gains(records, steps),
        _gain_of_preset(presets),
        *_strongest(records, energy),
        *_first_steps(steps),
        *_conversion(steps),
        *_noise(noise),
        *_energy(energy),
    ]
    rows = ((aim, found, "yes" if reached else "**no**") for aim, found, reached in aims)
    return markdown_table(("aim", "found", "reached"), rows)


def _accuracies(steps: Records) -> list[Aim]:
    """Those of published students, whatever their size."""
    aims = []
    for name, what, t, least in (
        ("mnist-airbench", "MNIST, T = 4: 99.50 % (KDSNN has 99.37)", 4, 0.9950),
        ("mnist-airbench", "MNIST, T = 2: 99.37 %", 2, 0.9937),
        ("fashion-airbench", "Fashion-MNIST, T = 4: 93.5 %", 4, 0.935),
    ):
        found = _at(named(steps, name), t)
        aims.append((what, percent(found), statistics.fmean(found) >= least))
    return aims


def _gains(records: Records, steps: Records) -> list[Aim]:
    fashion = named(steps, "fashion-airbench")
    cifar = named(records, "cifar10-vgg11-response")
    without = without_kd(cifar, records)
    assert without is not None
    gains = _differences(cifar["metrics"]["student/test_accuracy"]["values"], without)
    mean = statistics.fmean(gains)
    at_2, at_4 = (_differences(_at(fashion, t), _at(fashion, t, "student without KD")) for t in (2, 4))
    return [
        (
            "Fashion-MNIST, T = 4: KD above none",
            f"{points(at_4)}; at T = 2, as both were trained, {points(at_2)}",
            statistics.fmean(at_4) > 0,
        ),
        (
            "CIFAR-10, T = 4: 1.76 points above none (KDSNN's largest gain), and more than two standard errors",
            points(gains),
            mean >= 0.0176 and mean > 2 * standard_error(gains),
        ),
    ]


def _gain_of_preset(presets: Records) -> Aim:
    """Of the one preset that has several seeds."""
    found = {e["preset"]: e["test_accuracy"] for e in named(presets, "cifar10")["entries"]}
    gains = _differences(found["kdsnn-response"], found["none"])
    return (
        "CIFAR-10, VGG-11, T x D = 2 x 2, from random weights: `kdsnn-response` 2.5 points above none",
        points(gains),
        statistics.fmean(gains) >= 0.025,
    )


def _strongest(records: Records, energy: Records) -> list[Aim]:
    """Of the student on which most time was spent; its accuracy at T = 4 is known from the count of its operations."""
    networks = named(energy, "cifar10-headline")["networks"]
    student, teacher = (networks[role]["test_accuracy"] for role in ("student", "ann"))
    first = named(records, "cifar10-headline")["metrics"]["student/test_accuracy_at_1"]["values"][0]
    return [
        (
            "CIFAR-10, T = 4, the strongest student: 92 % (KDSNN has 93.41)",
            f"{percent([student])}, one seed",
            student >= 0.92,
        ),
        (
            "the same: at most 1.5 points below its teacher",
            f"{100 * (teacher - student):.2f} below",
            teacher - student <= 0.015,
        ),
        _first_step("CIFAR-10, the strongest student", [student - first]),
    ]


def _first_steps(steps: Records) -> list[Aim]:
    return [
        _first_step(what, _differences(_at(record, 4), _at(record, 1)))
        for what, record in (
            ("CIFAR-10, VGG-11", named(steps, "cifar10-vgg11-response")),
            ("MNIST", named(steps, "mnist-airbench")),
            ("Fashion-MNIST", named(steps, "fashion-airbench")),
            ("digits", named(steps, "digits-students")),
        )
    ]


def _first_step(what: str, lost: list[float]) -> Aim:
    """How much less a student has at T = 1 than at T = 4."""
    mean = statistics.fmean(lost)
    return f"{what}: T = 1 at most 2 points below T = 4", f"{100 * mean:.2f} below", mean <= 0.02


def _conversion(steps: Records) -> list[Aim]:
    student = statistics.fmean(_at(named(steps, "cifar10-vgg11-response-initial"), 4))
    converted = {
        (entry["method"].removeprefix("conversion, "), t): statistics.fmean(seed[t - 1] for seed in entry["accuracy"])
        for name in ("cifar10-vgg11-percentile", "cifar10-vgg11-qcfs")
        for entry in named(steps, name)["entries"]
        for t in range(1, 33)
    }
    (method, t), best = max(converted.items(), key=lambda item: item[1])
    return [
        (
            "CIFAR-10, VGG-11: the student at T = 4 above every conversion at T ≤ 32",
            f"{100 * student:.2f} against {100 * best:.2f} ({method}, T = {t})",
            student > best,
        )
    ]


def _noise(records: Records) -> list[Aim]:
    return [
        (
            f"noise, {record['dataset']}, [{record['name']}](../experiments/results/noise/{record['name']}.json): "
            "KD better in 10 of 14 kinds",
            f"{len(record['comparison']['better'])} of {len(record['comparison']['kinds'])}",
            len(record["comparison"]["better"]) >= 10,
        )
        for record in records
    ]


def _energy(records: Records) -> list[Aim]:
    return [
        (
            f"energy of the student at T = 4, {record['networks']['student']['model']}: below that of its ANN",
            f"{ratio:.2f} of it",
            ratio < 1,
        )
        for record in records
        if record["networks"]["student"]["num_steps"] == 4 and (ratio := of_ann(record, "student")) is not None
    ]


def _differences(accuracies: Sequence[float], others: Sequence[float]) -> list[float]:
    """A seed each."""
    return [a - b for a, b in zip(accuracies, others, strict=True)]


def named(records: Records, name: str) -> dict[str, Any]:
    """The record of that name; raises `InputError` if it is not there."""
    for record in records:
        if record["name"] == name:
            return record
    raise InputError(f"the table of aims needs the record {name!r}, which is not in experiments/results/; restore it")


def _at(record: dict[str, Any], t: int, method: str = "student, ") -> list[float]:
    """The accuracies at T = t of the network whose method begins so, a seed each."""
    entry = next(entry for entry in record["entries"] if entry["method"].startswith(method))
    return [by_step[t - 1] for by_step in entry["accuracy"]]
