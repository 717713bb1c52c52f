"""The documentation: examples run, what pages say is what source and records say, and no equation is missing."""

import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import comparison
import fidelity
import knobs
import pytest
from compilation import QUICKLY
from records.docstrings import is_block, paragraphs
from records.fidelity import ROWS
from records.knobs import knob_table

import snnkd_jax
from snnkd_jax.distill import presets
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.errors import InputError
from snnkd_jax.models import MODELS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def code_of(page: Path) -> str:
    """All Python of a page as one program, on the lines of the page."""
    lines, inside = [], False
    for line in page.read_text().splitlines():
        inside = line == "```python" or (inside and line != "```")
        lines.append(line if inside and not line.startswith("```") else "")
    return "\n".join(lines) + "\n"


def run_program(code: str, folder: Path, *options: str) -> None:
    """In a process of its own, which compiles quickly."""
    (folder / "page.py").write_text(code)
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICKLY,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, *options, "page.py"]
    ran = subprocess.run(command, cwd=folder, env=os.environ | settings, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]


@pytest.mark.slow
def test_tutorial_runs_in_order(tmp_path):
    run_program(code_of(DOCS / "tutorial.md"), tmp_path, "-W", "error::UserWarning")
    assert (tmp_path / "runs" / "tutorial" / "result.json").is_file()


