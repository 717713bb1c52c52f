"""Put the student of a finished run into the package, `snnkd_jax/inference/weights/<name>.npz` and `<name>.json`.

python experiments/pack_student.py runs/mnist --name mnist --title MNIST --record mnist --licence "CC BY-SA 3.0"
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro

from snnkd_jax.cli.arguments import call
from snnkd_jax.errors import InputError
from snnkd_jax.inference.predict import accuracy_by_step
from snnkd_jax.inference.students import as_bytes, write_student
from snnkd_jax.inference.students import half_precision as rounded_to_half
from snnkd_jax.inference.trained import load
from snnkd_jax.runs.command import command
from snnkd_jax.runs.recipe import read_config
from snnkd_jax.training.saved import read_network
from snnkd_jax.versions import versions

LARGEST = 4_000_000
"""Bytes of a file of weights."""


def main(
    run: tyro.conf.Positional[Path], name: str, title: str, record: str, licence: str, half_precision: bool = False
) -> None:
    """Put the student of a finished run into the package.

    In half precision, if it then has the same class for every image of the test set, or if that is asked for.

    Args:
        run: Run directory.
        name: The name by which it is loaded.
        title: Name of the data set in the card, such as "CIFAR-10 (JPEG copy)".
        record: Name of the record of the run.
        licence: Licence of the data set.
        half_precision: Round the weights even if classes change; the card then has the accuracy of the rounded ones.
    """
    student, config = load(run, "student"), read_config(run)
    data = config.load_data()
    half = replace(student, variables=rounded_to_half(student.variables))
    classes, rounded = (network.predict(data.test_images).classes for network in (student, half))
    changed = int(np.sum(classes != rounded))
    print(f"half precision changes {changed} of {len(classes)} classes of the test set")
    if half_precision or not changed:
        student, classes = half, rounded
    if half_precision and changed:
        logits = student.logits_by_step(data.test_images, student.network.num_steps or 1)
        by_step = [float(accuracy) for accuracy in accuracy_by_step(logits, data.test_labels)]
        found = {"accuracy": by_step[-1], "accuracy_by_step": by_step, "classes_changed": changed / len(classes)}
        student = replace(student, result={**student.result, **found})
    if (size := len(as_bytes(student.variables))) > LARGEST:
        advice = "train a narrower student, or give --half-precision"
        raise InputError(f"run {run}: the weights take {size} bytes, more than {LARGEST}; {advice}")
    card = {
        "network": read_network(run / "student"),
        "result": student.result,
        "first_test_classes": classes[:10].tolist(),
        "data": title,
        "licence": licence,
        "record": record,
        "command": command(config),
        "versions": versions(),
    }
    print(f"{write_student(name, student.variables, card)}: {size} bytes")


if __name__ == "__main__":
    sys.exit(call(main))
