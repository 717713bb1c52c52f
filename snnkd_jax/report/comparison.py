"""Several runs on one page: those that differ in their seed only are one recipe, and recipes stand side by side."""

import math

import numpy as np

from snnkd_jax.report.figures import Curve, lines, markers, spread
from snnkd_jax.report.page import (
    NETWORK_COLOURS,
    Html,
    absent,
    details,
    figure,
    figures,
    join,
    page,
    paragraph,
    shown,
    table,
)
from snnkd_jax.report.run import Run
from snnkd_jax.report.statistics import mean_and_std
from snnkd_jax.runs.recipe import BOOKKEEPING, SEED
from snnkd_jax.runs.roles import NETWORKS

_SAME = (*SEED, *BOOKKEEPING)


_Recipes = dict[str, list[Run]]
"""Runs by the title of their recipe."""


def comparison_page(runs: list[Run]) -> str:
    """The report of several runs."""
    recipes: _Recipes = {}
    for run in runs:
        same = (found for found in recipes.values() if not _differences(found[0], run))
        (next(same, None) or recipes.setdefault(f"recipe {len(recipes) + 1}", [])).append(run)
    number = "one recipe" if len(recipes) == 1 else f"{len(recipes)} recipes"
    names = ", ".join(run.name for run in runs)
    introduction = paragraph(f"{len(runs)} runs of {number}: {names}. Runs of one recipe differ in their seed only.")
    sections = {
        "result": ("Result", _result(recipes)),
        "training": ("Training", _training(recipes)),
        "configuration": ("Configuration and versions", _configuration(recipes)),
    }
    return page(f"{len(runs)} runs compared", introduction, sections)


def _differences(a: Run, b: Run) -> list[str]:
    """The names of the options that differ, but for those of seeds and bookkeeping."""
    names = dict.fromkeys([*a.options, *b.options])
    return [name for name in names if name not in _SAME and a.options.get(name) != b.options.get(name)]


def _result(recipes: _Recipes) -> Html:
    firsts = [runs[0] for runs in recipes.values()]
    options = list(dict.fromkeys(name for run in firsts for name in _differences(firsts[0], run)))
    everything = [(title, run, _percents(run)) for title, runs in recipes.items() for run in runs]
    roles = [role for role in NETWORKS if any(role in percents for *_, percents in everything)]
    rows, told = [], []
    for title, runs in recipes.items():
        results = [run.result for run in runs if run.result is not None]
        by_role = {role: [p[role] for of, _, p in everything if of == title and role in p] for role in roles}
        accuracies = {role: _mean(values, 2) for role, values in by_role.items()}
        told += [f"{title}, {NETWORKS[role]} {text} %" for role, text in accuracies.items() if by_role[role]]
        rates = [r for result in results if (r := result["firing_rate"]["student"]) is not None]
        minutes = [result["seconds"] / 60 for result in results if "seconds" in result]
        chosen = [shown(runs[0].options.get(name)) for name in options]
        rows.append([title, *chosen, len(runs), *accuracies.values(), _mean(rates, 3), _mean(minutes, 1)])
    columns = [f"{NETWORKS[role]}, %" for role in roles]
    heading = ["recipe", *options, "runs", *columns, "firing rate", "minutes"]
    run_rows = []
    for title, run, percents in everything:
        accuracies = [f"{percents[role]:.2f}" if role in percents else "–" for role in roles]
        accuracies = ["not finished"] * len(roles) if run.result is None else accuracies
        run_rows.append([run.name, title, run.options["seed"], *accuracies, str(run.started.get("commit"))[:12]])
    parts = [
        table("Test accuracy, mean ± standard deviation over runs", heading, rows),
        table("Every run", ["run", "recipe", "seed", *columns, "commit"], run_rows),
    ]
    if not roles:
        return join([*parts, absent("None of the runs is finished.")])
    curves = []
    places = {title: i for i, title in enumerate(recipes, 1)}
    for role, marker in zip(roles, markers(len(roles)), strict=True):
        points = [(places[title], percents[role]) for title, _, percents in everything if role in percents]
        x, y = zip(*points, strict=True)
        curves.append(Curve(NETWORKS[role], x, y, NETWORK_COLOURS[role], "none", marker))
    caption = f"Test accuracy of every run by recipe, a point a network: {'; '.join(told)}."
    drawn = [figure(lines("accuracy", curves, "recipe", "test accuracy, %"), caption)]
    return join([*parts, figures(*drawn, *_by_step(recipes))])


