"""Docstrings as Markdown, for the generated pages."""

import re

_SECTION = re.compile(r"(Args|Returns|Raises):$")


def paragraphs(docstring: str) -> list[list[str]]:
    """The lines of each paragraph."""
    return [part.splitlines() for part in re.split(r"\n\s*\n", docstring.strip("\n"))]


def is_block(lines: list[str]) -> bool:
    """Whether a paragraph is indented: equations, or an example."""
    return all(line.startswith("    ") for line in lines)


def is_table(lines: list[str]) -> bool:
    """Whether a paragraph is a table of Markdown."""
    return lines[0].startswith("|")


def markdown(lines: list[str]) -> str:
    """One paragraph: what is laid out in columns is fenced, a section becomes a list, and the rest stays as it is."""
    if is_table(lines):
        return "\n".join(lines).replace("||", r"\|\|")
    if is_block(lines) or any(re.search(r"\S {3,}\S", line) for line in lines):
        indent = min(len(line) - len(line.lstrip()) for line in lines)
        return "\n".join(["```text", *(line[indent:] for line in lines), "```"])
    if not _SECTION.match(lines[0]):
        return "\n".join(lines)
    if lines[0] == "Returns:":
        return "\n".join(["*Returns*: " + lines[1].strip(), *(line.strip() for line in lines[2:])])
    items = [re.sub(r"^    (\w[\w, ]*): ", r"- `\1`: ", line) for line in lines[1:]]
    return "\n".join([f"*{lines[0][:-1]}*", "", *(item.replace("        ", "  ", 1) for item in items)])
