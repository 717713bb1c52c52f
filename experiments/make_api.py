"""Write `docs/api.md` from the source: every public module, class and function with its docstring.

    python experiments/make_api.py

The groups are those of the README's table "How the code is laid out". Signatures are the lines of the source, so that
the page is the same whatever Python writes it, and nothing is imported.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from docstrings import markdown, paragraphs

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
INTRODUCTION = """# API

Written by `experiments/make_api.py` from the docstrings: every public module, class and function of `snnkd_jax`.
Arrays are batch-major, `[B, T, ...]`; B is the batch, T the time steps, K the classes, and H, W, C a map's height,
width and channels. Bad input raises `snnkd_jax.errors.InputError`, which names the argument, its value and what to do.
"""

Definition = ast.FunctionDef | ast.ClassDef


def page() -> str:
    """The whole page: contents, then the modules group by group."""
    parts, contents = [], []
    for title, paths in groups():
        contents += ["", f"**{title}**", "", *(f"- [`{name(path)}`](#{anchor(name(path))})" for path in paths)]
        parts += [f"## {title}\n", *(module(path) for path in paths)]
    return "\n".join([INTRODUCTION, *contents[1:], "", *parts])


def groups() -> Iterator[tuple[str, list[Path]]]:
    """What the README calls each group of files, and the files; those that it does not name come last."""
    table = (ROOT / "README.md").read_text().split("## How the code is laid out")[1]
    everything = sorted(path for path in (ROOT / "snnkd_jax").rglob("*.py") if is_public(path))
    left = set(everything)
    for files, title in re.findall(r"^\| (\[.*?) \| (.*?) \|$", table, re.MULTILINE):
        found: list[Path] = []
        for file in re.findall(r"`([\w*/]+(?:\.py)?)`", files):
            pattern = f"snnkd_jax/{file}*.py" if file.endswith("/") else f"snnkd_jax/{file}"
            found += [path for path in everything if path in left and path.match(pattern)]
            left -= set(found)
        if found:
            title = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title).split(":")[0]
            yield title[0].upper() + title[1:], found
    yield "The rest", [path for path in everything if path in left]


def is_public(path: Path) -> bool:
    """Whether a module has more than its docstring."""
    return len(ast.parse(path.read_text()).body) > 1


def name(path: Path) -> str:
    """The module's name."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def anchor(heading: str) -> str:
    """What code hosts make of a heading."""
    return re.sub(r"[^\w-]", "", heading.lower())


def module(path: Path) -> str:
    """A module's section."""
    source = path.read_text()
    tree = ast.parse(source)
    link = f"[source](../../{path.relative_to(ROOT)})"
    parts = [f"### {name(path)}\n", documented(tree), f"\n{link}\n"]
    for node in public(tree):
        parts += [f"#### `{node.name}`\n", code(source, node), "", documented(node), ""]
        for method in public(node) if isinstance(node, ast.ClassDef) else ():
            parts += [code(source, method), "", documented(method), ""]
    return "\n".join(parts)


def public(node: ast.AST) -> Iterator[Definition]:
    """Functions and classes with a docstring whose name has no underscore in front, but for `__call__`."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, Definition) or ast.get_docstring(child) is None:
            continue
        if child.name == "__call__" or not child.name.startswith("_"):
            yield child


def code(source: str, node: Definition) -> str:
    """The lines of a definition up to its body; of a class, its fields as well."""
    lines = source.splitlines()
    first = min(line.lineno for line in (node, *node.decorator_list)) - 1
    docstring = node.body[0]
    shown = lines[first : docstring.lineno - 1]
    fields = [child for child in node.body[1:] if isinstance(child, ast.AnnAssign)]
    if isinstance(node, ast.ClassDef) and fields:
        end = next((child for child in node.body if isinstance(child, ast.FunctionDef)), None)
        last = fields[-1].end_lineno if end is None else end.lineno - 1 - len(end.decorator_list)
        shown += lines[fields[0].lineno - 1 : last]
    return "\n".join(["```python", textwrap.dedent("\n".join(shown)).rstrip(), "```"])


def documented(node: ast.AST) -> str:
    """The docstring as Markdown."""
    docstring = ast.get_docstring(node)  # pyright: ignore[reportArgumentType]
    return "\n\n".join(markdown(lines) for lines in paragraphs(docstring or ""))


if __name__ == "__main__":
    PAGE.write_text(page())
