"""What the README says about energy, from the records in `experiments/results/energy/` (`experiments/energy.py`).

A record has an entry in `networks` for each network of the run, and for an ordinary one of the student's architecture
from elsewhere, `ann`. Operations and joules are those of an image.
"""

import math
from typing import Any

from snnkd_jax.energy import joules
from snnkd_jax.recipe import config_of
from snnkd_jax.records import folded, title_of

COLUMNS = (
    *("data", "network", "T", "test accuracy, %", "MACs, M", "ACs, M"),
    *("energy, µJ", "of the ANN's", "estimate, µJ", "of the ANN's"),
)


def energy_section(records: list[dict[str, Any]]) -> str:
    """The README's section on energy: a row for each network of each record, and below it the commands."""
    if not records:
        return ""
    lines = [
        "![Energy of an image, a bar a network: multiplications and accumulations.](experiments/figures/energy.svg)"
    ]
    lines += ["", f"| {' | '.join(COLUMNS)} |", f"| {' | '.join(['---'] * len(COLUMNS))} |"]
    for record in records:
        lines += [f"| {' | '.join(row)} |" for row in energy_rows(record)]
    lines += ["", energy_terms(records), "", energy_verdict(records), ""]
    commands = []
    for r in records:
        against = f", ANN of `{r['ann_command']}`" if r["ann_command"] else ""
        commands.append(
            f"- [{r['name']}](experiments/results/energy/{r['name']}.json): `{r['command']}`, {r['images']} images, "
            f"RUN of `{r['run_command']}`{against}; on {r['hardware']}, jax {r['versions']['jax']}."
        )
    return "\n".join(lines) + "\n" + folded(commands)


def energy_terms(records: list[dict[str, Any]]) -> str:
    """What the columns mean, and at which energies of an operation."""
    constants = sorted({(r["mac_pj"], r["ac_pj"]) for r in records})
    return (
        "Means over test images, accuracies those of one seed on the whole test set. Operations by NeuroBench's "
        "definition: only inputs and weights that are not zero "
        "count, as accumulations (AC) where a layer's inputs are spikes, else as multiplications (MAC); mean pooling "
        "makes spikes into numbers, so what follows it costs MACs. A static image is convolved once, not T times. The "
        "ANN of the same architecture is counted alike. The estimate is what most papers print, firing rate × dense "
        "operations × T, set against all the operations of the ANN. Energy at "
        + "; ".join(f"{mac:g} pJ a MAC and {ac:g} pJ an AC" for mac, ac in constants)
        + " (45 nm, float32, Horowitz 2014), memory access not included."
    )


def energy_verdict(records: list[dict[str, Any]]) -> str:
    """How many spiking networks need less energy than the ANN of their architecture, where that was counted."""
    ratios = [of_ann(r, role) for r in records for role, x in r["networks"].items() if x["num_steps"] is not None]
    counted = [ratio for ratio in ratios if ratio is not None]
    return (
        f"By NeuroBench's definition, {sum(ratio < 1 for ratio in counted)} of the {len(counted)} spiking networks "
        "above that have the ANN of their architecture beside them need less energy than it."
    )


def of_ann(record: dict[str, Any], role: str) -> float | None:
    """A network's energy as a multiple of that of the ANN of its architecture; None where that was not counted."""
    ann = record["networks"].get(record["networks"][role]["ann"])
    return None if ann is None else _energy(record, record["networks"][role]) / _energy(record, ann)


def _energy(record: dict[str, Any], network: dict[str, Any]) -> float:
    return joules(network["macs"], network["acs"], record["mac_pj"], record["ac_pj"])


def energy_rows(record: dict[str, Any]) -> list[list[str]]:
    """A row of `COLUMNS` for each network of a record."""
    return [_row(record, role) for role in record["networks"]]


def _row(record: dict[str, Any], role: str) -> list[str]:
    network = record["networks"][role]
    constants = record["mac_pj"], record["ac_pj"]
    macs, acs = network["estimate"]
    estimate, ratio = joules(macs, acs, *constants), of_ann(record, role)
    accuracy = network["test_accuracy"]
    return [
        record["dataset"],
        title(record, role),
        "–" if network["num_steps"] is None else str(network["num_steps"]),
        "–" if accuracy is None else f"{100 * accuracy:.2f}",
        _three_figures(network["macs"] / 1e6),
        _three_figures(network["acs"] / 1e6),
        _three_figures(1e6 * _energy(record, network)),
        "–" if ratio is None else f"{ratio:.2f}",
        _three_figures(1e6 * estimate),
        f"{estimate / joules(network['dense_pass'], 0, *constants):.2f}",
    ]


def title(record: dict[str, Any], role: str) -> str:
    """A network in words, with its architecture and width."""
    network = record["networks"][role]
    other = {"ann": "ANN", "converted": "teacher, converted"}
    named = other[role] if role in other else title_of(config_of(record["config"], record["name"]), role)
    return f"{network['model']}, width {network['width']:g}, {named}"


def _three_figures(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
