"""Reports: valid, self-contained, escaped, accessible HTML with the numbers of the run; and what Chromium makes of it.

Runs are fabricated here, so that every number is known; `tests/test_run.py` looks at the report of a real one.
"""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium

from snnkd_jax.analysis.observation import Layer, Observation, save_observation
from snnkd_jax.errors import InputError
from snnkd_jax.files import read_sealed, write_sealed
from snnkd_jax.report.write import write_report
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.training.manifest import Manifest

ROOT = Path(__file__).parents[2]
MALICE = '</td><script>alert("x")</script>&amp;<img src=//evil onerror=alert(1)> $x_{'
"""Ends a cell, starts a script, fetches an image, and is no formula."""


def make_run(
    directory: Path, *, epochs: int = 3, classes: int = 10, names=None, layers: int = 3, measured=False, **changes
) -> Path:
    """The directory of a finished run of three networks; `measured`: as the scripts of noise and energy leave it."""
    config = default_config("digits").replace(run_dir=str(directory), epochs=epochs, **changes)
    rng = np.random.default_rng(config.run.seed)
    (directory / "student").mkdir(parents=True)
    origin = {
        "command": f"python x {MALICE}",
        "versions": {"jax": "0.10.2", "python": "3.11.7"},
        "hardware": "2 x Somebody's <processor>",
        "commit": "0123456789abcdef" * 2,
    }
    started = {"config": config.flat(), **origin}
    write_sealed(directory / "config.json", started)
    roles = ["student"] if config.is_plain else ["teacher", "student_baseline", "student"]
    layer_names = [f"act{i}" for i in range(1, layers + 1)]
    log = [log_entry(role, epoch, layer_names, rng) for role in roles for epoch in range(1, epochs + 1)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in log))
    accuracy: dict = {"teacher": 0.9912, "student_baseline": 0.9534, "student": 0.9701 + 0.01 * config.run.seed}
    by_step = {role: np.linspace(0.8, a, config.student.num_steps).tolist() for role, a in accuracy.items()}
    by_step["teacher"] = [accuracy["teacher"]]
    result: dict = {
        "test_accuracy": accuracy,
        "test_accuracy_by_step": by_step,
        "firing_rate": {"teacher": None, "student_baseline": 0.21, "student": 0.1234},
        "parameters": {"teacher": 104_234, "student_baseline": 3712, "student": 3712},
    }
    for values in result.values():
        values |= {role: None for role in accuracy if role not in roles}
    write_sealed(directory / "result.json", result | {"seconds": 90.0} | started)
    names = [str(i) for i in range(classes)] if names is None else names
    Manifest(None, "student", {"class_names": names}).write(directory / "student")
    t = config.student.num_steps
    recorded = tuple(
        Layer(name, 500, rng.random((t, 20)) < 0.3, rng.normal(0.3, 0.4, (t, 20)).astype(np.float32), 0.0, 1.0)
        for name in layer_names
    )
    confusion = (np.diag(np.full(classes, 30)) + rng.poisson(0.3, (classes, classes))).astype(np.int32)
    image = rng.integers(0, 256, (8, 8, 1), np.uint8)
    logits = rng.normal(0, 2, (t, classes)).astype(np.float32)
    save_observation(directory / "student" / "observation.npz", Observation(confusion, image, 3, logits, recorded))
    for name in ("noise", "energy") if measured else ():
        shutil.copy(ROOT / "experiments" / "results" / name / "digits.json", directory / f"{name}.json")
    return directory


def log_entry(role: str, epoch: int, layers: list[str], rng: np.random.Generator) -> dict:
    spiking = role != "teacher"
    rates = {name: 0.2 + 0.1 * rng.random() for name in layers} if spiking else {}
    rate = 0.2 if spiking else None
    validation = {"accuracy": 0.9, "loss": 1 / epoch, "firing_rate": rate, "firing_rates": rates}
    terms = {"ce": 0.5 / epoch} | ({"kd": 1.5, "steps": 0.25} if role == "student" else {})
    entry = {"phase": role, "epoch": epoch, "step": 10 * epoch, "accuracy": 0.95, **terms, "loss": 2 / epoch}
    return entry | {"firing_rate": rate, "averaged_steps": 10, "seconds": 0.5, "validation": validation}


