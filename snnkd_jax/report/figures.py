"""Figures of a report, as SVG of Matplotlib embedded in the page.

Text stays text in the page's font and colours are CSS, so that one drawing serves light and dark mode. A drawing is
about as wide as a phone. The same numbers give the same bytes.
"""

import dataclasses
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from snnkd_jax.analysis.observation import Layer
from snnkd_jax.report.page import Html
from snnkd_jax.report.style import STYLE, Figure, mpl

_WIDTH = 360  # points, one CSS pixel each on a phone
_MARKERS = "osD^vP*X"
_GAP = 4  # between layers of a raster

_REPORT_STYLE = STYLE | {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    "text.parse_math": False,  # names may hold any character
    "axes.formatter.use_mathtext": False,
    "path.simplify": False,
}


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line of a plot, or points if `dashes` is "none"; `label` "" is in no legend, `band` is (low, high)."""

    label: str
    x: ArrayLike
    y: ArrayLike
    colour: str
    dashes: str = "-"
    marker: str = ""
    band: tuple[ArrayLike, ArrayLike] | None = None


def spread(n: int) -> list[str]:
    """CSS colours of n ordered curves, from blue to red, with enough contrast in light and dark mode."""
    return [f"oklch(var(--lightness) 0.13 {hue:.0f})" for hue in np.linspace(265, 30, max(n, 2))[:n]]


def markers(n: int) -> str:
    """Markers of n curves, repeated after the eighth."""
    return (_MARKERS * n)[:n]


class _Drawing:
    """A Matplotlib figure with placeholders for CSS colours, which `svg` replaces."""

    def __init__(self, height: float = 230, rows: int = 1, columns: int = 1, **options: Any):
        self._placeholders: dict[str, str] = {}
        names = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
        inks = dict.fromkeys(names, self.colour("currentColor")) | {"grid.color": self.colour("var(--line)")}
        self._style: Any = _REPORT_STYLE | inks
        with mpl.rc_context(self._style):
            self.figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
            self.grid = self.figure.subplots(rows, columns, squeeze=False, **options)
        self.axes = self.grid[0, 0]

    def colour(self, css: str) -> str:
        """A placeholder for a CSS colour."""
        return self._placeholders.setdefault(css, f"#fe{len(self._placeholders):04x}")

    def svg(self, name: str, label: str) -> Html:
        """The drawing as an element of the page; `name` is the prefix of its identifiers, `label` its description."""
        file = io.StringIO()
        with mpl.rc_context(self._style):
            self.figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        svg = _in_a_page(file.getvalue(), name)
        for css, placeholder in self._placeholders.items():
            svg = svg.replace(placeholder, css)
        (size, *_) = re.findall(r'viewBox="[^"]*"', svg)
        opening = f'<svg {size} role="img" aria-label="{html.escape(label)}">'
        return Html(opening + svg[svg.index(">") + 1 :])


_DROPPED = (
    r"^.*?(?=<svg)",  # XML declaration and doctype
    r"<metadata>.*?</metadata>",
    r"<defs>\s*<style.*?</style>\s*</defs>",  # would style the whole page
    r" font-family: [^;\"]*;?",  # use the page's
    r' transform="rotate\(-0 [^)]*\)"',
    r"xlink:(?=href=)",
)


def _in_a_page(svg: str, name: str) -> str:
    """Adapts an SVG file to a page, in which identifiers must be unique."""
    for pattern in _DROPPED:
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([\w.]+)', svg))
    svg = re.sub(r' id="([\w.]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    # Round down to hundredths of a pixel.
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda m: re.sub(r"(\d\.\d\d)\d+", r"\1", m[0]), svg)
    return re.sub(r"\s*\n\s*", " ", svg)


def lines(name: str, curves: Sequence[Curve], x_label: str, y_label: str) -> Html:
    """A plot of curves over integers."""
    drawing = _Drawing()
    _plot(drawing, drawing.axes, curves)
    _integer_axis(drawing.axes, x_label)
    drawing.axes.set_ylabel(y_label)
    named = [curve.label for curve in curves if curve.label]
    drawing.figure.legend(loc="outside lower center", ncols=min(len(named), 2), frameon=False)
    return drawing.svg(name, f"Plot of {y_label} against {x_label}, of {', '.join(named)}")


def _integer_axis(axes: Any, label: str) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(label)


def panels(name: str, by_title: Mapping[str, Sequence[Curve]], x_label: str, y_label: str) -> Html:
    """Small plots that share their axes, three per row."""
    rows = -(-len(by_title) // 3)
    drawing = _Drawing(rows * 85 + 50, rows, 3, sharex=True, sharey=True)
    places = drawing.grid.ravel()
    for axes, (title, curves) in zip(places, by_title.items(), strict=False):
        _plot(drawing, axes, curves)
        axes.set_title(title, loc="left", fontsize=9)
    for axes in places[len(by_title) :]:
        axes.set_axis_off()
    drawing.figure.supxlabel(x_label, fontsize=10)
    drawing.figure.supylabel(y_label, fontsize=10)
    handles, labels = places[0].get_legend_handles_labels()
    drawing.figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return drawing.svg(name, f"{len(by_title)} plots of {y_label} against {x_label}, of {', '.join(labels)}")


def _plot(drawing: _Drawing, axes: Any, curves: Sequence[Curve]) -> None:
    for curve in curves:
        colour = drawing.colour(curve.colour)
        options = {"ls": curve.dashes, "marker": curve.marker, "label": curve.label or "_"}
        axes.plot(curve.x, curve.y, color=colour, lw=1.6, ms=4, **options)
        if curve.band is not None:
            axes.fill_between(curve.x, *curve.band, color=colour, alpha=0.2, lw=0)
    axes.grid(lw=0.6)


def raster(name: str, layers: Sequence[Layer]) -> Html:
    """A spike raster: time steps on the x-axis, neurons on the y-axis, layers one below the other."""
    heights = [max(layer.spikes.shape[1], 12) for layer in layers]  # at least as high as the layer's name
    whole = sum(heights) + _GAP * len(layers)
    drawing = _Drawing(min(whole, 420) + 50)
    axes, num_steps = drawing.axes, len(layers[0].spikes)
    top, ticks = 0.0, []
    for layer, rows, css in zip(layers, heights, spread(len(layers)), strict=True):
        t, neuron = np.nonzero(layer.spikes)
        y = top + (neuron + 0.5) * rows / layer.spikes.shape[1]
        x = np.stack([t + 0.6, t + 1.4, np.full(t.shape, np.nan)], axis=1)
        width = max(0.5, 0.8 * min(whole, 420) / whole)
        axes.plot(x.ravel(), np.repeat(y, 3), color=drawing.colour(css), lw=width, solid_capstyle="butt")
        ticks.append(top + rows / 2)
        top += rows + _GAP
    axes.set_ylim(top, -_GAP)
    axes.set_xlim(0.5, num_steps + 0.5)
    axes.set_yticks(ticks, [layer.name for layer in layers], fontsize=9)
    axes.tick_params(axis="y", length=0)
    _integer_axis(axes, "time step")
    return drawing.svg(name, f"Spikes of neurons in {len(layers)} layers at {num_steps} time steps")


def potentials(name: str, layers: Sequence[Layer]) -> Html:
    """Membrane potentials of a few neurons of each layer before the first and after each step; circles are spikes."""
    drawing = _Drawing(90 * len(layers) + 40, len(layers), 1, sharex=True)
    for axes, layer in zip(drawing.grid[:, 0], layers, strict=True):
        steps = np.arange(len(layer.v) + 1)
        v = np.vstack([np.full(layer.v.shape[1], layer.v_start), layer.v])
        height = layer.v_threshold if np.isfinite(layer.v_threshold) else v.max()  # of the circles
        for i, css in enumerate(spread(layer.v.shape[1])):
            colour = drawing.colour(css)
            axes.plot(steps, v[:, i], color=colour, lw=1.4, marker=".", ms=3)
            fired = steps[1:][layer.spikes[:, i] > 0]
            axes.plot(fired, np.full(len(fired), height), "o", color=colour, ms=5, mfc="none")
        if np.isfinite(layer.v_threshold):
            axes.axhline(height, color=drawing.colour("currentColor"), lw=0.8, ls="--")
        axes.set_title(layer.name, loc="left", fontsize=9)
        axes.grid(lw=0.6)
    _integer_axis(drawing.grid[-1, 0], "time step")
    drawing.figure.supylabel("membrane potential", fontsize=10)
    return drawing.svg(name, f"Membrane potentials by time step in {', '.join(layer.name for layer in layers)}")


def heat(name: str, counts: NDArray) -> Html:
    """A confusion matrix of many classes, by the shares of each row."""
    drawing = _Drawing(_WIDTH)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    colour = [np.full(shares.shape, value / 255) for value in (48, 120, 186)]
    drawing.axes.imshow(np.dstack([*colour, np.sqrt(shares)]), interpolation="nearest")  # sqrt: rare ones are visible
    drawing.axes.set_xlabel("prediction")
    drawing.axes.set_ylabel("class")
    return drawing.svg(name, f"Confusion matrix of {len(counts)} classes")
