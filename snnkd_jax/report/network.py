"""What a report shows of a trained student: its neurons, its confusions, what noise does to it, and what it costs."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snnkd_jax.analysis.observation import Layer, Observation
from snnkd_jax.report.energy import COLUMNS, energy_rows, energy_terms
from snnkd_jax.report.figures import Curve, heat, panels, potentials, raster
from snnkd_jax.report.noise import in_words, noise_rows
from snnkd_jax.report.page import (
    NETWORK_COLOURS,
    Html,
    absent,
    details,
    element,
    figure,
    figures,
    join,
    paragraph,
    percent,
    scrolling,
    table,
)
from snnkd_jax.report.run import Run

_TRACED_LAYERS, _TRACED_NEURONS = 4, 5
_MOST_CLASSES = 20  # of a matrix whose every number is shown
_MOST_CONFUSIONS = 20

_NOTHING_OBSERVED = (
    "Nothing was recorded of the student at the end of this run: it has no student, did not end, or was of several "
    "processes."
)


def neurons_section(run: Run) -> Html:
    """The first image of the test set: the answer at each step, spikes, and membrane potentials."""
    if run.observation is None:
        return absent(_NOTHING_OBSERVED)
    layers = run.observation.layers
    if not layers:  # of a module of one's own, whose neurons are no `Spike`
        return figures(_answers(run, run.observation))
    heading = ["layer", "neurons", "recorded", "spikes", "per neuron and step"]
    rows = [[x.name, x.size, x.spikes.shape[1], x.spikes.sum(), f"{x.spikes.mean():.4f}"] for x in layers]
    counts = table("Neurons and spikes of this image, of the recorded ones", heading, rows)
    drawn = figures(_answers(run, run.observation), _spikes(layers), _membrane_potentials(layers))
    return join([drawn, details("Spikes by layer", counts)])


def _answers(run: Run, observed: Observation) -> Html:
    """The image, and what the network takes it for after each step."""
    steps = np.arange(1, len(observed.logits) + 1)
    means = np.cumsum(observed.logits, axis=0) / steps[:, None]
    powers = np.exp(means - means.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    label = _class(run, observed.label)
    rows = [
        [t, _class(run, p.argmax()), f"{p.max():.3f}", f"{p[observed.label]:.3f}"]
        for t, p in zip(steps, probabilities, strict=True)
    ]
    height, width = observed.image.shape[:2]
    alt = f"The first image of the test set, {height} × {width} pixels, of class {label}"
    caption = f"{alt}. After {steps[-1]} steps the answer is {rows[-1][1]}, with probability {rows[-1][2]}."
    numbers = table("The answer by the first steps", ["T", "answer", "its probability", f"of {label}"], rows)
    return figure(_picture(observed.image, alt), caption, numbers)


def _picture(image: NDArray, alt: str) -> Html:
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG")
    return element("img", src=f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", alt=alt)


def _spikes(layers: Sequence[Layer]) -> Html:
    spikes, neurons = sum(layer.spikes.sum() for layer in layers), [layer.spikes.shape[1] for layer in layers]
    caption = (
        f"Spikes for this image, first layer on top: {spikes} in {len(layers[0].spikes)} steps, of {sum(neurons)} "
        f"neurons, up to {max(neurons)} of each of {len(layers)} layers, spread evenly over it."
    )
    return figure(raster("raster", layers), caption)


def _membrane_potentials(layers: Sequence[Layer]) -> Html:
    chosen = [_various(layers[i]) for i in _spread(len(layers), _TRACED_LAYERS)]
    ends = np.concatenate([layer.v[-1] for layer in chosen])
    caption = (
        f"Membrane potentials after each step, from rest on, of {_TRACED_NEURONS} neurons of a layer, from the one "
        "that fires most to the most inhibited one; a spike (circle) has already reset them. They end between "
        f"{ends.min():.2f} and {ends.max():.2f}"
    )
    thresholds = [f"{v:g}" for v in dict.fromkeys(layer.v_threshold for layer in chosen) if np.isfinite(v)]
    caption += f"; the threshold (dashed) is {' or '.join(thresholds)}." if thresholds else "."
    return figure(potentials("potentials", chosen), caption)


def _various(layer: Layer) -> Layer:
    """A few neurons, spread evenly over an order by spikes and then by potential."""
    order = np.lexsort((layer.v.mean(axis=0), layer.spikes.sum(axis=0)))[::-1]
    few = order[_spread(len(order), _TRACED_NEURONS)]
    return dataclasses.replace(layer, spikes=layer.spikes[:, few], v=layer.v[:, few])


def _spread(n: int, most: int) -> NDArray:
    return np.unique(np.linspace(0, n - 1, most).round().astype(int))


def _class(run: Run, label: Any) -> str:
    return run.classes[label] if label < len(run.classes) else str(label)


def confusion_section(run: Run) -> Html:
    """What the student takes for what."""
    if run.observation is None:
        return absent(_NOTHING_OBSERVED)
    counts = run.observation.confusion
    names = [_class(run, k) for k in range(len(counts))]
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    most = [np.unravel_index(i, wrong.shape) for i in order if wrong.flat[i]]
    summary = f"The {run.titles['student']} classifies {np.trace(counts)} of {counts.sum()} test images correctly"
    summary += f", {percent(np.trace(counts) / counts.sum())}."
    if most:
        i, j = most[0]
        summary += f" Most often it takes {names[i]} for {names[j]}, {wrong[i, j]} of {counts[i].sum()} times."
    if len(names) <= _MOST_CLASSES:
        return join([paragraph(summary), _matrix(counts, names)])
    rows = [[names[i], names[j], wrong[i, j], counts[i].sum()] for i, j in most]
    listed = details("Most frequent confusions", table("Confusions", ["class", "answer", "images", "of"], rows))
    caption = f"{summary} Rows are classes, columns answers, in the order of the data set."
    return figures(figure(heat("heat", counts), caption, listed))


def _matrix(counts: NDArray, names: list[str]) -> Html:
    """The confusion matrix as a table, its cells coloured by their share of the row."""
    head = [element("th", title, scope="col") for title in ("class \\ answer", *names)]
    rows = []
    for name, row in zip(names, counts, strict=True):
        cells = [element("th", name, scope="row")]
        for n, share in zip(row, row / max(row.sum(), 1), strict=True):
            kind = "heat hot" if share > 0.87 else "heat"
            cells.append(element("td", n, class_=kind, style=f"--share: {share:.2f}"))
        rows.append(element("tr", *cells))
    caption = "Test images by class (rows) and answer (columns)"
    inside = [element("caption", caption), element("thead", element("tr", *head)), element("tbody", *rows)]
    return scrolling(caption, element("table", *inside))


def noise_section(run: Run) -> Html:
    """Accuracy under noise, where it was measured."""
    if run.noise is None:
        return absent("Not measured: ", element("code", "snnkd noise RUN"), " does it.")
    networks = run.noise["networks"]
    kinds: dict[str, list[Curve]] = {}
    for role, network in networks.items():
        for kind, entry in network["kinds"].items():
            curves = kinds.setdefault(kind.replace("_", " "), [])
            if entry is not None:
                y = [100 * level["mean"] for level in entry["accuracy"]]
                curves.append(Curve(run.titles[role], range(len(y)), y, NETWORK_COLOURS[role], marker="."))
    heading, *rows = noise_rows(run.noise)
    means = []
    for role, network in networks.items():
        group, over = ("all", "all kinds") if network["mean"]["all"] else ("image", "the kinds on images")
        mean, clean = network["mean"][group]["mean"], network["clean"]["mean"]
        means.append(f"{run.titles[role]} {percent(clean)} without noise, {percent(mean)} over {over}")
    caption = f"Test accuracy at levels 0 to 5 of each kind of noise, on {run.noise['images']} images: "
    caption += f"{'; '.join(means)}. {in_words(run.noise)}"
    numbers = table("Test accuracy in %, each kind's mean over its levels", heading, rows)
    return join([figures(figure(panels("noise", kinds, "level", "test accuracy, %"), caption)), numbers])


def energy_section(run: Run) -> Html:
    """Operations and energy of an image, where they were counted."""
    if run.energy is None:
        return absent("Not counted: ", element("code", "snnkd energy RUN"), " does it.")
    rows = [row[1:] for row in energy_rows(run.energy)]
    return join([table("Operations and energy of an image", COLUMNS[1:], rows), paragraph(energy_terms([run.energy]))])
