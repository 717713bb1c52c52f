"""A report that compares several runs, grouped by recipe: runs of one recipe differ in their seeds only."""

import math

import numpy as np

from snnkd_jax.report import page
from snnkd_jax.report.figures import Curve, lines, markers, spread
from snnkd_jax.report.run import Run
from snnkd_jax.report.statistics import mean_and_std
from snnkd_jax.runs.recipe import BOOKKEEPING, SEED
from snnkd_jax.runs.roles import NETWORKS

_Recipes = dict[str, list[Run]]  # by title


def comparison_page(runs: list[Run]) -> str:
    """The report of several runs."""
    recipes: _Recipes = {}
    for run in runs:
        same = (group for group in recipes.values() if not _differences(group[0], run))
        (next(same, None) or recipes.setdefault(f"recipe {len(recipes) + 1}", [])).append(run)
    number = "one recipe" if len(recipes) == 1 else f"{len(recipes)} recipes"
    introduction = f"{len(runs)} runs of {number}: {', '.join(run.name for run in runs)}. "
    introduction += "Runs of one recipe differ in their seed only."
    sections = {
        "result": ("Result", _result(recipes)),
        "training": ("Training", _training(recipes)),
        "configuration": ("Configuration and versions", _configuration(recipes)),
    }
    return page.document(f"{len(runs)} runs compared", page.element("p", introduction), sections)


def _differences(a: Run, b: Run) -> list[str]:
    """Names of the options that differ, except for those of seeds and bookkeeping."""
    names = dict.fromkeys([*a.options, *b.options])
    return [n for n in names if n not in (*SEED, *BOOKKEEPING) and a.options.get(n) != b.options.get(n)]


def _result(recipes: _Recipes) -> page.Html:
    firsts = [runs[0] for runs in recipes.values()]
    options = list(dict.fromkeys(name for run in firsts for name in _differences(firsts[0], run)))
    by_run = [(title, run, _percents(run)) for title, runs in recipes.items() for run in runs]
    roles = [role for role in NETWORKS if any(role in percents for *_, percents in by_run)]
    rows, means = [], []
    for title, runs in recipes.items():
        results = [run.result for run in runs if run.result is not None]
        accuracies = [
            mean_and_std([p[role] for recipe, _, p in by_run if recipe == title and role in p], 2) for role in roles
        ]
        means += [f"{title}, {NETWORKS[r]} {a} %" for r, a in zip(roles, accuracies, strict=True) if a != "–"]
        rates = [rate for result in results if (rate := result["firing_rate"]["student"]) is not None]
        minutes = [result["seconds"] / 60 for result in results if "seconds" in result]
        values = [page.as_text(runs[0].options.get(name)) for name in options]
        rows.append([title, *values, len(runs), *accuracies, mean_and_std(rates, 3), mean_and_std(minutes, 1)])
    columns = [f"{NETWORKS[role]}, %" for role in roles]
    heading = ["recipe", *options, "runs", *columns, "firing rate", "minutes"]
    run_rows = []
    for title, run, percents in by_run:
        absent = "not finished" if run.result is None else "–"
        accuracies = [f"{percents[role]:.2f}" if role in percents else absent for role in roles]
        run_rows.append([run.name, title, run.options["seed"], *accuracies, str(run.started.get("commit"))[:12]])
    parts = [
        page.table("Test accuracy, mean ± standard deviation over runs", heading, rows),
        page.table("Every run", ["run", "recipe", "seed", *columns, "commit"], run_rows),
    ]
    if not roles:
        return page.join([*parts, page.note("None of the runs is finished.")])
    curves = []
    places = {title: i for i, title in enumerate(recipes, 1)}
    for role, marker in zip(roles, markers(len(roles)), strict=True):
        points = [(places[title], percents[role]) for title, _, percents in by_run if role in percents]
        x, y = zip(*points, strict=True)
        curves.append(Curve(NETWORKS[role], x, y, page.NETWORK_COLOURS[role], "none", marker))
    caption = f"Test accuracy of every network of every run, by recipe: {'; '.join(means)}."
    drawn = page.figure(lines("accuracy", curves, "recipe", "test accuracy, %"), caption)
    by_step = {
        title: [[100 * a for a in r.result["test_accuracy_by_step"]["student"] or ()] for r in runs if r.result]
        for title, runs in recipes.items()
    }
    caption = "Test accuracy of the student after 1, 2, ... time steps, mean and standard deviation"
    axes = ("time steps T", "test accuracy, %")
    return page.join([*parts, page.figures(drawn, *_bands("by-step", by_step, *axes, caption, ".2f", " % at T = {}"))])