VOID = ("meta", "img", "br", "link", "input")


class Document(HTMLParser):
    """Parses a page strictly: raises where elements are not closed in their order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = ""
        self._cells: list[list[str]] = []
        self._caption = ""
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._cells = []
        elif tag == "tr":
            self._cells.append([])
        elif tag in ("th", "td"):
            self._cells[-1].append("")

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open, f"<{tag}/> outside SVG"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._cells
            self._caption = ""

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if "caption" in self.open:
            self._caption += data
        elif self.open and self.open[-1] in ("th", "td"):
            self._cells[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report_of(run: Path) -> Document:
    return Document(write_report([run]).read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", measured=True)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory) -> Path:
    """Two seeds of a recipe, and two without distillation and with more steps, one of which was interrupted."""
    folder = tmp_path_factory.mktemp("compared")
    runs = [make_run(folder / "a", seed=0), make_run(folder / "b", seed=1)]
    runs += [make_run(folder / f"c{s}", preset="none", num_steps=4, epochs=2, seed=s) for s in (0, 1)]
    (runs[2] / "result.json").unlink()
    return write_report(runs, folder / "compared.html")


def check_page(text: str) -> Document:
    """What holds of every page."""
    document = Document(text)
    assert text.startswith("<!DOCTYPE html>\n")
    assert document.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in document.all("meta")
    assert document.all("script") == document.all("link") == []
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in document.elements:
        for name, value in attributes.items():
            if name in ("href", "src", "aria-labelledby", "clip-path"):
                target = re.fullmatch(r"#(.+)|url\(#(.+)\)|([\w-]+)", value or "")
                assert (value or "").startswith("data:image/png;base64,") or (
                    target and next(filter(None, target.groups())) in ids
                ), value
    for tag in ("svg", "img"):
        for attributes in document.all(tag):
            name = attributes.get("aria-label") if tag == "svg" else attributes.get("alt")
            assert name
            assert len(name) > 10
    assert all(attributes.get("role") == "img" for attributes in document.all("svg"))
    assert len(document.all("figcaption")) == len(document.all("figure"))
    assert "://" not in text
    assert "#fe00" not in text, "a colour that only stands for one of the page"
    return document


@pytest.mark.slow
def test_a_notebooks_backend_and_no_home_do_not_matter(tmp_path):
    """What a process inherits that a notebook or a daemon has started; the report has the same bytes."""
    run = make_run(tmp_path / "run")
    expected = write_report([run], tmp_path / "expected.html").read_bytes()
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | {"MPLBACKEND": "nonsense"}
    command = [sys.executable, "-m", "snnkd_jax.cli", "report", str(run)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (run / "report.html").read_bytes() == expected


def test_page_of_a_run_is_complete_valid_and_self_contained(run):
    document = check_page(write_report([run]).read_text())
    # By step, loss, accuracy, terms, rates of both students, raster, potentials and noise; the image.
    assert len(document.all("svg")) == 9
    assert len(document.all("img")) == 1
    assert len(document.all("h2")) == 8
    assert "absent" not in {attributes.get("class") for attributes in document.all("p")}


def test_numbers_are_those_of_the_run(run):
    document = report_of(run)
    result = json.loads((run / "result.json").read_text())
    rows = document.tables["Test set, after the last epoch"][1:]
    assert [row[-1] for row in rows] == [f"{100 * a:.2f} %" for a in result["test_accuracy"].values()]
    assert [row[2] for row in rows] == ["104,234", "3,712", "3,712"]
    assert [row[3] for row in rows] == ["-", "0.210", "0.123"]
    by_step = result["test_accuracy_by_step"]
    assert document.tables["Test accuracy by time steps, %"][1:] == [
        [str(t + 1), f"{100 * by_step['student_baseline'][t]:.2f}", f"{100 * by_step['student'][t]:.2f}"]
        for t in range(2)
    ]
    assert "student's accuracy by +1.67 points" in document.text
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = document.tables["student with KD"]
    assert epochs[0] == [
        *("epoch", "loss", "ce", "kd", "steps", "accuracy"),
        *("validation loss", "validation accuracy", "firing_rate", "seconds"),
    ]
    assert epochs[2] == ["2", "1", "0.25", "1.5", "0.25", "0.95", "0.5", "0.9", "0.2", "0.5"]
    rates = document.tables["Firing rates, spikes per neuron and step"]
    assert rates[0][1:3] == ["student with KD, epoch 1", "student with KD, epoch 3"]
    assert [row[2] for row in rates[1:]] == [f"{r:.4f}" for r in log[-1]["validation"]["firing_rates"].values()]
    options = dict(document.tables["Options of the run"][1:])
    assert options.keys() == Config().flat().keys()
    assert (options["preset"], options["tau"], options["baseline"]) == ("temporal", "2.0", "true")
    assert ["jax", "0.10.2"] in document.tables["Versions"]
    assert document.tables["Where it ran"][2] == ["hardware", "2 x Somebody's <processor>"]


def test_confusions_spikes_noise_and_energy_are_those_of_their_files(run):
    document = report_of(run)
    file = np.load(run / "student" / "observation.npz")
    matrix = document.tables["Test images by class (rows) and prediction (columns)"]
    assert [[int(n) for n in row[1:]] for row in matrix[1:]] == file["confusion"].tolist()
    spikes = [row[3] for row in document.tables["Recorded neurons and their spikes for this image"][1:]]
    assert spikes == [str(file[f"spikes_{i}"].sum()) for i in range(3)]
    answers = document.tables["Prediction by time steps"]
    z = file["logits"].astype(float).mean(axis=0)
    p = np.exp(z) / np.exp(z).sum()
    assert answers[2] == ["2", str(p.argmax()), f"{p.max():.3f}", f"{p[3]:.3f}"]
    noise = json.loads((run / "noise.json").read_text())["networks"]
    rows = document.tables["Test accuracy in %, mean over the levels of each kind"]
    mean = noise["student"]["kinds"]["blur"]["mean"]
    assert {row[0]: row[3] for row in rows}["blur"] == f"{100 * mean['mean']:.2f} ± {100 * mean['std']:.2f}"
    energy = json.loads((run / "energy.json").read_text())["networks"]
    cells = document.tables["Operations and energy per image"]
    assert float(cells[1][3]) == pytest.approx(energy["teacher"]["macs"] / 1e6, rel=0.01)
    assert len(cells) == 1 + len(energy)
    file.close()


@pytest.mark.slow
def test_values_are_text_whatever_they_hold(tmp_path):
    """Nothing of it becomes an element, in the page or in its figures."""
    run = make_run(tmp_path / 'r<b>&"', names=[MALICE, "half a pair \ud800"] * 5)
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().replace("act1", "<i>$a_b&"))
    text = write_report([run]).read_text()
    document = check_page(text)
    assert document.all("b") == document.all("i") == []
    assert len(document.all("img")) == 1
    assert MALICE in document.text
    assert 'r<b>&"' in document.text
    assert "<i>$a_b&" in document.text
    check_page(
        write_report([run, make_run(tmp_path / MALICE.replace("/", ""), seed=1)], tmp_path / "c.html").read_text()
    )


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    pages = [write_report([run], tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]
    assert len(pages[0]) < 400_000


@pytest.mark.slow
def test_many_layers_and_classes(tmp_path):
    """A matrix of 100 classes is a picture with its most frequent confusions; of 20 layers, two are in the legend."""
    run = make_run(tmp_path / "run", classes=100, layers=20)
    document = check_page(write_report([run]).read_text())
    confusion = np.load(run / "student" / "observation.npz")["confusion"]
    most = document.tables["Confusions"]
    off = confusion - np.diag(np.diag(confusion))
    assert most[1] == [*(str(i) for i in np.unravel_index(off.argmax(), off.shape)), str(off.max()), str(most[1][3])]
    labels = [attributes["aria-label"] for attributes in document.all("svg")]
    assert "Plot of firing rate against epoch, of act1, act20" in labels
    assert "Confusion matrix of 100 classes" in labels


def test_an_unfinished_run_says_what_is_missing(tmp_path):
    """Interrupted in its student's second epoch, with a loss that is not a number."""
    run = make_run(tmp_path / "run")
    for name in ("result.json", "student/observation.npz", "student/manifest.json"):
        (run / name).unlink()
    log = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*log[:6], log[6].replace("0.25", "NaN"), log[7][:40]]))
    document = check_page(write_report([run]).read_text())
    for sentence in ("the run is not finished", "Nothing was recorded", "snnkd noise RUN", "snnkd energy RUN"):
        assert sentence in document.text
    assert document.tables["student with KD"][1][4] == "nan"
    assert len(document.tables["student with KD"]) == 2
    (run / "metrics.jsonl").unlink()
    assert "No epoch has been logged" in report_of(run).text


