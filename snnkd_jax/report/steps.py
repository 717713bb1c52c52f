"""Accuracy by time steps as text for the terminal, mean ± standard deviation over runs."""

from typing import Any

from snnkd_jax.report.statistics import mean_and_std, percent

SHOWN = (1, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256)


def step_lines(entry: dict[str, Any]) -> str:
    """Accuracy of an entry of a record at some T, and with early exit at each tolerance."""
    lines = [f"{entry['method']}, {entry['network']}"]
    for t in SHOWN:
        if t <= len(entry["accuracy"][0]):
            lines.append(f"  T = {t:<3} {percent([by_step[t - 1] for by_step in entry['accuracy']])} %")
    for exits in zip(*entry.get("exits", []), strict=True):
        steps, accuracy = (
            mean_and_std([e[k] * f for e in exits], 2) for k, f in (("mean_steps", 1), ("accuracy", 100))
        )
        lines.append(f"  early exit, {100 * exits[0]['tolerance']:g} points: {steps} steps, {accuracy} %")
    return "\n".join(lines)