def _percents(run: Run) -> dict[str, float]:
    """Test accuracies in %; the student of a run without distillation is the student without KD."""
    renamed = {"student": "student_baseline", "student_baseline": "student"} if run.is_plain else {}
    return {renamed.get(role, role): 100 * accuracy for role, accuracy in run.accuracies().items()}


def _training(recipes: _Recipes) -> page.Html:
    drawn = []
    for name, key, scale, quantity, unit in (
        ("validation-accuracy", "accuracy", 100, "validation accuracy, %", ""),
        ("validation-loss", "loss", 1, "validation cross-entropy, nats", ""),
        ("firing-rate", "firing_rate", 1, "firing rate", ", spikes per neuron and step"),
    ):
        values = {title: [_validated(run, key, scale) for run in runs] for title, runs in recipes.items()}
        caption = f"The student's {quantity}{unit}, mean and standard deviation over runs. At the end"
        drawn += _bands(name, values, "epoch", quantity, caption, ".4g")
    return page.figures(*drawn) if drawn else page.note("No epoch of a student has been logged.")


def _validated(run: Run, key: str, scale: float) -> list[float]:
    """A measure of the student by epoch; empty for a run without validation."""
    found = [entry["validation"] for entry in run.epochs["student"] if "validation" in entry]
    return [scale * measures.get(key, math.nan) for measures in found]


def _bands(
    name: str, by_recipe: dict[str, list[list[float]]], x: str, y: str, caption: str, form: str, end: str = ""
) -> list[page.Html]:
    """A figure of mean ± standard deviation over the runs of each recipe, up to the end of the shortest run.

    Its caption ends with the last means, formatted by `form` and followed by `end`. Empty if no run has values.
    """
    curves, ends = [], []
    for title, colour, marker in zip(by_recipe, spread(len(by_recipe)), markers(len(by_recipe)), strict=True):
        if runs := [values for values in by_recipe[title] if values]:
            length = min(map(len, runs))
            values = np.array([run[:length] for run in runs])
            mean, std = values.mean(axis=0), values.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(length)
            marker = marker if length < 20 else ""
            curves.append(Curve(title, range(1, length + 1), mean, colour, "-", marker, (mean - std, mean + std)))
            ends.append(f"{title} {mean[-1]:{form}}{end.format(length)}")
    return [page.figure(lines(name, curves, x, y), f"{caption}: {'; '.join(ends)}.")] if curves else []


def _configuration(recipes: _Recipes) -> page.Html:
    configs = [runs[0].options for runs in recipes.values()]
    names = dict.fromkeys(name for options in configs for name in options if name not in SEED)
    rows = [[name, *(page.as_text(options.get(name)) for options in configs)] for name in names]
    options = page.table("Options of the recipes", ["option", *recipes], rows)
    runs = [run for group in recipes.values() for run in group]
    names = dict.fromkeys(name for run in runs for name in run.versions)
    rows = [[name, *(run.versions.get(name, "–") for run in runs)] for name in names]
    rows.append(["hardware", *(run.started.get("hardware", "–") for run in runs)])
    where = page.table("Versions and hardware", ["package", *(run.name for run in runs)], rows)
    return page.join([page.details("Options", options), page.details("Versions", where)])
