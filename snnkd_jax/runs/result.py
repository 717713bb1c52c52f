"""The result of a run, `result.json`."""

from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError
from snnkd_jax.files import read_sealed
from snnkd_jax.runs.roles import NETWORKS
from snnkd_jax.training.manifest import run_id

_ENTRIES = {"test_accuracy": "accuracy", "test_accuracy_by_step": "accuracy_by_step"}
_ENTRIES |= {name: name for name in ("firing_rate", "parameters")}
"""Entries of result.json to those of a network's own result."""


def result_of(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entries of result.json, each by role; None for a network that the run does not have."""
    return {
        entry: {role: results[role][name] if role in results else None for role in NETWORKS}
        for entry, name in _ENTRIES.items()
    }


def result_in(content: dict[str, Any], role: str) -> dict[str, Any]:
    """The result of one network from the content of result.json; empty if it has none."""
    found = {name: content.get(entry, {}).get(role) for entry, name in _ENTRIES.items()}
    return {} if found["accuracy"] is None else found


def read_result(directory: Path) -> dict[str, Any] | None:
    """The content of `result.json` of a run, None if it has not finished.

    Raises `InputError` if the file is damaged, or of another run.
    """
    path = directory / "result.json"
    if not path.is_file():
        return None
    content = read_sealed(path)
    if content.get("id") != run_id(directory):
        raise InputError(f"{path} is of another run than config.json beside it; copy the run again")
    return content
