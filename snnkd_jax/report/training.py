"""Sections of a report on training: losses, accuracies and firing rates by epoch."""

import math
from typing import Any

from snnkd_jax.report import page
from snnkd_jax.report.figures import Curve, lines, spread
from snnkd_jax.report.run import Run

_NO_TERMS = (
    *("phase", "epoch", "step", "accuracy", "grad_norm", "loss", "firing_rate"),
    *("averaged_steps", "seconds", "images_per_second", "validation"),
)
"""Entries of the log that are not terms of the loss."""


def training_section(run: Run) -> page.Html:
    """Losses and accuracies of each network by epoch."""
    trained = {role: entries for role, entries in run.epochs.items() if entries}
    if not trained:
        return page.note("No epoch has been logged: metrics.jsonl is missing or has no complete line.")
    validated = any("validation" in entry for entries in trained.values() for entry in entries)
    drawn = []
    plots = ("loss", "cross-entropy, nats", "ce", 1), ("accuracy", "accuracy, %", "accuracy", 100)
    for name, title, fitted, scale in plots:
        curves, ends = [], []
        for role, entries in trained.items():
            shown = [(run.titles[role], ("validation", name), "-"), ("", (fitted,), ":")]
            shown = shown if validated else [(run.titles[role], (fitted,), ":")]
            for label, key, dashes in shown:
                values = [scale * value for value in _series(entries, *key)]
                curves.append(Curve(label, _epochs(entries), values, page.NETWORK_COLOURS[role], dashes))
            ends.append(f"{run.titles[role]} {scale * _series(entries, *shown[0][1])[-1]:.4g}")
        where = "on the validation split, and in training (dotted)" if validated else "in training; none is held out"
        caption = f"{title.capitalize()}: {where}. At the end: "
        drawn.append(page.figure(lines(name, curves, "epoch", title), f"{caption}{'; '.join(ends)}."))
    role = "student" if "student" in trained else next(iter(trained))
    entries = trained[role]
    terms = ["loss", *_terms(entries)]
    curves = [
        Curve(term, _epochs(entries), _series(entries, term), colour, "-" if term == "loss" else "--")
        for term, colour in zip(terms, ["currentColor", *spread(len(terms) - 1)], strict=True)
    ]
    last = "; ".join(f"{term} {_series(entries, term)[-1]:.4g}" for term in terms)
    caption = f"The loss of the {run.titles[role]} and its unweighted terms. At the end: {last}."
    drawn.append(page.figure(lines("terms", curves, "epoch", "mean over the epoch"), caption))
    tables = [_epoch_table(run.titles[role], entries) for role, entries in trained.items()]
    return page.join([page.figures(*drawn), *tables])


def _epoch_table(title: str, entries: list[dict[str, Any]]) -> page.Html:
    columns = [(name,) for name in ("loss", *_terms(entries), "accuracy")]
    columns += [("validation", "loss"), ("validation", "accuracy")] if "validation" in entries[-1] else []
    columns += [("firing_rate",), ("seconds",)]
    values = zip(*(_series(entries, *column) for column in columns), strict=True)
    rows = [[epoch, *(f"{v:.4g}" for v in row)] for epoch, row in zip(_epochs(entries), values, strict=True)]
    return page.details(f"Every epoch of the {title}", page.table(title, ["epoch", *map(" ".join, columns)], rows))


def rates_section(run: Run) -> page.Html:
    """Spikes per neuron and step of each layer by epoch."""
    by_role = {
        role: entries
        for role in ("student", "student_baseline")
        if (entries := [e for e in run.epochs[role] if e.get("validation", {}).get("firing_rates")])
    }
    if not by_role:
        return page.note("No epoch of a spiking network has been logged with its rates on a validation split.")
    # In the order of computation, if it is known.
    known = [] if run.observation is None else [layer.name for layer in run.observation.layers]
    names: list[str] = list(next(iter(by_role.values()))[-1]["validation"]["firing_rates"])
    names.sort(key=lambda name: known.index(name) if name in known else len(known))
    drawn = [_rates(role, run.titles[role], names, entries) for role, entries in by_role.items()]
    ends = [(run.titles[r], e) for r, logged in by_role.items() for e in logged[:1] + logged[1:][-1:]]
    heading = ["layer", *(f"{title}, epoch {_epochs([entry])[0]}" for title, entry in ends)]
    rates = [entry["validation"]["firing_rates"] for _, entry in ends]
    rows = [[name, *(f"{by_layer.get(name, math.nan):.4f}" for by_layer in rates)] for name in names]
    numbers = page.table("Firing rates, spikes per neuron and step", heading, rows)
    return page.join([page.figures(*drawn), numbers])


def _rates(role: str, title: str, names: list[str], entries: list[dict[str, Any]]) -> page.Html:
    shown = names if len(names) <= 8 else (names[0], names[-1])
    curves = [
        Curve(name if name in shown else "", _epochs(entries), _series(entries, "validation", "firing_rates", name), c)
        for name, c in zip(names, spread(len(names)), strict=True)
    ]
    last = entries[-1]["validation"]["firing_rates"]
    least, most = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    caption = (
        f"Firing rates of the {title}, spikes per neuron and time step on the validation split, first layer blue, last "
        f"red. At the end they range from {last[least]:.3f} in {least} to {last[most]:.3f} in {most}."
    )
    return page.figure(lines(f"rates-{role}", curves, "epoch", "firing rate"), caption)


def _epochs(entries: list[dict[str, Any]]) -> list[int]:
    return [entry.get("epoch", i + 1) for i, entry in enumerate(entries)]


def _terms(entries: list[dict[str, Any]]) -> list[str]:
    return [name for name in entries[-1] if name not in _NO_TERMS]


def _series(entries: list[dict[str, Any]], *keys: str) -> list[float]:
    """A value per epoch, NaN where it is missing."""
    values: list[Any] = entries
    for key in keys:
        values = [value.get(key) if isinstance(value, dict) else None for value in values]
    return [math.nan if value is None else float(value) for value in values]