def _mean(values: list[float], digits: int) -> str:
    return mean_and_std(values, digits) if values else "–"


def _percents(run: Run) -> dict[str, float]:
    """Test accuracies; the only student of a run without distillation is the student without it."""
    renamed = {"student": "student_baseline", "student_baseline": "student"} if run.is_plain else {}
    return {renamed.get(role, role): 100 * accuracy for role, accuracy in run.accuracies().items()}


def _by_step(recipes: _Recipes) -> list[Html]:
    values = {
        title: [
            [100 * accuracy for accuracy in by_step]
            for run in runs
            if run.result is not None and (by_step := run.result["test_accuracy_by_step"]["student"]) is not None
        ]
        for title, runs in recipes.items()
    }
    curves = _bands(values)
    if not curves:
        return []
    ends = "; ".join(f"{c.label} {np.asarray(c.y)[-1]:.2f} % at T = {len(np.asarray(c.y))}" for c in curves)
    caption = f"Test accuracy of the student by the first 1, 2, ... time steps, mean and standard deviation: {ends}."
    return [figure(lines("by-step", curves, "time steps T", "test accuracy, %"), caption)]


def _training(recipes: _Recipes) -> Html:
    drawn = []
    for name, key, scale, quantity in (
        ("validation-accuracy", "accuracy", 100, "validation accuracy, %"),
        ("validation-loss", "loss", 1, "validation cross-entropy, nats"),
        ("firing-rate", "firing_rate", 1, "firing rate, spikes per neuron and step"),
    ):
        values = {
            title: [[scale * e["validation"].get(key, math.nan) for e in run.epochs["student"]] for run in runs]
            for title, runs in recipes.items()
        }
        if curves := _bands(values):
            ends = "; ".join(f"{curve.label} {np.asarray(curve.y)[-1]:.4g}" for curve in curves)
            caption = f"The student's {quantity}, mean and standard deviation over runs. At the end: {ends}."
            drawn.append(figure(lines(name, curves, "epoch", quantity.split(", spikes")[0]), caption))
    return figures(*drawn) if drawn else absent("No epoch of a student has been logged.")


def _bands(values: dict[str, list[list[float]]]) -> list[Curve]:
    """A curve for each recipe of the values of its runs, up to where the shortest that has some ends."""
    curves = []
    for title, colour, marker in zip(values, spread(len(values)), markers(len(values)), strict=True):
        if found := [v for v in values[title] if v]:
            length = min(map(len, found))
            by_run = np.array([v[:length] for v in found])
            mean = by_run.mean(axis=0)
            std = by_run.std(axis=0, ddof=1) if len(found) > 1 else np.zeros(length)
            marked = marker if length < 20 else ""
            curves.append(Curve(title, range(1, length + 1), mean, colour, "-", marked, mean - std, mean + std))
    return curves


def _configuration(recipes: _Recipes) -> Html:
    configs = [runs[0].options for runs in recipes.values()]
    names = dict.fromkeys(name for options in configs for name in options if name not in SEED)
    rows = [[name, *(shown(options.get(name)) for options in configs)] for name in names]
    options = table("Options of the recipes", ["option", *recipes], rows)
    runs = [run for found in recipes.values() for run in found]
    found = [versions if isinstance(versions := run.started.get("versions"), dict) else {} for run in runs]
    names = dict.fromkeys(name for versions in found for name in versions)
    versions = [[name, *(versions.get(name, "–") for versions in found)] for name in names]
    hardware = ["hardware", *(run.started.get("hardware", "–") for run in runs)]
    where = table("Versions and hardware", ["package", *(run.name for run in runs)], [*versions, hardware])
    return join([details("Options", options), details("Versions", where)])
