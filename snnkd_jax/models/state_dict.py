"""The state dict of a network in a PyTorch file: found among what trainers store, in whatever dictionary and prefix.

A network is found by the name of its first block's first layer. What precedes that name, the keys of the dictionaries
around it and the prefix of the names in it, is the *entry* of the network in the file, such as `state_dict.model`; the
parts `module` and `_orig_mod` of data-parallel and compiled modules are left out wherever they are.

Of several networks, the one with no moving average is taken, if there is one such; the others need the choice of an
entry. So do floating-point tensors beside a network in the same state dict, since they may be part of it.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from snnkd_jax.errors import InputError
from snnkd_jax.models.torch_file import SAVE, Foreign, Tensor

_FIRST_LAYER = re.compile(r"(?:(.*)\.)?(?:layer1\.0\.conv1|features\.0|block1\.layer\.0\.conv1)\.weight")
"""The first convolutions of ResNet, VGG and WRN, after the prefix of a network."""

_WRAPPERS = ("module", "_orig_mod")
_AVERAGES = {"ema", "swa", "shadow", "averaged", "average", "avg", "polyak"}
_MAX_DEPTH = 6


@dataclasses.dataclass(frozen=True)
class StateDict:
    """The entries of one network in a file, by their names in the network, and what is beside it in its state dict."""

    entry: str
    tensors: Mapping[str, Tensor | Foreign]
    beside: tuple[str, ...]
    is_average: bool

    def __str__(self) -> str:
        return f"{self.entry or '.'!r}{' (a moving average)' if self.is_average else ''}"


def find_state_dict(content: Any, entry: str | None = None) -> tuple[StateDict, str]:
    """The state dict of the network in a file's content, and a line that says which was taken, or "".

    Raises `InputError` if there is no network, if `entry` is none of the networks', or if it takes an entry to choose.
    """
    found = list(_networks(content))
    if not found:
        raise InputError(_nothing(content))
    choose = f"choose one by teacher_entry: {', '.join(map(str, found))}"
    if entry is not None:
        name = _clean(entry).strip(".")
        chosen = [x for x in found if x.entry == name] or [x for x in found if x.entry.startswith(f"{name}.")]
        if len(chosen) != 1:
            raise InputError(
                f"teacher_entry={entry!r} is {'no network' if not chosen else 'several networks'}; {choose}"
            )
    else:
        plain = [x for x in found if not x.is_average]
        if len(chosen := plain or found) != 1:
            raise InputError(f"it has several networks; {choose}")
        if beside := chosen[0].beside:
            raise InputError(
                f"it has {some(beside)} beside the network {chosen[0]}; give teacher_entry={chosen[0].entry or '.'!r} "
                "if the network does without"
            )
    (taken,) = chosen
    others = [str(x) for x in found if x is not taken]
    notes = [f"the weights of its entry {taken} are taken"] if others or taken.entry else []
    notes += [f"it has {', '.join(others)} too (teacher_entry)"] if others else []
    notes += [f"{some(taken.beside)} beside it are left out"] if taken.beside else []
    return taken, "; ".join(notes)


def some(names: Any) -> str:
    """The first of some names, and how many more there are."""
    names = list(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _networks(content: Any) -> Iterator[StateDict]:
    for path, dictionary in _dictionaries(content, (), set()):
        tensors = _tensors(dictionary)
        matches = (_FIRST_LAYER.fullmatch(name) for name in tensors)
        prefixes = [f"{match[1]}." if match[1] else "" for match in matches if match is not None]
        beside = [name for name in tensors if not name.startswith(tuple(prefixes))] if prefixes else []
        beside = [name for name in beside if isinstance(x := tensors[name], Foreign) or x.is_floating]
        for prefix in prefixes:
            # One network in another, such as the student's copy of its teacher, is not a part of it.
            inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
            own = {
                n.removeprefix(prefix): x
                for n, x in tensors.items()
                if n.startswith(prefix) and not n.startswith(inner)
            }
            entry = ".".join([*path, *filter(None, [prefix.strip(".")])])
            parts = re.findall(r"[a-z]+|[A-Z]+(?![a-z])|[A-Z][a-z]+", entry)
            is_average = not _AVERAGES.isdisjoint(map(str.lower, parts)) or "n_averaged" in dictionary
            own.pop("n_averaged", None)
            yield StateDict(entry, own, tuple(beside), is_average)


def _dictionaries(value: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """All dictionaries in nested dictionaries and lists, each once, with the keys that lead to it."""
    if id(value) in seen or len(path) > _MAX_DEPTH:
        return
    seen.add(id(value))
    items = enumerate(value) if isinstance(value, list | tuple) else ()
    if isinstance(value, Mapping):
        yield tuple(key for key in path if key not in _WRAPPERS), value
        items = value.items()
    for key, inner in items:
        if isinstance(inner, Mapping | list | tuple):
            yield from _dictionaries(inner, (*path, str(key)), seen)


def _tensors(dictionary: Mapping) -> dict[str, Tensor | Foreign]:
    """The tensors of a dictionary by their names, and what PyTorch has in their place; not numbers, texts and dates."""
    found: dict[str, Tensor | Foreign] = {}
    for key, value in dictionary.items():
        if isinstance(key, str) and (isinstance(value, Tensor) or ("." in key and _is_of_torch(value))):
            if (name := _clean(key)) in found:
                raise InputError(f"it has the entry {name} twice, with and without {' or '.join(_WRAPPERS)}; {SAVE}")
            found[name] = value
    return found


def _is_of_torch(value: Any) -> bool:
    """Whether a value is an object of PyTorch that is no plain tensor, such as a quantised one."""
    return isinstance(value, Foreign) and type(value).__name__.startswith(("torch.", "safetensors."))


def _clean(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _nothing(content: Any) -> str:
    """What a file without a known network holds instead."""
    if isinstance(content, Foreign):
        return f"it holds an object of {type(content).__name__}, with its code elsewhere, and no state dict; {SAVE}"
    dictionaries = [dictionary for _, dictionary in _dictionaries(content, (), set())]
    names = max((list(_tensors(dictionary)) for dictionary in dictionaries), key=len, default=[])
    if names:
        return f"it holds no known network: the entries {some(names)} are of none"
    objects = [f"{key} ({type(x).__name__})" for d in dictionaries for key, x in d.items() if isinstance(x, Foreign)]
    keys = objects or [str(key) for dictionary in dictionaries for key in dictionary]
    return f"it holds no state dict{f', only {some(keys)}' if keys else ''}; {SAVE}"
