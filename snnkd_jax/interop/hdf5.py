"""Groups of HDF5 files of others as nested dictionaries.

A file may claim arrays that would fill the memory, groups that hold themselves, or other files; none is read.
"""

from typing import Any

import h5py

from snnkd_jax.errors import InputError

_RATIO = 1100
"""Bytes that deflate restores from one, at most (1032 and a margin)."""


def read_tree(group: Any) -> dict[str, Any]:
    """Groups as dictionaries, data sets as arrays, scalars or str; `InputError` names what the file cannot hold."""
    return _tree(group, set())


def _tree(group: Any, seen: set[Any]) -> dict[str, Any]:
    if group.id in seen:
        raise InputError(f"{group.name} is a group under two names; write the file again")
    seen.add(group.id)
    tree: dict[str, Any] = {}
    for name in group:
        item = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
        if isinstance(item, h5py.Group):
            tree[name] = _tree(item, seen)
        elif isinstance(item, h5py.Dataset) and not (item.external or item.is_virtual):
            stored = item.id.get_storage_size()
            if item.nbytes > _RATIO * (stored + 1024):
                raise InputError(
                    f"{item.name} claims {item.nbytes} bytes, and {stored} are stored; write the file again"
                )
            value = item[()]
            tree[name] = value.decode() if isinstance(value, bytes) else value
        else:
            raise InputError(
                f"{group.name}/{name} refers to something else than an array of this file; write it inside"
            )
    return tree
