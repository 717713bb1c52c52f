"""Names of classes: one per class, in the order of the labels, from a sequence or a text file."""

import codecs
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError
from snnkd_jax.files import similar

_UTF16 = codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE


def check_class_names(argument: str, names: Iterable[Any]) -> tuple[str, ...]:
    """The names without a byte order mark and without space around them; raises `InputError` for no or equal names."""
    as_text = (name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)
    found = tuple(name.removeprefix("\ufeff").strip() for name in as_text)
    if "" in found:
        raise InputError(f"{argument}: the name of class {found.index('')} is empty; give one name per class")
    name, times = Counter(found).most_common(1)[0] if found else ("", 0)
    if times > 1:
        first = found.index(name)
        rows = f"{first} and {found.index(name, first + 1)}"
        raise InputError(f"{argument}: classes {rows} are both named {name!r}; give each a name of its own")
    return found


def read_class_names(argument: str, path: Path) -> tuple[str, ...]:
    """The lines of a text file as `check_class_names` takes them; raises `InputError` if it cannot be read."""
    try:
        lines = text_lines(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = str(error) if path.exists() else f"{error}{similar(path)}"
        advice = "give a text file with a name per line, in UTF-8"
        raise InputError(f"{argument} {path} cannot be read ({reason}); {advice}") from error
    return check_class_names(f"{argument} {path}", lines)


def text_lines(content: bytes) -> list[str]:
    """The lines of a text in UTF-8 or, as Windows writes it, UTF-16; without empty ones at the end."""
    return content.decode("utf-16" if content.startswith(_UTF16) else "utf-8-sig").rstrip().splitlines()
