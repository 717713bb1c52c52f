"""Convert the teachers of finished runs into spiking networks without training, and evaluate them at every T.

    python experiments/convert.py RUN [RUN ...] --dataset "CIFAR-10 (JPEG copy)" --record NAME

The runs are one configuration with several seeds. Teachers with ReLU are converted by percentiles of their activations
on training images, teachers with quantised activations (`cifar_distill.py --teacher-levels 8`) by QCFS.
"""

import sys
from pathlib import Path

import tyro
from accuracy_by_step import STEPS, content_of, print_accuracies

from snnkd_jax.errors import told_in_one_line
from snnkd_jax.files import read_json
from snnkd_jax.inference.convert import convert
from snnkd_jax.inference.predict import accuracy_by_step
from snnkd_jax.inference.trained import load_trained
from snnkd_jax.models.converted import is_quantised
from snnkd_jax.runs.inputs import dataset_of
from snnkd_jax.runs.recipe import seeds_of_one_recipe
from snnkd_jax.runs.record import write_record

AT_A_TIME = 4  # time steps


def main(
    runs: tyro.conf.Positional[list[Path]],
    dataset: str,
    num_steps: int = 64,
    percentile: float = 99.9,
    record: str | None = None,
    notes: str = "",
) -> None:
    """Convert teachers.

    Args:
        runs: Directories of finished runs that differ in their seed.
        dataset: What the data are, in words.
        num_steps: The largest T.
        percentile: Of the activations, for teachers with ReLU.
        record: Write experiments/results/steps/<record>.json.
        notes: What a reader should know.
    """
    found = seeds_of_one_recipe("runs", runs)
    images = dataset_of(found[0][0])
    accuracies, ordinary, method, network = [], [], "", ""
    for _, run in found:
        teacher = load_trained(run, "teacher")
        quantised = is_quantised(teacher.network)
        method = f"QCFS, L = {teacher.config.teacher_levels}" if quantised else f"percentile {percentile:g}"
        converted = convert(teacher, images.train_images, AT_A_TIME, percentile)
        logits = converted.logits_by_step(images.test_images, num_steps)
        accuracies.append(accuracy_by_step(logits, images.test_labels).tolist())
        ordinary.append(read_json(run / "result.json")["test_accuracy"]["teacher"])
        network = f"{teacher.config.teacher}, width {teacher.config.width:g}"
        print(f"{run}: {network}, {100 * ordinary[-1]:.2f} % as an ordinary network", file=sys.stderr)
    entry = {"method": f"conversion, {method}", "network": network, "accuracy": accuracies, "ordinary": ordinary}
    print_accuracies([entry])
    if record is not None:
        options = f"--num-steps {num_steps} --percentile {percentile:g} --dataset {dataset!r}"
        script = f"python experiments/convert.py RUN ... {options}"
        write_record(STEPS, "steps", record, content_of(found, script, dataset, [entry], notes))


if __name__ == "__main__":
    with told_in_one_line():
        tyro.cli(main)
