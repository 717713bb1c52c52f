"""The figures of noise: what the levels look like, and accuracy against level."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from snnkd_jax import data
from snnkd_jax.data.corruptions import IMAGE_LEVELS, MAX_LEVEL, corrupt
from snnkd_jax.report.style import STYLE, Figure, Line2D, mpl
from snnkd_jax.runs.roles import NETWORKS

COLOURS = {"teacher": "#888888", "student_baseline": "#d9822b", "student": "#1f6fb2"}
GAP = 2  # white pixels between images


def draw_levels(dataset: data.Dataset, path: Path) -> None:
    """The contact sheet: a row a kind, and for each image, of different classes, a column a level."""
    chosen = [int(np.argmax(dataset.test_labels == label)) for label in range(3)]
    images = dataset.test_images[chosen].astype(np.float32) / np.float32(255)
    rows = []
    for kind in IMAGE_LEVELS:
        by_level = [
            np.asarray(corrupt(kind, level, jax.random.key(0), images, np.array(chosen)))
            for level in range(MAX_LEVEL + 1)
        ]
        padded = [np.pad(level, ((0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=1) for level in by_level]
        rows.append(np.concatenate([padded[level][i] for i in range(3) for level in range(MAX_LEVEL + 1)], axis=1))
    sheet = np.concatenate(rows)
    sheet = np.broadcast_to(sheet, (*sheet.shape[:2], 3))
    h, w = (n + GAP for n in dataset.image_shape[:2])
    with mpl.rc_context({**STYLE, "image.interpolation": "nearest"}):
        figure = Figure(figsize=(12, 12 * sheet.shape[0] / sheet.shape[1]), layout="constrained")
        axes = figure.subplots()
        axes.imshow(sheet)
        axes.set_yticks((np.arange(len(IMAGE_LEVELS)) + 0.5) * h, [kind.replace("_", " ") for kind in IMAGE_LEVELS])
        levels = [str(level) for _ in chosen for level in range(MAX_LEVEL + 1)]
        axes.set_xticks((np.arange(len(levels)) + 0.5) * w, levels)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.savefig(path, dpi=100, metadata={"Software": None})


def draw_curves(record: dict[str, Any], path: Path) -> None:
    """Accuracy against level, a panel a kind, a line a network with the standard deviation over seeds around it."""
    kinds = list(next(iter(record["networks"].values()))["kinds"])
    columns = 5
    with mpl.rc_context(STYLE):
        shape = -(-(len(kinds) + 1) // columns), columns
        figure = Figure(figsize=(13, 8), layout="constrained")
        panels = figure.subplots(*shape, sharex=True, sharey=True).ravel()
        for axes, kind in zip(panels, kinds, strict=False):
            for role, network in record["networks"].items():
                if network["kinds"][kind] is None:
                    continue
                by_level = network["kinds"][kind]["accuracy"]
                mean = 100 * np.array([a["mean"] for a in by_level])
                std = 100 * np.array([a["std"] or 0.0 for a in by_level])
                levels = np.arange(len(by_level))
                axes.plot(levels, mean, "o-", ms=3, color=COLOURS[role])
                axes.fill_between(levels, mean - std, mean + std, color=COLOURS[role], alpha=0.25, lw=0)
            axes.set_title(kind.replace("_", " "), loc="left", fontweight="bold")
            axes.grid(color="#dddddd")
        for axes in panels[len(kinds) :]:
            axes.set_axis_off()
        lines = [Line2D([], [], color=COLOURS[role], label=NETWORKS[role]) for role in record["networks"]]
        panels[len(kinds)].legend(handles=lines, frameon=False, loc="center")
        figure.supxlabel("level")
        figure.supylabel("test accuracy, %")
        figure.savefig(path, metadata={"Date": None})