def test_a_teacher_alone(tmp_path):
    run = make_run(tmp_path / "run", teacher_only=True)
    result = read_sealed(run / "result.json")
    for values in (result[name] for name in ("test_accuracy", "test_accuracy_by_step", "firing_rate", "parameters")):
        values |= {"student": None, "student_baseline": None}
    write_sealed(run / "result.json", result)
    shutil.rmtree(run / "student")
    log = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(log[:3]))
    document = check_page(write_report([run]).read_text())
    assert "An ANN, convnet of width 1" in document.text
    assert "No epoch of a spiking network" in document.text
    assert len(document.tables["Test set, after the last epoch"]) == 2


def test_comparison_is_by_recipe(comparison):
    """Means by hand: the students reach 0.9701 and 0.9801, half a point from their mean, sqrt(2) / 2 of it."""
    document = check_page(comparison.read_text())
    heading, distilled, plain = document.tables["Test accuracy, mean ± standard deviation over runs"]
    assert heading[1:4] == ["num_steps", "preset", "epochs"]
    assert distilled[:5] == ["recipe 1", "2", "temporal", "3", "2"]
    assert distilled[5:8] == ["99.12 ± 0.00", "95.34 ± 0.00", f"97.51 ± {math.sqrt(0.5):.2f}"]
    assert plain == ["recipe 2", "4", "none", "2", "2", "–", "98.01", "–", "0.123", "1.5"]
    runs = document.tables["Every run"]
    assert [row[0] for row in runs[1:]] == ["a", "b", "c0", "c1"]
    assert [row[4] for row in runs[1:]] == ["95.34", "95.34", "not finished", "98.01"]
    assert [row[5] for row in runs[1:]] == ["97.01", "98.01", "not finished", "–"]
    assert len(document.all("svg")) == 5
    options = {row[0]: row[1:] for row in document.tables["Options of the recipes"]}
    assert options["num_steps"] == ["2", "4"]
    assert "seed" not in options


