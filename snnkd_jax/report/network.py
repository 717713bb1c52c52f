"""Sections of a report on trained networks: neurons, confusion matrix, robustness to noise, energy."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from snnkd_jax.analysis.observation import Layer, Observation
from snnkd_jax.report import page
from snnkd_jax.report.energy import COLUMNS, energy_rows, energy_terms
from snnkd_jax.report.figures import Curve, heat, panels, potentials, raster
from snnkd_jax.report.noise import in_words, kind_title, noise_rows
from snnkd_jax.report.run import Run
from snnkd_jax.report.statistics import percent

_TRACED_LAYERS, _TRACED_NEURONS = 4, 5
_MOST_CLASSES = 20  # of a confusion matrix that is a table
_MOST_CONFUSIONS = 20

_NOTHING_OBSERVED = (
    "Nothing was recorded for the student: the run has no student, is not finished, or used several processes."
)


def neurons_section(run: Run) -> page.Html:
    """The first image of the test set: predictions by time step, spikes, and membrane potentials."""
    if run.observation is None:
        return page.note(_NOTHING_OBSERVED)
    layers = run.observation.layers
    if not layers:  # a user's module without `Spike`
        return page.figures(_answers(run, run.observation))
    heading = ["layer", "neurons", "recorded", "spikes", "per neuron and step"]
    rows = [[x.name, x.size, x.spikes.shape[1], x.spikes.sum(), f"{x.spikes.mean():.4f}"] for x in layers]
    counts = page.table("Recorded neurons and their spikes for this image", heading, rows)
    drawn = page.figures(_answers(run, run.observation), _spikes(layers), _membrane_potentials(layers))
    return page.join([drawn, page.details("Spikes by layer", counts)])


def _answers(run: Run, observed: Observation) -> page.Html:
    """The image, and the network's prediction after each step."""
    steps = np.arange(1, len(observed.logits) + 1)
    means = np.cumsum(observed.logits, axis=0) / steps[:, None]
    powers = np.exp(means - means.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    label = _class(run, observed.label)
    rows = [
        [t, _class(run, p.argmax()), f"{p.max():.3f}", f"{p[observed.label]:.3f}"]
        for t, p in zip(steps, probabilities, strict=True)
    ]
    height, width = observed.image.shape[-3:-1]
    alt = f"The first image of the test set, {height} × {width} pixels, of class {label}"
    if events := observed.image.ndim == 4:
        alt = f"The first recording of the test set, {height} × {width} pixels, of class {label}, frame by frame"
        alt += " (brighter pixels blue, darker ones orange)"
    picture = event_picture(observed.image) if events else observed.image
    caption = f"{alt}. After {steps[-1]} steps the prediction is {rows[-1][1]}, with probability {rows[-1][2]}."
    heading = ["T", "prediction", "its probability", f"probability of {label}"]
    numbers = page.table("Prediction by time steps", heading, rows)
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(file, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return page.figure(page.element("img", src=source, alt=alt), caption, numbers)


_PICTURE_WIDTH = 340  # pixels, of the frames of a row
_DARKER, _BRIGHTER = (194, 106, 20), (31, 111, 178)


def event_picture(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames `[T, H, W, 2]` side by side, and in several rows if they are many: RGB `[h, w, 3]`.

    Pixels without events are white, those with the most events of one polarity have its colour, and lines are grey.
    """
    t, h, w, _ = frames.shape
    columns = max(1, min(t, _PICTURE_WIDTH // (w + 1)))
    shares = frames / max(int(frames.max()), 1)
    ink = shares @ (255 - np.array([_DARKER, _BRIGHTER]))
    picture = np.full((-(-t // columns) * (h + 1) - 1, columns * (w + 1) - 1, 3), 200, np.uint8)
    for i, frame in enumerate(np.clip(255 - ink, 0, 255).round().astype(np.uint8)):
        top, left = i // columns * (h + 1), i % columns * (w + 1)
        picture[top : top + h, left : left + w] = frame
    return picture


def _spikes(layers: Sequence[Layer]) -> page.Html:
    spikes, neurons = sum(layer.spikes.sum() for layer in layers), [layer.spikes.shape[1] for layer in layers]
    caption = (
        f"Spikes for this image, first layer on top: {spikes} spikes of {sum(neurons)} neurons in "
        f"{len(layers[0].spikes)} steps; up to {max(neurons)} evenly spaced neurons of each of {len(layers)} layers."
    )
    return page.figure(raster("raster", layers), caption)


def _membrane_potentials(layers: Sequence[Layer]) -> page.Html:
    chosen = []
    for layer in (layers[i] for i in _spread(len(layers), _TRACED_LAYERS)):
        order = np.lexsort((layer.v.mean(axis=0), layer.spikes.sum(axis=0)))[::-1]
        few = order[_spread(len(order), _TRACED_NEURONS)]
        chosen.append(dataclasses.replace(layer, spikes=layer.spikes[:, few], v=layer.v[:, few]))
    ends = np.concatenate([layer.v[-1] for layer in chosen])
    caption = (
        f"Membrane potentials after each step and its reset, of {_TRACED_NEURONS} neurons per layer, from the one with "
        f"the most spikes (circles) to the most inhibited one. They end between {ends.min():.2f} and {ends.max():.2f}"
    )
    thresholds = [f"{v:g}" for v in dict.fromkeys(layer.v_threshold for layer in chosen) if np.isfinite(v)]
    caption += f"; the threshold (dashed) is {' or '.join(thresholds)}." if thresholds else "."
    return page.figure(potentials("potentials", chosen), caption)


def _spread(n: int, most: int) -> NDArray:
    return np.unique(np.linspace(0, n - 1, most).round().astype(int))


def _class(run: Run, label: Any) -> str:
    return run.classes[label] if label < len(run.classes) else str(label)


def confusion_section(run: Run) -> page.Html:
    """The confusion matrix of the student."""
    if run.observation is None:
        return page.note(_NOTHING_OBSERVED)
    counts = run.observation.confusion
    names = [_class(run, k) for k in range(len(counts))]
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    most = [np.unravel_index(i, wrong.shape) for i in order if wrong.flat[i]]
    summary = f"The {run.titles['student']} classifies {np.trace(counts)} of {counts.sum()} test images correctly"
    summary += f", {percent([np.trace(counts) / counts.sum()])} %."
    if most:
        i, j = most[0]
        times = f"{wrong[i, j]} of {counts[i].sum()} times"
        summary += f" Its most frequent confusion is {names[i]} classified as {names[j]}, {times}."
    if len(names) <= _MOST_CLASSES:
        return page.join([page.element("p", summary), _matrix(counts, names)])
    rows = [[names[i], names[j], wrong[i, j], counts[i].sum()] for i, j in most]
    listed = page.details(
        "Most frequent confusions", page.table("Confusions", ["class", "prediction", "images", "of"], rows)
    )
    caption = f"{summary} Rows are classes, columns predictions, in the order of the data set."
    return page.figures(page.figure(heat("heat", counts), caption, listed))


def _matrix(counts: NDArray, names: list[str]) -> page.Html:
    """The confusion matrix as a table, its cells coloured by their share of the row."""
    rows = []
    for name, row in zip(names, counts, strict=True):
        rows.append([name])
        for n, share in zip(row, row / max(row.sum(), 1), strict=True):
            kind = "heat hot" if share > 0.87 else "heat"
            rows[-1].append(page.element("td", n, class_=kind, style=f"--share: {share:.2f}"))
    return page.table("Test images by class (rows) and prediction (columns)", ["class \\ prediction", *names], rows)


def noise_section(run: Run) -> page.Html:
    """Accuracy under noise, if it was measured."""
    if run.noise is None:
        return page.note("Not measured; run ", page.element("code", "snnkd noise RUN"), ".")
    kinds: dict[str, list[Curve]] = {}
    means = []
    for role, network in run.noise["networks"].items():
        for kind, entry in network["kinds"].items():
            curves = kinds.setdefault(kind_title(run.noise, kind), [])
            if entry is not None:
                y = [100 * level["mean"] for level in entry["accuracy"]]
                curves.append(Curve(run.titles[role], range(len(y)), y, page.NETWORK_COLOURS[role], marker="."))
        first = next(iter(network["mean"]))  # image or event
        group, over = ("all", "all kinds") if network["mean"]["all"] else (first, f"the kinds of {first} noise")
        mean, clean = network["mean"][group]["mean"], network["clean"]["mean"]
        means.append(f"{run.titles[role]} {percent([clean])} % without noise, {percent([mean])} % over {over}")
    heading, *rows = noise_rows(run.noise)
    caption = f"Test accuracy at levels 0 to 5 of each kind of noise, on {run.noise['images']} images: "
    caption += f"{'; '.join(means)}. {in_words(run.noise)}"
    numbers = page.table("Test accuracy in %, mean over the levels of each kind", heading, rows)
    return page.join([page.figures(page.figure(panels("noise", kinds, "level", "test accuracy, %"), caption)), numbers])


def energy_section(run: Run) -> page.Html:
    """Operations and energy per image, if they were counted."""
    if run.energy is None:
        return page.note("Not counted; run ", page.element("code", "snnkd energy RUN"), ".")
    numbers = page.table("Operations and energy per image", COLUMNS[1:], (row[1:] for row in energy_rows(run.energy)))
    return page.join([numbers, page.element("p", energy_terms([run.energy]))])
