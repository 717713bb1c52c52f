"""HTML elements with escaped text, and a document that fetches nothing and runs no script.

It is laid out for phones and screens, light and dark mode; figures take their colours from its CSS.
"""

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

NETWORK_COLOURS = {role: f"var(--{role.replace('_', '-')})" for role in ("teacher", "student_baseline", "student")}
"""CSS colours of a run's networks, with enough contrast in light and dark mode."""


class Html(str):
    """Markup; values of other types are escaped when they enter an element."""


def element(tag: str, *content: Any, **attributes: Any) -> Html:
    """`<tag ...>content</tag>`; an attribute `aria_label` is written `aria-label`, `class_` `class`, None nothing."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(part if isinstance(part, Html) else html.escape(str(part), quote=False) for part in content)
    return Html(f"<{tag}{given}>{inside}" + ("" if tag in ("meta", "img") else f"</{tag}>"))


def join(parts: Iterable[Html]) -> Html:
    """The elements one after the other."""
    return Html("\n".join(parts))


def note(*content: Any) -> Html:
    """A note in the place of missing content."""
    return element("p", *content, class_="absent")


def table(caption: str, heading: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Html:
    """A scrollable table with row headers in its first column; an `Html` value is a whole cell."""
    cells = [list(row) for row in rows]
    classes = [_class(*column) for column in zip(*cells, strict=True)] or [None] * len(heading)
    columns = zip(heading, [None, *classes[1:]], strict=True)
    head = element("tr", *(element("th", title, scope="col", class_=class_) for title, class_ in columns))
    body = join(element("tr", element("th", first, scope="row"), *map(_cell, others)) for first, *others in cells)
    inside = element("table", element("caption", caption), element("thead", head), element("tbody", body))
    return element("div", inside, class_="scroll", role="region", aria_label=caption, tabindex="0")


def _cell(value: Any) -> Html:
    return value if isinstance(value, Html) else element("td", value, class_=_class(value))


_NUMBER = re.compile(r"[+-]?[\d.,]+( ?%)?( ± [\d.,]+)?|–|-|nan|inf")


def _class(*cells: Any) -> str | None:
    return "number" if all(_NUMBER.fullmatch(str(cell)) for cell in cells) else None


def as_text(value: Any) -> str:
    """A string, or another JSON value as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def details(summary: str, *content: Any) -> Html:
    """Content that is collapsed until the reader opens it."""
    return element("details", element("summary", summary), *content)


def figure(drawing: Html, caption: str, *numbers: Any) -> Html:
    """A drawing with its caption and its numbers."""
    return element("figure", drawing, element("figcaption", caption), *numbers)


def figures(*content: Html) -> Html:
    """A grid of figures, with as many columns as fit."""
    return element("div", *content, class_="figures")


def document(title: str, introduction: Html, sections: dict[str, tuple[str, Html]]) -> str:
    """The whole page; `sections` map an anchor to a title and content."""
    links = (element("li", element("a", heading, href=f"#{name}")) for name, (heading, _) in sections.items())
    content = (
        element("section", element("h2", heading, id=f"{n}-title"), section, id=n, aria_labelledby=f"{n}-title")
        for n, (heading, section) in sections.items()
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        # Whatever the values in the page are, the browser fetches and executes nothing.
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Html(_STYLE)),
    ]
    body = [
        element("header", element("h1", title), introduction),
        element("nav", element("ul", *links), aria_label="Sections"),
        element("main", *content),
    ]
    html = element("html", element("head", *head), "\n", element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{html}\n"


_STYLE = """
:root { --ink: #1c1e21; --paper: #ffffff; --faint: #5c626a; --line: #d5d9de; --shade: #f3f5f7; --accent: #1f6fb2;
  --teacher: #777777; --student-baseline: #c26a14; --student: #1f6fb2; --lightness: 0.55; --heat: 31 111 178; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --paper: #15181b; --faint: #a3abb3; --line: #3a4047;
  --shade: #1f2428; --accent: #74b6ee; --teacher: #a9a9a9; --student-baseline: #eda55a; --student: #64aeee;
  --lightness: 0.75; --heat: 48 120 186; } }
* { box-sizing: border-box; }
html { color: var(--ink); background: var(--paper); font: 100%/1.5 system-ui, sans-serif; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; border-bottom: 1px solid var(--line); }
a { color: var(--accent); }
p, figcaption { max-width: 46rem; }
p.absent { color: var(--faint); font-style: italic; }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; margin: 1rem 0 0; padding: 0; list-style: none; }
nav a { display: inline-block; padding: 0.25rem 0; }
code { font: 0.875em/1.4 ui-monospace, monospace; background: var(--shade); padding: 0.1em 0.3em; border-radius: 3px; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem 2rem; }
.beside { display: flex; flex-wrap: wrap; gap: 0 3rem; }
.beside > div { max-width: 100%; }
.beside > div:last-child { flex: 1; min-width: min(100%, 21rem); max-width: 28rem; }
figure { margin: 0.5rem 0; min-width: 0; max-width: 34rem; }
figure svg { display: block; width: 100%; height: auto; fill: currentColor; }
figure img { display: block; width: 9rem; image-rendering: pixelated; border: 1px solid var(--line); }
svg * { stroke-linejoin: round; }
figcaption { color: var(--faint); font-size: 0.875rem; margin-top: 0.25rem; }
.scroll { overflow-x: auto; max-width: 100%; margin: 0.75rem 0; overflow-wrap: normal; }
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: 0.25rem; }
th, td { text-align: left; padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); white-space: nowrap; }
tbody th { font-weight: 500; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.heat { text-align: right; background: rgb(var(--heat) / var(--share)); }
td.hot { color: #ffffff; }
@media (max-width: 40rem) { th, td { padding: 0.25rem 0.35rem; } thead th, th.number { white-space: normal; } }
details { margin: 0.5rem 0; }
summary { cursor: pointer; color: var(--accent); padding: 0.25rem 0; font-size: 0.875rem; }
"""
