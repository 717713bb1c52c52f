"""Writes the report of a run: its page, and the sections on results and configuration."""

from pathlib import Path

from snnkd_jax.errors import InputError
from snnkd_jax.files import write_atomically
from snnkd_jax.report import page
from snnkd_jax.report.comparison import comparison_page
from snnkd_jax.report.figures import Curve, lines
from snnkd_jax.report.network import confusion_section, energy_section, neurons_section, noise_section
from snnkd_jax.report.run import Run, read_run, result_rows
from snnkd_jax.report.statistics import percent
from snnkd_jax.report.training import rates_section, training_section
from snnkd_jax.runs.command import command


def write_report(runs: list[Path], out: Path | None = None) -> Path:
    """Writes the report of a run, finished or not, or the comparison of several, and returns its path.

    `out` is the file; None: `report.html` in the directory of the only run. Raises `InputError` if a directory is not a
    run or is damaged, or if the file cannot be written.
    """
    if not runs:
        raise InputError("runs are missing; name the directory of at least one run")
    if out is None and len(runs) > 1:
        raise InputError(f"{len(runs)} runs are compared in a file of its own; name it with out, such as runs.html")
    path = runs[0] / "report.html" if out is None else out
    text = comparison_page([read_run(run) for run in runs]) if len(runs) > 1 else run_page(read_run(runs[0]))
    try:
        write_atomically(path, text.encode(errors="replace"))
    except OSError as error:
        raise InputError(f"out {path} cannot be written ({error.strerror}); name another file") from error
    return path


def run_page(run: Run) -> str:
    """The report of one run."""
    call = "snnkd_jax.fit(...)" if run.config is None else command(run.config)
    introduction = page.element("p", f"{run.introduction} ", page.element("code", call))
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
    return page.document(f"Run {run.name}", introduction, sections)


def result_section(run: Run) -> page.Html:
    """The comparison of the networks, and their accuracy by time steps."""
    if run.result is None:
        return page.note("There is no result.json: the run is not finished. Run the same command to resume.")
    heading, *rows = result_rows(run.result)
    accuracies = run.accuracies()
    parts = [page.table("Test set, after the last epoch", heading, rows)]
    if "seconds" in run.result:
        duration = f"Trained in {run.result['seconds'] / 60:.1f} min on {run.result.get('hardware')}."
        parts.append(page.element("p", duration))
    if {"student", "student_baseline"} <= accuracies.keys():
        gain = 100 * (accuracies["student"] - accuracies["student_baseline"])
        parts.append(page.element("p", f"Distillation changes the student's accuracy by {gain:+.2f} points."))
    by_step = run.result["test_accuracy_by_step"]
    students = [role for role in accuracies if role != "teacher"]
    if not students:
        return page.join([*parts, page.note("A teacher has no time steps.")])
    steps = range(1, len(by_step[students[0]]) + 1)
    curves = [
        Curve(run.titles[role], steps, [100 * a for a in by_step[role]], page.NETWORK_COLOURS[role], marker="o")
        for role in students
    ]
    if "teacher" in accuracies:
        level = [100 * accuracies["teacher"]] * len(steps)
        curves.append(Curve("teacher", steps, level, page.NETWORK_COLOURS["teacher"], ":", marker="D"))
    ends = "; ".join(
        f"{run.titles[r]} {percent(by_step[r][:1])} % at T = 1, {percent(by_step[r][-1:])} % at T = {len(steps)}"
        for r in students
    )
    rows = [[t, *(f"{100 * by_step[role][t - 1]:.2f}" for role in students)] for t in steps]
    numbers = page.table("Test accuracy by time steps, %", ["T", *(run.titles[role] for role in students)], rows)
    drawing = lines("by-step", curves, "time steps T", "test accuracy, %")
    caption = f"Test accuracy after 1, 2, ... time steps: {ends}."
    plot = page.figure(drawing, caption, page.details("Numbers", numbers))
    return page.element("div", page.element("div", *parts), page.element("div", plot), class_="beside")


def configuration_section(run: Run) -> page.Html:
    """All of config.json."""
    options = [[name, page.as_text(value)] for name, value in run.options.items()]
    origin = [[name, page.as_text(run.started.get(name))] for name in ("command", "hardware", "commit")]
    where = page.table("Where it ran", ["origin", "value"], origin)
    versions = page.table("Versions", ["package", "version"], run.versions.items())
    settings = page.details("Options", page.table("Options of the run", ["option", "value"], options))
    return page.join([settings, page.details("Versions", where, versions)])
