"""HTML: elements whose text is escaped, and a page that needs no network and runs no script.

The page reads well on a phone and on a screen, in light and in dark; its figures take their colours from it.
"""

import html
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

NETWORK_COLOURS = {role: f"var(--{role.replace('_', '-')})" for role in ("teacher", "student_baseline", "student")}
"""CSS colours of a run's networks, readable on both backgrounds."""


class Html(str):
    """Markup; any other value becomes text when it enters an element."""


def element(tag: str, *content: Any, **attributes: Any) -> Html:
    """`<tag ...>content</tag>`; an attribute `aria_label` is written `aria-label`, `class_` is `class`, None none."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(part if isinstance(part, Html) else html.escape(str(part), quote=False) for part in content)
    return Html(f"<{tag}{given}>{inside}" + ("" if tag in ("meta", "img") else f"</{tag}>"))


def join(parts: Iterable[Html]) -> Html:
    """One after the other."""
    return Html("\n".join(parts))


def paragraph(*content: Any) -> Html:
    """A paragraph of text."""
    return element("p", *content)


def absent(*content: Any) -> Html:
    """Says why something is not there."""
    return element("p", *content, class_="absent")


def table(caption: str, heading: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Html:
    """A table whose first column names the rows; it scrolls by itself where it is wider than the page."""
    cells = [list(row) for row in rows]
    classes = [_class(*column) for column in zip(*cells, strict=True)] or [None] * len(heading)
    columns = zip(heading, [None, *classes[1:]], strict=True)
    head = element("tr", *(element("th", title, scope="col", class_=class_) for title, class_ in columns))
    body = join(
        element("tr", element("th", first, scope="row"), *(element("td", cell, class_=_class(cell)) for cell in others))
        for first, *others in cells
    )
    inside = element("table", element("caption", caption), element("thead", head), element("tbody", body))
    return scrolling(caption, inside)


def scrolling(label: str, content: Html) -> Html:
    """What may be wider than the page, in a frame of its own that the keyboard reaches."""
    return element("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


_NUMBER = re.compile(r"[+-]?[\d.,]+( ?%)?( ± [\d.,]+)?|–|-|nan|inf")


def _class(*cells: Any) -> str | None:
    return "number" if all(_NUMBER.fullmatch(str(cell)) for cell in cells) else None


def shown(value: Any) -> str:
    """An option or another value of a JSON file as text."""
    return value if isinstance(value, str) else json.dumps(value)


def percent(share: float) -> str:
    """A share of 1 in %."""
    return f"{100 * share:.2f} %"


def details(summary: str, *content: Any) -> Html:
    """What is shown when it is asked for."""
    return element("details", element("summary", summary), *content)


def figure(drawing: Html, caption: str, *numbers: Any) -> Html:
    """A drawing, what it shows in words, and its numbers."""
    return element("figure", drawing, element("figcaption", caption), *numbers)


def figures(*found: Html) -> Html:
    """Figures side by side, as many as there is room for."""
    return element("div", *found, class_="figures")


def beside(*parts: Html) -> Html:
    """Parts of their own width side by side, where there is room."""
    return element("div", *(element("div", part) for part in parts), class_="beside")


def page(title: str, introduction: Html, sections: dict[str, tuple[str, Html]]) -> str:
    """A whole document; `sections` are anchor to title and content."""
    links, found = [], []
    for name, (heading, content) in sections.items():
        links.append(element("li", element("a", heading, href=f"#{name}")))
        h2 = element("h2", heading, id=f"{name}-title")
        found.append(element("section", h2, content, id=name, aria_labelledby=f"{name}-title"))
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        # Nothing is fetched and nothing runs, whatever the values in the page are.
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Html(_STYLE)),
    ]
    body = [
        element("header", element("h1", title), introduction),
        element("nav", element("ul", *links), aria_label="Sections"),
        element("main", *found),
    ]
    document = element("html", element("head", *head), "\n", element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

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
