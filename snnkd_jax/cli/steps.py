"""`snnkd steps RUN [RUN ...] --dataset "CIFAR-10 (JPEG copy)" --record FILE.json`: one student, every T."""

import sys

from snnkd_jax.cli.arguments import Notes, Record, Runs, command_line
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.files import check_writable_file
from snnkd_jax.runs.roles import Role, title_of


def steps(runs: Runs, dataset: str, num_steps: int = 8, record: Record = None, notes: Notes = "") -> None:
    """Evaluate students after 1, 2, ... time steps, and with early exit.

    T may exceed that of training. Thresholds of early exit are chosen on the validation split, for several tolerated
    losses of accuracy; everything else is measured on the test set.

    Args:
        dataset: Name of the data set in the record, such as "CIFAR-10 (JPEG copy)".
        num_steps: Largest T.
    """
    check_count("num_steps", num_steps)
    check_writable_file("record", record)
    from snnkd_jax.analysis.steps import evaluate_steps
    from snnkd_jax.inference.trained import load
    from snnkd_jax.report.steps import step_lines
    from snnkd_jax.runs.recipe import seeds_of_one_recipe
    from snnkd_jax.runs.record import recipe_of, write_record

    found = seeds_of_one_recipe("runs", runs)
    config = found[0][0]
    students: tuple[Role, ...] = ("student_baseline", "student")
    roles: list[Role] = [role for role in students if any((run / role).is_dir() for run in runs)]
    if "student" not in roles:
        raise InputError(f"runs {', '.join(map(str, runs))} have no student")
    if not config.data.validation_fraction:
        raise InputError("runs have validation_fraction=0; thresholds are chosen on a validation split: train with one")
    images = config.load_data()
    entries = []
    for role in roles:
        entry = {
            "method": f"{title_of(config, role)}, trained at {config.time_steps}",
            "network": f"{config.student.student}, width {config.student.width:g}",
            "accuracy": [],
            "exits": [],
        }
        for seed_config, run in found:
            print(f"{run}: {entry['method']}", file=sys.stderr)
            _, validation = images.split(seed_config.run.seed)
            by_step, exits = evaluate_steps(load(run, role), images, validation, config.student.num_steps, num_steps)
            entry["accuracy"].append(by_step)
            entry["exits"].append(exits)
        entries.append(entry)
        print(step_lines(entry))
    if record is not None:
        command = command_line("steps", "RUN", "...", num_steps=num_steps, dataset=dataset)
        content = {"command": command, "dataset": dataset, "entries": entries, "notes": notes}
        write_record(record, "steps", content | recipe_of(found))
