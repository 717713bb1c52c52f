"""`snnkd convert RUN [RUN ...] --dataset "CIFAR-10 (JPEG copy)" --record FILE.json`."""

import sys

from snnkd_jax.cli.arguments import Notes, Record, Runs, command_line
from snnkd_jax.files import check_writable_file

STEPS_PER_CALL = 4


def convert(
    runs: Runs, dataset: str, num_steps: int = 64, percentile: float = 99.9, record: Record = None, notes: Notes = ""
) -> None:
    """Convert trained teachers into spiking networks, without training, and evaluate them.

    A teacher with ReLU is converted with thresholds from percentiles of its activations on training images, one with
    quantised activations (`snnkd train --teacher-levels 8`) by QCFS.

    Args:
        dataset: Name of the data set in the record, such as "CIFAR-10 (JPEG copy)".
        num_steps: Largest T.
        percentile: Percentile of the activations, for teachers with ReLU.
    """
    check_writable_file("record", record)
    from snnkd_jax.inference.convert import convert as convert_network
    from snnkd_jax.inference.predict import accuracy_by_step
    from snnkd_jax.inference.trained import load
    from snnkd_jax.models.converted import quantisation_levels
    from snnkd_jax.report.steps import step_lines
    from snnkd_jax.runs.recipe import seeds_of_one_recipe
    from snnkd_jax.runs.record import recipe_of, write_record

    found = seeds_of_one_recipe("runs", runs)
    images = found[0][0].load_data()
    accuracies, teachers = [], [load(run, "teacher") for _, run in found]
    for (_, run), teacher in zip(found, teachers, strict=True):
        print(f"{run}: {teacher.network.title}, {100 * teacher.test_accuracy:.2f} % before conversion", file=sys.stderr)
        converted = convert_network(teacher, images.train_images, STEPS_PER_CALL, percentile)
        logits = converted.logits_by_step(images.test_images, num_steps)
        accuracies.append(accuracy_by_step(logits, images.test_labels).tolist())
    network = teachers[0].network
    levels = quantisation_levels(network)
    method = f"percentile {percentile:g}" if levels is None else f"QCFS, L = {levels}"
    entry = {"method": f"conversion, {method}", "network": network.title, "accuracy": accuracies}
    entry |= {"ordinary": [teacher.test_accuracy for teacher in teachers]}
    print(step_lines(entry))
    if record is not None:
        options = {"num_steps": num_steps, "percentile": f"{percentile:g}", "dataset": dataset}
        content = {"command": command_line("convert", "RUN", "...", **options), "dataset": dataset}
        write_record(record, "steps", content | recipe_of(found) | {"entries": [entry], "notes": notes})
