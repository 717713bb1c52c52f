"""The energy of networks per image, from records: table rows and the explanation of their columns."""

import math
from typing import Any

from snnkd_jax.analysis.joules import joules
from snnkd_jax.runs.config import config_of
from snnkd_jax.runs.models import number_of_steps
from snnkd_jax.runs.roles import title_of

COLUMNS = (
    *("data", "network", "T", "test accuracy, %", "MACs, M", "ACs, M"),
    *("energy, µJ", "of the ANN's", "estimate, µJ", "of the ANN's"),
)


def energy_terms(records: list[dict[str, Any]]) -> str:
    """Explains `COLUMNS`, with the energies per operation of the records."""
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


def of_ann(record: dict[str, Any], role: str) -> float | None:
    """The ratio of a network's energy to that of the ANN of its architecture; None if that was not counted."""
    ann = record["networks"].get(record["networks"][role]["ann"])
    return None if ann is None else _energy(record, record["networks"][role]) / _energy(record, ann)


def _energy(record: dict[str, Any], network: dict[str, Any]) -> float:
    return joules(network["macs"], network["acs"], record["mac_pj"], record["ac_pj"])


def energy_rows(record: dict[str, Any]) -> list[list[str]]:
    """A row of `COLUMNS` for each network of a record."""
    rows, costs = [], (record["mac_pj"], record["ac_pj"])
    for role, network in record["networks"].items():
        macs, acs = network["estimate"]
        estimate, ratio = joules(macs, acs, *costs), of_ann(record, role)
        accuracy, energy = network["test_accuracy"], _energy(record, network)
        # records of older versions have no integer neurons
        num_steps, levels = network["num_steps"], network.get("levels", 1)
        rows.append(
            [
                record["dataset"],
                title(record, role),
                "–" if num_steps is None else number_of_steps(num_steps, levels),
                "–" if accuracy is None else f"{100 * accuracy:.2f}",
                *map(_three_figures, (network["macs"] / 1e6, network["acs"] / 1e6, 1e6 * energy)),
                "–" if ratio is None else f"{ratio:.2f}",
                _three_figures(1e6 * estimate),
                f"{estimate / joules(network['dense_pass'], 0, *costs):.2f}",
            ]
        )
    return rows


def title(record: dict[str, Any], role: str) -> str:
    """The architecture and width of a network and its role in words."""
    network, others = record["networks"][role], {"ann": "ANN", "converted": "teacher, converted"}
    named = others[role] if role in others else title_of(config_of(record["config"], record["name"]), role)
    return f"{network['model']}, width {network['width']:g}, {named}"


def _three_figures(value: float) -> str:
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value else "0"