def test_results_without_their_duration_are_compared(tmp_path):
    runs = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate("ab")]
    for run in runs:
        result = json.loads((run / "result.json").read_text())
        write_sealed(run / "result.json", {name: x for name, x in result.items() if name not in ("seconds", "sha256")})
    document = Document(write_report(runs, tmp_path / "c.html").read_text())
    assert document.tables["Test accuracy, mean ± standard deviation over runs"][1][-1] == "–"


@pytest.mark.slow
def test_what_is_no_run_is_refused(run, tmp_path):
    with pytest.raises(InputError, match=r"is not a run directory \(no config\.json\)"):
        write_report([tmp_path])
    with pytest.raises(InputError, match="runs are missing"):
        write_report([])
    with pytest.raises(InputError, match="name it with out"):
        write_report([run, run])
    with pytest.raises(InputError, match=r"nowhere.*cannot be written"):
        write_report([run], tmp_path / "nowhere" / "report.html")
    for name, content in (
        ("result.json", '{"test_accuracy": {}}'),
        ("noise.json", "{}"),
        ("energy.json", "[]"),
        ("config.json", "{"),
        ("student/observation.npz", "PK"),
    ):
        copy = Path(shutil.copytree(run, tmp_path / name.replace("/", "-")))
        (copy / name).write_text(content)
        with pytest.raises(InputError, match=re.escape(Path(name).name)):
            write_report([copy])


