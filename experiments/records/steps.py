"""The page on accuracy against the number of time steps, from `experiments/results/steps/`.

Records are written by `snnkd steps` (students) and `snnkd convert` (converted networks).
"""

from typing import Any

from records.trainings import folded
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import mean_and_std, percent

SHOWN = (1, 2, 4, 8, 16, 32, 64)


def steps_section(records: list[dict[str, Any]]) -> str:
    """For each data set a table of accuracy by T, one of early exit, and the commands."""
    if not records:
        return ""
    parts = ["![Test accuracy against the number of time steps, one line per method.](figures/steps.svg)\n"]
    for dataset in dict.fromkeys(record["dataset"] for record in records):
        of_data = [record for record in records if record["dataset"] == dataset]
        parts += [f"## {dataset}\n", _accuracies(dataset, of_data), _exits(of_data), _commands(of_data)]
    return "\n".join(part for part in parts if part)


def _accuracies(dataset: str, records: list[dict[str, Any]]) -> str:
    longest = max(len(entry["accuracy"][0]) for record in records for entry in record["entries"])
    shown = [t for t in SHOWN if t <= longest]
    rows = []
    for record in records:
        for entry in record["entries"]:
            cells = [
                percent([by_step[t - 1] for by_step in entry["accuracy"]]) if t <= len(entry["accuracy"][0]) else "–"
                for t in shown
            ]
            ann = percent(entry["ordinary"]) if "ordinary" in entry else "–"
            rows.append((f"{entry['method']}, {entry['network']}", len(record["seeds"]), *cells, ann))
    return markdown_table((dataset, "seeds", *(f"T = {t}" for t in shown), "ANN"), rows)


def _exits(records: list[dict[str, Any]]) -> str:
    """Accuracy at the mean number of steps of each tolerance."""
    entries = [entry for record in records for entry in record["entries"] if entry.get("exits")]
    if not entries:
        return ""
    tolerances = [exit["tolerance"] for exit in entries[0]["exits"][0]]
    rows = []
    for entry in entries:
        cells = [
            " at ".join(mean_and_std([f * e[k] for e in exits], 2) for k, f in (("accuracy", 100), ("mean_steps", 1)))
            for exits in zip(*entry["exits"], strict=True)
        ]
        rows.append((f"{entry['method']}, {entry['network']}", *cells))
    terms = (
        "Columns: the loss of accuracy against the T of training, on the validation split, that the confidence "
        "threshold was chosen for. Where all seeds share one teacher, it was trained on images of the other seeds' "
        "validation splits.\n"
    )
    heading = ("early exit, accuracy at mean steps", *(_points(100 * t) for t in tolerances))
    return f"{markdown_table(heading, rows)}\n{terms}"


def _points(number: float) -> str:
    return f"{number:g} point{'' if number == 1 else 's'}"


def _commands(records: list[dict[str, Any]]) -> str:
    lines = [
        f"- [{r['name']}](../experiments/results/steps/{r['name']}.json): `{r['command']}` with the runs of "
        f"`{r['run_command']}`, seeds {', '.join(map(str, r['seeds']))}, jax {r['versions']['jax']}. "
        f"{r['notes']}".rstrip()
        for r in records
    ]
    return folded(lines)
