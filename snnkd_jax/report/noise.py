"""Accuracy under noise over several seeds: statistics by `over_seeds`, tables and a summary in words."""

import statistics
from typing import Any

from snnkd_jax.analysis.robustness import GROUPS
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import gain, over_seeds, percent, points
from snnkd_jax.runs.roles import NETWORKS


def summarise(by_role: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Statistics over runs, given what `evaluate_noise` returns by role and run; a shared teacher has one entry.

    Returns `networks`, by role the entries `clean`, `kinds` and `mean` with each number replaced by `over_seeds`, and
    `comparison` of the students with and without KD, or None: `kinds` that both have, `better`, those with a higher
    mean accuracy with KD, `gain`, the mean difference over `kinds`, and `clean_gain`, the difference without noise.
    """
    comparison = None
    if "student" in by_role and "student_baseline" in by_role:
        comparison = _comparison(by_role["student"], by_role["student_baseline"])
    networks = {
        role: {name: _merged([run[name] for run in runs]) for name in ("clean", "kinds", "mean")}
        for role, runs in by_role.items()
    }
    return {"networks": networks, "comparison": comparison}


def _merged(values: list[Any]) -> Any:
    """`over_seeds` of each number in nested dictionaries and lists of one structure; None stays None."""
    first = values[0]
    if isinstance(first, dict):
        return {name: _merged([value[name] for value in values]) for name in first}
    if isinstance(first, list):
        return [_merged(list(numbers)) for numbers in zip(*values, strict=True)]
    return None if first is None else over_seeds(values)


def _comparison(students: list[dict[str, Any]], baselines: list[dict[str, Any]]) -> dict[str, Any]:
    kinds = [kind for kind in students[0]["kinds"] if students[0]["kinds"][kind] and baselines[0]["kinds"].get(kind)]
    pairs = list(zip(students, baselines, strict=True))
    gains = {kind: [s["kinds"][kind]["mean"] - b["kinds"][kind]["mean"] for s, b in pairs] for kind in kinds}
    return {
        "kinds": kinds,
        "better": [kind for kind, values in gains.items() if statistics.fmean(values) > 0],
        "gain": over_seeds(statistics.fmean(values) for values in zip(*gains.values(), strict=True)),
        "clean_gain": over_seeds(s["clean"] - b["clean"] for s, b in pairs),
    }


def noise_rows(record: dict[str, Any]) -> list[list[str]]:
    """A heading and rows: without noise, each kind, and means over kinds, with a column for each network.

    Accuracies are mean ± sample standard deviation over runs, the gains in the last column mean ± standard error.
    """
    networks = record["networks"]
    rows: dict[str, list[dict[str, Any] | None]] = {"none": [network["clean"] for network in networks.values()]}
    for kind in next(iter(networks.values()))["kinds"]:
        rows[kind.replace("_", " ")] = [(network["kinds"][kind] or {}).get("mean") for network in networks.values()]
    for group, title in _GROUP_TITLES.items():
        means = [network["mean"][group] for network in networks.values()]
        if any(means):
            rows[title] = means
    compared = record["comparison"] is not None
    heading = ["noise", *(NETWORKS[role] for role in networks), *(["gain by KD"] if compared else [])]
    cells = [heading]
    for title, entries in rows.items():
        cells.append([title, *("–" if entry is None else percent(entry["values"]) for entry in entries)])
        if compared:
            by_role = dict(zip(networks, entries, strict=True))
            student, baseline = by_role["student"], by_role["student_baseline"]
            cells[-1].append(gain(student["values"], baseline["values"]) if student and baseline else "–")
    return cells


def noise_table(record: dict[str, Any]) -> str:
    """`noise_rows` as a Markdown table."""
    heading, *rows = noise_rows(record)
    means = _GROUP_TITLES.values()
    return markdown_table(heading, ([f"**{title}**" if title in means else title, *cells] for title, *cells in rows))


_GROUP_TITLES = {
    "image": f"mean of the {len(GROUPS['image'])} on images",
    "layer": f"mean of the {len(GROUPS['layer'])} between layers",
    "all": f"mean of all {len(GROUPS['all'])}",
}


def in_words(record: dict[str, Any]) -> str:
    """In how many kinds KD makes the student more accurate, and by how much; empty without both students."""
    found = record["comparison"]
    if found is None:
        return ""
    noisy, clean = (points(found[name]["values"]) for name in ("gain", "clean_gain"))
    return (
        f"With KD the student is better in {len(found['better'])} of {len(found['kinds'])} kinds. Averaged over all of "
        f"them it gains {noisy} points, without noise {clean}."
    )
