"""Accuracy under noise over several seeds: statistics by `over_seeds`, tables and a summary in words."""

import statistics
from collections.abc import Collection
from typing import Any

from snnkd_jax.analysis.robustness import EVENT_GROUPS, GROUPS
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.report.statistics import gain, over_seeds, percent, points
from snnkd_jax.runs.roles import NETWORKS


def summarise(by_role: dict[str, list[dict[str, Any]]], trained_on: Collection[str] = ()) -> dict[str, Any]:
    """Statistics over runs, given what `evaluate_noise` returns by role and run; a shared teacher has one entry.

    Returns `networks`, by role the entries `clean`, `kinds` and `mean` with each number replaced by `over_seeds`, and
    `comparison` of the students with and without KD, or None: `kinds` that both have, `better`, those with a higher
    mean accuracy with KD, `gain`, the mean difference over `kinds`, and `clean_gain`, the difference without noise.

    If the students were `trained_on` kinds of image noise, these are an entry of the result. `mean` then has `unseen`,
    the mean over the other kinds on images, None unless all of them were evaluated, and `comparison` has `unseen_gain`.
    """
    if trained_on:
        by_role = {role: [_with_unseen(run, trained_on) for run in runs] for role, runs in by_role.items()}
    comparison = None
    if "student" in by_role and "student_baseline" in by_role:
        comparison = _comparison(by_role["student"], by_role["student_baseline"])
    networks = {
        role: {name: _merged([run[name] for run in runs]) for name in ("clean", "kinds", "mean")}
        for role, runs in by_role.items()
    }
    result = {"networks": networks, "comparison": comparison}
    return result | {"trained_on": list(trained_on)} if trained_on else result


def _with_unseen(run: dict[str, Any], trained_on: Collection[str]) -> dict[str, Any]:
    found = [run["kinds"].get(kind) for kind in _unseen(trained_on)]
    mean = statistics.fmean(entry["mean"] for entry in found) if found and all(found) else None
    return run | {"mean": run["mean"] | {"unseen": mean}}


def _unseen(trained_on: Collection[str]) -> list[str]:
    """The kinds on images other than those that students were trained on."""
    return [kind for kind in GROUPS["image"] if kind not in trained_on]


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
    found = {
        "kinds": kinds,
        "better": [kind for kind, values in gains.items() if statistics.fmean(values) > 0],
        "gain": over_seeds(statistics.fmean(values) for values in zip(*gains.values(), strict=True)),
        "clean_gain": over_seeds(s["clean"] - b["clean"] for s, b in pairs),
    }
    if pairs[0][0]["mean"].get("unseen") is not None:
        found["unseen_gain"] = over_seeds(s["mean"]["unseen"] - b["mean"]["unseen"] for s, b in pairs)
    return found


def noise_rows(record: dict[str, Any]) -> list[list[str]]:
    """A heading and rows: without noise, each kind, and means over kinds, with a column for each network.

    Kinds that the students were trained on are marked. Accuracies are mean ± sample standard deviation over runs, the
    gains in the last column mean ± standard error.
    """
    networks = record["networks"]
    rows: dict[str, list[dict[str, Any] | None]] = {"none": [network["clean"] for network in networks.values()]}
    for kind in next(iter(networks.values()))["kinds"]:
        rows[kind_title(record, kind)] = [(network["kinds"][kind] or {}).get("mean") for network in networks.values()]
    for group, title in _group_titles(record).items():
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
    means = _group_titles(record).values()
    return markdown_table(heading, ([f"**{title}**" if title in means else title, *cells] for title, *cells in rows))


def kind_title(record: dict[str, Any], kind: str) -> str:
    """A kind of noise in words, which say so if the students were trained on it."""
    return kind.replace("_", " ") + (" (trained on)" if kind in record.get("trained_on", ()) else "")


def _group_titles(record: dict[str, Any]) -> dict[str, str]:
    """Titles of the means over kinds."""
    if "event_drop" in next(iter(record["networks"].values()))["kinds"]:
        return {
            "event": f"mean of the {len(EVENT_GROUPS['event'])} on events",
            "layer": f"mean of the {len(EVENT_GROUPS['layer'])} between layers",
            "all": f"mean of all {len(EVENT_GROUPS['all'])}",
        }
    unseen = len(_unseen(record.get("trained_on", ())))
    return {
        "image": f"mean of the {len(GROUPS['image'])} on images",
        **({"unseen": f"mean of the {unseen} on images not trained on"} if "trained_on" in record else {}),
        "layer": f"mean of the {len(GROUPS['layer'])} between layers",
        "all": f"mean of all {len(GROUPS['all'])}",
    }


def in_words(record: dict[str, Any]) -> str:
    """What students were trained on; with both students, in how many kinds KD makes them better, and by how much."""
    sentences = []
    if trained_on := record.get("trained_on"):
        named = ", ".join(kind.replace("_", " ") for kind in trained_on)
        sentences.append(f"The students were trained on noise ({named}), which their teacher did not see.")
    if (found := record["comparison"]) is not None:
        noisy, clean = (points(found[name]["values"]) for name in ("gain", "clean_gain"))
        sentences.append(f"With KD the student is better in {len(found['better'])} of {len(found['kinds'])} kinds.")
        unseen = ""
        if "unseen_gain" in found:
            kinds = len(_unseen(record["trained_on"]))
            unseen = f", over the {kinds} on images that it was not trained on {points(found['unseen_gain']['values'])}"
        sentences.append(f"Averaged over all of them it gains {noisy} points{unseen}, without noise {clean}.")
    return " ".join(sentences)