@pytest.mark.slow
def test_command_line(tmp_path):
    """A wrong directory ends in one line and status 2."""
    command = [sys.executable, "-m", "snnkd_jax.cli", "report", str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path} is not a run directory (no config.json)")


MEASURE = """(() => {
  document.querySelectorAll("details").forEach(d => d.open = true);
  const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom] };
  return {
    page: [document.documentElement.scrollWidth, document.documentElement.clientWidth],
    background: getComputedStyle(document.documentElement).backgroundColor,
    ink: [...document.querySelectorAll("body, figcaption, a, p, summary, caption, svg text")].map(e =>
      getComputedStyle(e)[e.tagName == "text" ? "fill" : "color"]),
    figures: [...document.querySelectorAll("figure svg, figure img")].map(e => ({
      label: e.getAttribute("aria-label") || e.getAttribute("alt"), box: box(e),
      texts: [...e.querySelectorAll("text")].map(t => ({text: t.textContent, box: box(t)})) })),
  };
})()"""


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2 of "rgb(r, g, b)"."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def contrast(a: str, b: str) -> float:
    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX's; the child becomes Chromium at once
def test_chromium_renders_every_figure_without_an_error(run, comparison, tmp_path):
    """At the width of a phone and of a screen, light and dark: nothing overflows, overlaps, is cut off or too faint."""
    many = make_run(tmp_path / "many", classes=100, layers=20, num_steps=8, epochs=30)
    with chromium(tmp_path / "profile") as page:
        for path in (write_report([run]), comparison, write_report([many])):
            for width in (390, 1200):
                for scheme in ("light", "dark"):
                    page.open(path, width, 900, scheme)
                    found = page.evaluate(MEASURE)
                    where = f"{path.name}, {width}, {scheme}"
                    told = [event for event in page.events if event.get("method") in COMPLAINTS]
                    assert told == [], where
                    requests = [e["params"]["request"]["url"] for e in page.events if e.get("method") == REQUEST]
                    assert all(url.startswith(("file:", "data:")) for url in requests), where
                    assert found["page"] == [width, width], where
                    assert (luminance(found["background"]) < 0.1) == (scheme == "dark"), where
                    assert min(contrast(ink, found["background"]) for ink in found["ink"]) >= 4.5, where
                    assert len(found["figures"]) >= 5, where
                    for figure in found["figures"]:
                        check_figure(figure, f"{where}: {figure['label']}")


COMPLAINTS = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Network.loadingFailed")
REQUEST = "Network.requestWillBeSent"


def check_figure(figure: dict, where: str) -> None:
    """It has a size, and its texts lie within it and apart from each other."""
    left, top, right, bottom = figure["box"]
    assert right - left > 100, where
    assert bottom - top > 100, where
    texts = figure["texts"]
    for text in texts:
        x0, y0, x1, y1 = text["box"]
        assert x1 > x0, (where, text)
        assert x0 >= left - 1, (where, text)
        assert x1 <= right + 1, (where, text)
        assert y0 >= top - 3, (where, text)
        assert y1 <= bottom + 3, (where, text)
    for i, a in enumerate(texts):
        for b in texts[i + 1 :]:
            width = min(a["box"][2], b["box"][2]) - max(a["box"][0], b["box"][0])
            height = min(a["box"][3], b["box"][3]) - max(a["box"][1], b["box"][1])
            assert min(width, height) <= 3, (where, a, b)
