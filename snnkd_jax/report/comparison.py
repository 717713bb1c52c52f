"""Several runs on one page: those that differ in their seed only are one recipe, and recipes stand side by side."""

import dataclasses
import math
from collections.abc import Callable

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


@dataclasses.dataclass(frozen=True)
class _Recipe:
    title: str
    runs: list[Run]

    def mean(self, value: Callable[[Run], float | None], digits: int) -> str:
        """Mean ± standard deviation over the runs that have the value."""
        found = [v for run in self.runs if (v := value(run)) is not None]
        return mean_and_std(found, digits) if found else "–"


def comparison_page(runs: list[Run]) -> str:
    """The report of several runs."""
    recipes = _recipes(runs)
    number = "one recipe" if len(recipes) == 1 else f"{len(recipes)} recipes"
    names = ", ".join(run.name for run in runs)
    introduction = paragraph(f"{len(runs)} runs of {number}: {names}. Runs of one recipe differ in their seed only.")
    sections = {
        "result": ("Result", _result(recipes)),
        "training": ("Training", _training(recipes)),
        "configuration": ("Configuration and versions", _configuration(recipes)),
    }
    return page(f"{len(runs)} runs compared", introduction, sections)


def _recipes(runs: list[Run]) -> list[_Recipe]:
    found: list[_Recipe] = []
    for run in runs:
        for recipe in found:
            if not _differences(recipe.runs[0], run):
                recipe.runs.append(run)
                break
        else:
            found.append(_Recipe(f"recipe {len(found) + 1}", [run]))
    return found


def _differing(recipes: list[_Recipe]) -> list[str]:
    """The options in which the recipes differ."""
    names = [_differences(recipes[0].runs[0], recipe.runs[0]) for recipe in recipes]
    return list(dict.fromkeys(name for found in names for name in found))


def _differences(a: Run, b: Run) -> list[str]:
    """The names of the options that differ, but for those of seeds and bookkeeping."""
    names = dict.fromkeys([*a.options, *b.options])
    return [name for name in names if name not in _SAME and a.options.get(name) != b.options.get(name)]


def _result(recipes: list[_Recipe]) -> Html:
    options = _differing(recipes)
    runs = [run for recipe in recipes for run in recipe.runs]
    roles = [role for role in NETWORKS if any(_percent(run, role) is not None for run in runs)]
    rows = []
    for recipe in recipes:
        accuracies = [recipe.mean(lambda run, role=role: _percent(run, role), 2) for role in roles]
        rate = recipe.mean(lambda run: None if run.result is None else run.result["firing_rate"]["student"], 3)
        minutes = recipe.mean(lambda run: None if run.result is None else run.result.get("seconds", math.nan) / 60, 1)
        chosen = [shown(recipe.runs[0].options.get(name)) for name in options]
        rows.append([recipe.title, *chosen, len(recipe.runs), *accuracies, rate, minutes])
    columns = [*(f"{NETWORKS[role]}, %" for role in roles), "firing rate", "minutes"]
    parts = [
        table("Test accuracy, mean ± standard deviation over runs", ["recipe", *options, "runs", *columns], rows),
        table("Every run", ["run", "recipe", "seed", *columns[: len(roles)], "commit"], _run_rows(recipes, roles)),
    ]
    if not roles:
        return join([*parts, absent("None of the runs is finished.")])
    curves = []
    for role, marker in zip(roles, markers(len(roles)), strict=True):
        points = [
            (i, value)
            for i, recipe in enumerate(recipes, 1)
            for run in recipe.runs
            if (value := _percent(run, role)) is not None
        ]
        x, y = zip(*points, strict=True)
        curves.append(Curve(NETWORKS[role], x, y, NETWORK_COLOURS[role], "none", marker))
    caption = "Test accuracy of every run by recipe, a point a network: " + "; ".join(
        f"{recipe.title}, {NETWORKS[role]} {recipe.mean(lambda run, role=role: _percent(run, role), 2)} %"
        for recipe in recipes
        for role in roles
        if any(_percent(run, role) is not None for run in recipe.runs)
    )
    drawn = [figure(lines("accuracy", curves, "recipe", "test accuracy, %"), f"{caption}.")]
    return join([*parts, figures(*drawn, *_by_step(recipes))])