PROGRAMS = (
    *("getting_started", "own_data", "own_network", "own_neuron", "own_loss", "training", "teachers", "inference"),
)
"""Pages whose code runs in the order in which it stands; index.md has a test of its own."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_examples_of_the_pages_run(name, tmp_path):
    """With one epoch for each training, after which layers may still be silent."""
    code = re.sub(r"(?<!_)epochs=\d+", "epochs=1", code_of(DOCS / f"{name}.md"))
    assert "kd." in code
    run_program(code, tmp_path)


@pytest.mark.slow
def test_the_example_of_the_readme_runs(tmp_path):
    """On random images, with a small network and one epoch."""
    code = re.sub(r"(?<!_)epochs=\d+", "epochs=1", code_of(ROOT / "README.md")).replace("resnet18", "convnet")
    arrays = "import numpy as np\nx, y = np.random.rand(280, 12, 12, 3), np.arange(280) % 7\nxt, yt = x[:70], y[:70]\n"
    run_program(arrays + code, tmp_path)
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()


def unresolved(code: str) -> list[str]:
    """Dotted names that a program reads from its imports and that are not there, and arguments no function has."""
    tree = ast.parse(code)
    scope: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(ast.unparse(node), scope)
    found = []
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else node
        if not isinstance(called, ast.Attribute):
            continue
        name = ast.unparse(called)
        if not re.fullmatch(r"[\w.]+", name) or name.split(".")[0] not in scope:
            continue
        try:
            function = eval(name, scope)
        except AttributeError:
            found.append(name)
            continue
        if isinstance(node, ast.Call) and name.startswith("kd."):
            parameters = inspect.signature(function).parameters
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                found += [f"{name}({k.arg}=)" for k in node.keywords if k.arg and k.arg not in parameters]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_names_in_the_examples_exist(page):
    assert not unresolved(code_of(page))


def test_wrong_names_in_examples_are_found():
    code = "import snnkd_jax as kd\nkd.fitt(1)\nkd.fit(1, 2, epoch=3)\nkd.data.load('digits')"
    assert unresolved(code) == ["kd.fitt", "kd.fit(epoch=)", "kd.fitt"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_of_the_pages_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:\s]+)[^):]*\)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_readme_is_short_and_has_two_commands_to_start_with():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200
    section = text.split("## Quick start")[1].split("\n## ")[0]
    blocks = re.findall(r"```(\w*)\n(.*?)```", section, re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "bash"]
    assert "snnkd train" in blocks[0][1]
    assert "pytest" in blocks[1][1]


def shown(metric) -> str:
    """A metric of a record in percent, without a deviation if there is none."""
    return f"{100 * metric['mean']:.2f}" + (f" ± {100 * metric['std']:.2f}" if metric["std"] else "")


def test_rows_of_the_readme_are_those_of_the_records():
    """Every row links to the record that its accuracies are in."""
    section = (ROOT / "README.md").read_text().split("<!-- headline:")[1].split("<!-- end of headline")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()[4:] if line]
    assert len(rows) == 8
    for data, student, steps, how, teacher, direct, accuracy, gained in rows:
        ((title, link),) = re.findall(r"\[(.*)\]\((.*)\)", data)
        record = json.loads((ROOT / link).read_text())
        assert title == record["dataset"]
        if "/steps/" in link:
            (entry,) = record["entries"]
            (by_step,), (ann,) = entry["accuracy"], entry["ordinary"]
            assert (teacher, accuracy) == (f"{100 * ann:.2f}", f"{100 * by_step[int(steps) - 1]:.2f}")
            continue
        config, metrics = record["config"], record["metrics"]
        assert student == f"{config['student']} × {config['width']:g}"
        assert int(steps) == config["num_steps"]
        assert (config["preset"] in how) != (config["preset"] == "none")
        assert ("initialised" in how) == (config.get("initial_weights", "random") == "teacher")
        assert teacher == shown(metrics["teacher/test_accuracy"])
        assert accuracy == shown(metrics["student/test_accuracy"])
        baseline = metrics.get("student_baseline/test_accuracy")
        if baseline is None and direct != "–":
            name = "mnist-airbench-none" if title == "MNIST" else "cifar10-vgg11-none"
            other = json.loads((ROOT / f"experiments/results/{name}.json").read_text())
            baseline = other["metrics"]["student/test_accuracy"]
        assert direct == ("–" if baseline is None else shown(baseline))
        if baseline is not None:
            mean = metrics["student/test_accuracy"]["mean"] - baseline["mean"]
            assert gained.startswith(f"{100 * mean:+.2f} ±")


def test_the_table_of_presets_has_their_weights():
    table = (DOCS / "presets.md").read_text().split("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]* \| ([^|]*) \|", table, re.MULTILINE)
    found = {name: {k: float(v) for k, v in re.findall(r"`(\w+)` ([\de.-]+\d|\d)", cell)} for name, cell in rows}
    expected = {name: {term.name: term.weight for term in x.terms} for name, x in PRESETS.items()}
    assert found == expected


def test_presets_agree_line_by_line():
    """`PRESETS`, the table of its docstring and that of the page: the same order, papers, and guesses."""
    docstring = re.findall(r"^\| `([\w-]+)` +\| (.*)", presets.__doc__ or "", re.MULTILINE)
    page = re.findall(r"^\| `([\w-]+)` \| (.*)", (DOCS / "presets.md").read_text().split("\n## ")[0], re.MULTILINE)
    assert [name for name, _ in docstring] == [name for name, _ in page] == list(PRESETS)
    for (name, mine), (_, shown) in zip(docstring, page, strict=True):
        papers = re.findall(r"\d{4}\.\d{5}", mine)
        assert set(papers) <= set(re.findall(r"\d{4}\.\d{5}", shown)), name
        assert ("guess" in mine) == ("guess" in shown), name
        assert ("its code" in mine) == ("its code" in re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", shown)), name


def test_the_page_says_when_presets_were_others_than_in_its_table():
    """Until the record is made anew, with the presets of today: then this goes, and the paragraph with it."""
    record = json.loads((ROOT / "experiments" / "results" / "knobs" / "digits.json").read_text())
    assert "seal" not in {entry.get("value") for entry in record["entries"]}
    said = f"measured on {record['date']} at commit {record['commit'][:7]}, with former presets"
    assert said in (DOCS / "presets.md").read_text()


def test_every_module_is_on_one_page_of_the_api():
    modules = {module.name for module in pkgutil.walk_packages(snnkd_jax.__path__, "snnkd_jax.")}
    named = [name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)]
    assert len(set(named)) == len(named)
    assert set(named) <= modules
    packages = {name for name in modules if any(other.startswith(f"{name}.") for other in modules)}
    assert not modules - packages - set(named) - {"snnkd_jax.cli.__main__"}


# Of `dynamics.neurons` and the like, what is no equation; elsewhere, indented blocks that are none, or whose
# results are whole numbers or bounds, which their tests compare by hand and which have no error to tell.
NO_EQUATION = {
    *(f"dynamics.neurons.{name}" for name in ("describe_neuron", "neuron_from", "most_spikes")),
    *(f"dynamics.integration.{name}" for name in ("check_neuron", "initial_state")),
    *(f"distill.losses.check_{name}" for name in ("in_range", "same_shape", "temperature")),
    *("data.archives", "data.aedat4", "training.manifest"),  # file formats
    "interop.nir_dt",  # conditions
    "fitting",  # code
    "data.crops.random_box",  # pixels, in test_crops.py
    *("data.events.Binning", "data.event_digits"),  # whole numbers, in test_events.py and test_event_digits.py
    "planning.pod",  # bounds, in test_pod.py
    "dynamics.neurons.reset",  # the last two lines of the equations of lif, which has rows
    *("interop.euler", "interop.nir_dt"),  # exact, in test_nir_of_others.py
}
OF_EQUATIONS = (
    *(f"dynamics.{name}" for name in ("surrogate", "neurons", "integration", "encoders")),
    "distill.losses",
)


def equations(is_block, paragraphs):
    """Names below `snnkd_jax` that have an equation: functions of some modules, and whatever has an indented block."""
    for module in pkgutil.walk_packages(snnkd_jax.__path__, "snnkd_jax."):
        parent = importlib.import_module(module.name)
        below = module.name.removeprefix("snnkd_jax.")
        members = {
            f"{below}.{name}": member
            for name, member in vars(parent).items()
            if not name.startswith("_") and getattr(member, "__module__", None) == module.name and callable(member)
        }
        for name, member in {below: parent, **members}.items():
            found = paragraphs(inspect.getdoc(member) or "")
            of_equations = inspect.isfunction(member) and below in OF_EQUATIONS
            if of_equations or any(is_block(lines) for lines in found):
                yield name


def test_every_equation_has_a_row():
    found = set(equations(is_block, paragraphs))
    assert len(found) > 40
    checked = {name for rows in ROWS.values() for check in rows.values() for name in check.of.split()}
    assert not found - checked - NO_EQUATION
    assert not NO_EQUATION - found


def test_rows_of_the_tests_are_those_of_the_page():
    """In the committed records; a name of one row only, so that sections do not share it."""
    names = [name for rows in ROWS.values() for name in rows]
    assert len(set(names)) == len(names)
    recorded, counted = set(), []
    for path in fidelity.RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
        for row in record["rows"].values():
            assert 0 <= row["error"] <= row["tolerance"]
        recorded |= record["rows"].keys()
        counted += [row["comparisons"] for name, row in record["rows"].items() if name == "numbers of parameters"]
    assert max(counted) == 2 * len(MODELS)  # since the last model came, each counted as teacher and as student
    assert recorded == set(names)


def test_every_name_that_a_test_gives_a_comparison_is_a_row():
    names = {name for rows in ROWS.values() for name in rows}
    given = set()
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "agrees":
                given |= {k.value.value for k in node.keywords if k.arg == "name" and isinstance(k.value, ast.Constant)}
    assert len(given) > 30
    assert given - {None} <= names


def compared(name="spikes", kind="exact", tolerance=0.0, error=0.0):
    return {"name": name, "kind": kind, "tolerance": tolerance, "error": error}


def test_comparisons_are_summed_up_row_by_row():
    potential = [compared("lif, hard reset", "relative", 1e-5, error) for error in (1e-7, 3e-6, 2e-6)]
    rows = fidelity.summed_up([*potential, compared()])
    assert list(rows) == ["spikes", "lif, hard reset"]
    assert rows["lif, hard reset"] == {"kind": "relative", "tolerance": 1e-5, "error": 3e-6, "comparisons": 3}
    with pytest.raises(InputError, match="'spike' is no row"):
        fidelity.summed_up([compared("spike")])
    with pytest.raises(InputError, match="give each a row of its own"):
        fidelity.summed_up([*potential, compared("lif, hard reset", "relative", 1e-4)])


def test_a_comparison_reports_its_largest_error(tmp_path, monkeypatch):
    """By hand: |1.1 - 1| / (1 + 0.5) and |2 - 2.5| / (2.5 + 0.5) relative, 0.5 absolute."""
    monkeypatch.setattr(comparison, "report", tmp_path / "found.jsonl")
    comparison.agrees([1.1, 2.0], [1.0, 2.5], rtol=0.2, atol=0.1, name="a")
    comparison.agrees([1.1, 2.0], [1.0, 2.5], atol=0.6, name="b")
    comparison.agrees([True, False], [1, 0], name="c")
    comparison.agrees([1.0], [1.0])
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [(f["name"], f["kind"], f["tolerance"]) for f in found] == [
        ("a", "relative", 0.2),
        ("b", "absolute", 0.6),
        ("c", "exact", 0.0),
    ]
    assert [f["error"] for f in found] == pytest.approx([0.5 / 3, 0.5, 0.0])
    for rtol, atol in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.4)):
        with pytest.raises(AssertionError):
            comparison.agrees([1.1, 2.0], [1.0, 2.5], rtol=rtol, atol=atol)


def test_knobs_are_compared_seed_by_seed():
    """Changes of 1, 2 and 3 points: 2, and a standard error of 1 / sqrt 3."""
    recipe = {"accuracy": [0.90, 0.94, 0.95], "firing_rate": [0.1, 0.2, 0.3]}
    tried = {"group": "neuron", "option": "tau", "recipe": 2.0, "value": 4.0, "accuracy": [0.91, 0.96, 0.98]}
    tried["firing_rate"] = [0.2, 0.2, 0.2]
    rows = knob_table([{"entries": [recipe, tried, tried | {"group": "network"}]}], "neuron").splitlines()
    assert rows[2:] == [
        "| | | | 93.00 ± 2.65 | | 0.200 ± 0.100 |",
        "| `tau` | 2.0 | 4.0 | 95.00 ± 3.61 | +2.00 ± 0.58 | 0.200 ± 0.000 |",
    ]


def test_records_of_knobs_have_every_student_that_is_tried():
    for path in knobs.RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
        recipe, *others = record["entries"]
        found = [(entry["group"], entry["option"], entry["value"]) for entry in others]
        younger = [x for x in knobs.tried() if x not in found]  # as the page of presets says
        assert [x for x in knobs.tried() if x not in younger] == found
        assert {option for _, option, _ in younger} <= {"preset"}
        said = (DOCS / "presets.md").read_text().partition("measured on")[2].partition("<!--")[0]
        assert all(f"`{value}`" in said for _, _, value in younger)
        for entry in (recipe, *others):
            assert len(entry["accuracy"]) == len(entry["firing_rate"]) == len(record["seeds"])


def test_every_knob_that_is_tried_is_explained():
    page = (DOCS / "tutorial.md").read_text()
    for _, option, _ in knobs.tried():
        assert f"`{option}`" in page.split("## The options")[1]
