"""Puts the sections of a report together and writes it."""

from pathlib import Path

from snnkd_jax.errors import InputError
from snnkd_jax.files import write_atomically
from snnkd_jax.report.comparison import comparison_page
from snnkd_jax.report.figures import Curve, lines
from snnkd_jax.report.network import confusion_section, energy_section, neurons_section, noise_section
from snnkd_jax.report.page import (
    NETWORK_COLOURS,
    Html,
    absent,
    beside,
    details,
    element,
    figure,
    join,
    page,
    paragraph,
    percent,
    shown,
    table,
)
from snnkd_jax.report.run import Run, read_run, result_rows
from snnkd_jax.report.training import rates_section, training_section


def write_report(runs: list[Path], out: Path | None = None) -> Path:
    """Writes the report of a run, finished or not, or the comparison of several, and returns its path.

    `out` is the file; None: `report.html` in the directory of the only run. Raises `InputError` for a directory that is
    no run or is damaged, or if the file cannot be written.
    """
    if not runs:
        raise InputError("runs are missing; name the directory of at least one run")
    if out is None and len(runs) > 1:
        raise InputError(f"{len(runs)} runs are compared in a file of its own; name it with out, such as runs.html")
    path = runs[0] / "report.html" if out is None else out
    found = [read_run(run) for run in runs]
    text = run_page(found[0]) if len(found) == 1 else comparison_page(found)
    try:
        write_atomically(path, text.encode(errors="replace"))
    except OSError as error:
        raise InputError(f"out {path} cannot be written ({error.strerror}); name another file") from error
    return path


def run_page(run: Run) -> str:
    """The report of one run."""
    introduction = paragraph(f"{run.introduction} ", element("code", run.command))
    sections = {
        "result": ("Result", result_section(run)),
        "training": ("Training", training_section(run)),
        "rates": ("Firing rates", rates_section(run)),
        "neurons": ("Neurons and one image", neurons_section(run)),
        "confusion": ("Confusions", confusion_section(run)),
        "noise": ("Noise", noise_section(run)),
        "energy": ("Energy", energy_section(run)),
        "configuration": ("Configuration and versions", configuration_section(run)),
    }
    return page(f"Run {run.name}", introduction, sections)


def result_section(run: Run) -> Html:
    """The comparison of the networks, and their accuracy at each number of steps."""
    if run.result is None:
        return absent("There is no result.json: the run is not finished. The same command goes on where it stopped.")
    heading, *rows = result_rows(run.result)
    accuracies = run.accuracies()
    parts = [table("Test set, after the last epoch", heading, rows)]
    if "seconds" in run.result:
        parts.append(paragraph(f"Trained in {run.result['seconds'] / 60:.1f} min on {run.result.get('hardware')}."))
    if {"student", "student_baseline"} <= accuracies.keys():
        gain = 100 * (accuracies["student"] - accuracies["student_baseline"])
        parts.append(paragraph(f"Distillation changes the student's accuracy by {gain:+.2f} points."))
    by_step = run.result["test_accuracy_by_step"]
    students = [role for role in accuracies if role != "teacher"]
    if not students:
        return join([*parts, absent("A teacher alone has no time steps.")])
    steps = range(1, len(by_step[students[0]]) + 1)
    curves = [
        Curve(run.titles[role], steps, [100 * a for a in by_step[role]], NETWORK_COLOURS[role], marker="o")
        for role in students
    ]
    if "teacher" in accuracies:
        level = [100 * accuracies["teacher"]] * len(steps)
        curves.append(Curve("teacher", steps, level, NETWORK_COLOURS["teacher"], ":", marker="D"))
    ends = "; ".join(
        f"{run.titles[role]} {percent(by_step[role][0])} at T = 1, {percent(by_step[role][-1])} at T = {len(steps)}"
        for role in students
    )
    rows = [[t, *(f"{100 * by_step[role][t - 1]:.2f}" for role in students)] for t in steps]
    numbers = table("Test accuracy by time steps, %", ["T", *(run.titles[role] for role in students)], rows)
    drawing = lines("by-step", curves, "time steps T", "test accuracy, %")
    caption = f"Test accuracy by the first 1, 2, ... time steps: {ends}."
    return beside(join(parts), figure(drawing, caption, details("Numbers", numbers)))


def configuration_section(run: Run) -> Html:
    """All of config.json."""
    started = run.started
    options = [[name, shown(value)] for name, value in run.options.items()]
    versions = found.items() if isinstance(found := started.get("versions"), dict) else []
    origin = [[name, shown(started.get(name))] for name in ("command", "hardware", "commit")]
    where = table("Where it ran", ["origin", "value"], origin), table("Versions", ["package", "version"], versions)
    return join(
        [details("Options", table("Options of the run", ["option", "value"], options)), details("Versions", *where)]
    )
