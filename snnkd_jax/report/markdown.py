"""Tables in Markdown, for the pages of results."""

from collections.abc import Iterable


def markdown_table(heading: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table in Markdown with its last newline; cells are written by `str`."""
    heading = list(heading)
    return "".join(_row(cells) for cells in (heading, ["---"] * len(heading), *rows))


def _row(cells: Iterable[object]) -> str:
    return "".join(["|", *(f" {cell}".rstrip() + " |" for cell in cells), "\n"])
