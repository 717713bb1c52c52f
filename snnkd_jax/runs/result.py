"""The result of a run: what `result.json` says of its networks."""

from typing import Any

from snnkd_jax.runs.roles import NETWORKS

_ENTRIES = {
    "test_accuracy": "accuracy",
    "test_accuracy_by_step": "accuracy_by_step",
    "firing_rate": "firing_rate",
    "parameters": "parameters",
}
"""Entry of result.json to that of a network's own result."""


def result_of(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Entries by network; those that were not asked for are all None."""
    return {
        entry: {role: results[role][name] if role in results else None for role in NETWORKS}
        for entry, name in _ENTRIES.items()
    }


def result_in(content: dict[str, Any], role: str) -> dict[str, Any]:
    """A network's own result in what result.json holds; empty if it has none."""
    found = {name: content.get(entry, {}).get(role) for entry, name in _ENTRIES.items()}
    return {} if found["accuracy"] is None else found
