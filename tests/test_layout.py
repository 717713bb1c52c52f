"""The layout: imports go downwards, from a floor to those below it, and never in a circle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "snnkd_jax"

FLOORS = (
    ("errors", "files", "digest", "versions", "lock"),
    ("dynamics", "parallel"),
    ("data", "models"),
    ("distill",),
    ("training",),
    ("inference", "runs"),
    ("analysis", "interop", "planning"),
    ("report",),
    ("fitting",),
    ("experiment",),
    ("cli",),
)
"""From the ground up: a file may import what is in its own folder and what stands on lower floors."""

# A run's directory names what it holds; what trains and loads networks reads and writes it.
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def imports(text: str) -> set[str]:
    """The modules of the package that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("snnkd_jax.") for name in found if name.startswith("snnkd_jax.")}


def sources() -> dict[str, str]:
    """Module, dotted and without the package's name, to source; the package's own `__init__` is its public surface."""
    paths = {path: path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")}
    named = {".".join(p.parts).removesuffix(".__init__"): path.read_text() for path, p in paths.items()}
    return {name: text for name, text in named.items() if name != "__init__"}


def upward(modules: dict[str, str]) -> list[str]:
    """Imports of a higher floor, or of another folder on the same floor that imports back."""
    rooms: dict[str, set[str]] = {}
    found = []
    for name, text in modules.items():
        room = name.split(".")[0]
        for target in imports(text):
            other = target.split(".")[0]
            if other != room:
                rooms.setdefault(room, set()).add(other)
            if LEVEL[other] > LEVEL[room]:
                found.append(f"{name} -> {target}")
    found += [f"{a} <-> {b}" for a, targets in rooms.items() for b in targets if a in rooms.get(b, set())]
    return found


def circles(modules: dict[str, str]) -> list[str]:
    """Modules that import themselves through others."""
    graph = {name: {resolve(target, modules) for target in imports(text)} - {name} for name, text in modules.items()}
    found, done = [], set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*path, name))
            done.add(name)

    for name in modules:
        visit(name, ())
    return found


def resolve(target: str, modules: dict[str, str]) -> str:
    """The module that an imported name is, or is of."""
    return target if target in modules else target.rpartition(".")[0]


def test_every_folder_and_file_at_the_top_has_a_floor():
    tops = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert tops - {"__init__"} == set(LEVEL)
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_imports_go_downwards():
    assert upward(sources()) == []


def test_imports_make_no_circle():
    assert circles(sources()) == []


@pytest.mark.slow
def test_an_upward_or_a_circular_import_is_found():
    """The checks above can fail: one line in a low file, and one between two folders on one floor."""
    modules = sources()
    low = modules | {"dynamics.neurons": modules["dynamics.neurons"] + "\nfrom snnkd_jax.training import optim\n"}
    assert "dynamics.neurons -> training.optim" in upward(low)
    late = "\n\ndef f():\n    from snnkd_jax.cli import train\n"
    assert "report.page -> cli.train" in upward(modules | {"report.page": modules["report.page"] + late})
    circle = modules | {
        "data.pixels": "from snnkd_jax.data.batches import x",
        "data.batches": "import snnkd_jax.data.pixels",
    }
    assert circles(circle)
