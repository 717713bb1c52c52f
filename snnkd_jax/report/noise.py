"""Accuracy under noise over several seeds: summed up, in a table and in words.

Every quantity is `{"values", "mean", "std"}`, values in the order of the seeds, std the sample standard deviation, None
for one seed.
"""

import statistics
from typing import Any

from snnkd_jax.analysis.robustness import GROUPS
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import gain, over_seeds, percent, points
from snnkd_jax.runs.roles import NETWORKS

Report = dict[str, Any]


def summarise(reports: dict[str, list[Report]]) -> dict[str, Any]:
    """What a record has of its networks, given role to the report of each run; a teacher that all runs share has one.

    Returns:
        `networks`: role to `clean`, to `kinds` (each with `accuracy` by level, `mean` and `drop`, or None) and to
        `mean`, by group of kinds. `comparison` of the student with that without KD, None if one of them is missing:
        `kinds`, those that both have, `better`, those in which the mean over levels, averaged over runs, is higher with
        KD, `gain`, the difference averaged over these kinds, and `clean_gain`, that without noise, both in accuracy.
    """
    comparison = None
    if "student" in reports and "student_baseline" in reports:
        comparison = _comparison(reports["student"], reports["student_baseline"])
    return {"networks": {role: _network(runs) for role, runs in reports.items()}, "comparison": comparison}


def _network(runs: list[Report]) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for kind, entry in runs[0]["kinds"].items():
        found = [run["kinds"][kind] for run in runs]
        kinds[kind] = entry and {
            "accuracy": [over_seeds(values) for values in zip(*(e["accuracy"] for e in found), strict=True)],
            "mean": over_seeds(e["mean"] for e in found),
            "drop": over_seeds(e["drop"] for e in found),
        }
    means = {
        group: None if mean is None else over_seeds(run["mean"][group] for run in runs)
        for group, mean in runs[0]["mean"].items()
    }
    return {"clean": over_seeds(run["clean"] for run in runs), "kinds": kinds, "mean": means}


def _comparison(students: list[Report], baselines: list[Report]) -> dict[str, Any]:
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
    """A heading, then a row without noise, one for each kind, and means over kinds; a column for each network.

    Accuracies are mean ± sample standard deviation over runs, gains, the last column, mean ± standard error.
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
    found = [heading]
    for title, entries in rows.items():
        found.append([title, *("–" if entry is None else percent(entry["values"]) for entry in entries)])
        if compared:
            by_role = dict(zip(networks, entries, strict=True))
            student, baseline = by_role["student"], by_role["student_baseline"]
            found[-1].append(gain(student["values"], baseline["values"]) if student and baseline else "–")
    return found


def noise_table(record: dict[str, Any]) -> str:
    """`noise_rows` in Markdown."""
    heading, *rows = noise_rows(record)
    means = _GROUP_TITLES.values()
    return markdown_table(heading, ([f"**{title}**" if title in means else title, *cells] for title, *cells in rows))


_GROUP_TITLES = {
    "image": f"mean of the {len(GROUPS['image'])} on images",
    "layer": f"mean of the {len(GROUPS['layer'])} between layers",
    "all": f"mean of all {len(GROUPS['all'])}",
}


def in_words(record: dict[str, Any]) -> str:
    """In how many kinds the student with KD is the better one, and by how much on average; empty without the pair."""
    found = record["comparison"]
    if found is None:
        return ""
    noisy, clean = (points(found[name]["values"]) for name in ("gain", "clean_gain"))
    return (
        f"With KD the student is better in {len(found['better'])} of {len(found['kinds'])} kinds. Averaged over all of "
        f"them it gains {noisy} points, without noise {clean}."
    )