def _percent(run: Run, role: str) -> float | None:
    """Test accuracy; the only student of a run without distillation is the student without it."""
    if run.is_plain:
        role = {"student_baseline": "student", "student": "student_baseline"}.get(role, role)
    accuracy = run.accuracies().get(role)
    return None if accuracy is None else 100 * accuracy


def _run_rows(recipes: list[_Recipe], roles: list[str]) -> list[list[object]]:
    return [
        [
            run.name,
            recipe.title,
            run.options["seed"],
            *(
                "not finished" if run.result is None else "–" if (v := _percent(run, role)) is None else f"{v:.2f}"
                for role in roles
            ),
            str(run.started.get("commit"))[:12],
        ]
        for recipe in recipes
        for run in recipe.runs
    ]


def _by_step(recipes: list[_Recipe]) -> list[Html]:
    values = {
        recipe.title: [
            [100 * accuracy for accuracy in run.result["test_accuracy_by_step"]["student"]]
            for run in recipe.runs
            if run.result is not None and run.result["test_accuracy_by_step"]["student"] is not None
        ]
        for recipe in recipes
    }
    curves = _bands(recipes, values)
    if not curves:
        return []
    ends = "; ".join(f"{c.label} {np.asarray(c.y)[-1]:.2f} % at T = {len(np.asarray(c.y))}" for c in curves)
    caption = f"Test accuracy of the student by the first 1, 2, ... time steps, mean and standard deviation: {ends}."
    return [figure(lines("by-step", curves, "time steps T", "test accuracy, %"), caption)]


def _training(recipes: list[_Recipe]) -> Html:
    drawn = []
    for name, key, scale, title in (
        ("validation-accuracy", "accuracy", 100, "validation accuracy, %"),
        ("validation-loss", "loss", 1, "validation cross-entropy, nats"),
        ("firing-rate", "firing_rate", 1, "firing rate, spikes per neuron and step"),
    ):
        values = {
            recipe.title: [
                [scale * entry["validation"].get(key, math.nan) for entry in entries]
                for run in recipe.runs
                if (entries := run.epochs["student"])
            ]
            for recipe in recipes
        }
        if curves := _bands(recipes, values):
            ends = "; ".join(f"{curve.label} {np.asarray(curve.y)[-1]:.4g}" for curve in curves)
            caption = f"The student's {title}, mean and standard deviation over runs. At the end: {ends}."
            drawn.append(figure(lines(name, curves, "epoch", title.split(", spikes")[0]), caption))
    return figures(*drawn) if drawn else absent("No epoch of a student has been logged.")


def _bands(recipes: list[_Recipe], values: dict[str, list[list[float]]]) -> list[Curve]:
    """A curve for each recipe, up to where the shortest of its runs ends."""
    curves = []
    colours = spread(len(recipes))
    for recipe, colour, marker in zip(recipes, colours, markers(len(recipes)), strict=True):
        found = [v for v in values[recipe.title] if v]
        if not found:
            continue
        length = min(map(len, found))
        by_run = np.array([v[:length] for v in found])
        mean = by_run.mean(axis=0)
        std = by_run.std(axis=0, ddof=1) if len(found) > 1 else np.zeros(length)
        x = range(1, length + 1)
        marked = marker if length < 20 else ""
        curves.append(Curve(recipe.title, x, mean, colour, "-", marked, mean - std, mean + std))
    return curves


def _configuration(recipes: list[_Recipe]) -> Html:
    configs = [recipe.runs[0].options for recipe in recipes]
    names = dict.fromkeys(name for options in configs for name in options if name not in SEED)
    rows = [[name, *(shown(options.get(name)) for options in configs)] for name in names]
    parts = [details("Options", table("Options of the recipes", ["option", *(r.title for r in recipes)], rows))]
    runs = [run for recipe in recipes for run in recipe.runs]
    found = [versions if isinstance(versions := run.started.get("versions"), dict) else {} for run in runs]
    names = list(dict.fromkeys(name for versions in found for name in versions))
    versions = [[name, *(versions.get(name, "–") for versions in found)] for name in names]
    hardware = ["hardware", *(run.started.get("hardware", "–") for run in runs)]
    where = table("Versions and hardware", ["package", *(run.name for run in runs)], [*versions, hardware])
    return join([*parts, details("Versions", where)])
