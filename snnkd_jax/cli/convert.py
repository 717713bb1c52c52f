"""`snnkd convert RUN [RUN ...] --dataset "CIFAR-10 (JPEG copy)" --record FILE.json`."""

import sys
from pathlib import Path

import tyro

AT_A_TIME = 4  # time steps


def convert(
    runs: tyro.conf.Positional[list[Path]],
    dataset: str,
    num_steps: int = 64,
    percentile: float = 99.9,
    record: Path | None = None,
    notes: str = "",
) -> None:
    """Convert the teachers of runs into spiking networks without training, and evaluate them at every T.

    Teachers with ReLU are converted by percentiles of their activations on training images, teachers with quantised
    activations (`snnkd train --teacher-levels 8`) by QCFS.

    Args:
        runs: Directories of finished runs that differ in their seed.
        dataset: What the data are, in words.
        num_steps: The largest T.
        percentile: Of the activations, for teachers with ReLU.
        record: JSON file to write.
        notes: What a reader of the record should know.
    """
    from snnkd_jax.cli.arguments import command_line
    from snnkd_jax.files import read_json
    from snnkd_jax.inference.convert import convert as converted
    from snnkd_jax.inference.predict import accuracy_by_step
    from snnkd_jax.inference.trained import load
    from snnkd_jax.models.converted import quantisation_levels
    from snnkd_jax.report.steps import step_lines
    from snnkd_jax.runs.recipe import seeds_of_one_recipe
    from snnkd_jax.runs.record import recipe_of, write_record

    found = seeds_of_one_recipe("runs", runs)
    images = found[0][0].data.load()
    accuracies, ordinary, method, network = [], [], "", ""
    for _, run in found:
        teacher = load(run, "teacher")
        levels = quantisation_levels(teacher.network)
        method = f"percentile {percentile:g}" if levels is None else f"QCFS, L = {levels}"
        spiking = converted(teacher, images.train_images, AT_A_TIME, percentile)
        logits = spiking.logits_by_step(images.test_images, num_steps)
        accuracies.append(accuracy_by_step(logits, images.test_labels).tolist())
        ordinary.append(read_json(run / "result.json")["test_accuracy"]["teacher"])
        network = teacher.network.title
        print(f"{run}: {network}, {100 * ordinary[-1]:.2f} % before conversion", file=sys.stderr)
    entry = {"method": f"conversion, {method}", "network": network, "accuracy": accuracies, "ordinary": ordinary}
    print(step_lines(entry))
    if record is not None:
        chosen = {"num_steps": num_steps, "percentile": f"{percentile:g}", "dataset": dataset}
        content = {"command": command_line("convert", "RUN", "...", **chosen), "dataset": dataset}
        write_record(record, "steps", content | recipe_of(found) | {"entries": [entry], "notes": notes})
