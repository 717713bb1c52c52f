"""The documentation: the tutorial runs, pages say what source and records say, and no equation is missing."""

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
import make_tables
import pytest
from compilation import QUICKLY
from records.docstrings import is_block, paragraphs
from records.fidelity import ROWS
from records.knobs import knob_table, loss_section

import snnkd_jax
from snnkd_jax.errors import InputError
from snnkd_jax.models import MODELS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.slow
def test_tutorial_runs_in_order(tmp_path):
    """All of its code as one program, on the lines of the page; in a process of its own, which compiles quickly."""
    lines, inside = [], False
    for line in (DOCS / "tutorial.md").read_text().splitlines():
        inside = line == "```python" or (inside and line != "```")
        lines.append(line if inside and not line.startswith("```") else "")
    program = tmp_path / "tutorial.py"
    program.write_text("\n".join(lines) + "\n")
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICKLY,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "error::UserWarning", program.name]
    ran = subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert (tmp_path / "runs" / "tutorial" / "result.json").is_file()


@pytest.mark.parametrize("name", ["tutorial.md", "fidelity.md"])
def test_pages_show_the_records(name):
    page = (DOCS / name).read_text()
    assert page == make_tables.written(page, make_tables.PAGES[DOCS / name])


def test_links_of_the_pages_lead_to_files():
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (DOCS / link).exists(), f"{page.name}: {link}"


# Of `dynamics.neurons` and the like, what is no equation; elsewhere, indented blocks that are none, or whose
# results are whole numbers or bounds, which their tests compare by hand and which have no error to tell.
NO_EQUATION = {
    *(f"dynamics.neurons.{name}" for name in ("describe_neuron", "neuron_from")),
    *(f"dynamics.integration.{name}" for name in ("check_neuron", "initial_state")),
    *(f"distill.losses.check_{name}" for name in ("in_range", "same_shape", "temperature")),
    "data.archives",  # file formats
    *("inference.trained", "fitting"),  # code
    "data.crops.random_box",  # pixels, in test_crops.py
    "planning.pod",  # bounds, in test_pod.py
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
    recorded = set()
    for path in fidelity.RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
        for row in record["rows"].values():
            assert 0 <= row["error"] <= row["tolerance"]
        recorded |= record["rows"].keys()
        if path.stem == "cpu":  # made since the last model came, each counted as teacher and as student
            assert record["rows"]["numbers of parameters"]["comparisons"] == 2 * len(MODELS)
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


def test_losses_are_compared_with_none_the_best_first():
    """Gains of 1, 2 and 3 points for the recipe, of 3, 3 and 3 for the other."""
    none, recipe, other = [0.90, 0.94, 0.95], [0.91, 0.96, 0.98], [0.93, 0.97, 0.98]
    losses = [
        {"group": "loss", "recipe": "temporal", "value": v, "accuracy": a} for v, a in (("none", none), ("dist", other))
    ]
    entries = [e | {"firing_rate": [0.2, 0.2, 0.2]} for e in ({"accuracy": recipe}, *losses)]
    (path,) = (ROOT / "experiments/results/knobs").glob("*.json")
    rows = loss_section([json.loads(path.read_text()) | {"entries": entries}]).splitlines()
    assert rows[2:5] == [
        "| `dist` | 96.00 ± 2.65 | +3.00 ± 0.00 | 0.200 ± 0.000 |",
        "| `temporal` | 95.00 ± 3.61 | +2.00 ± 0.58 | 0.200 ± 0.000 |",
        "| `none` | 93.00 ± 2.65 | – | 0.200 ± 0.000 |",
    ]


def test_records_of_knobs_have_every_student_that_is_tried():
    for path in knobs.RESULTS.glob("*.json"):
        record = json.loads(path.read_text())
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
        recipe, *others = record["entries"]
        assert [(entry["group"], entry["option"], entry["value"]) for entry in others] == knobs.tried()
        for entry in (recipe, *others):
            assert len(entry["accuracy"]) == len(entry["firing_rate"]) == len(record["seeds"])


def test_every_knob_that_is_tried_is_explained():
    page = (DOCS / "tutorial.md").read_text()
    for _, option, _ in knobs.tried():
        assert f"`{option}`" in page.split("## The knobs")[1]
