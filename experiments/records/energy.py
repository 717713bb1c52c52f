"""The tables of the energy page, from the records in `experiments/results/energy/`.

A record has an entry in `networks` for each network of the run, and for an ANN of the student's architecture that
was trained elsewhere, `ann`.
"""

from typing import Any

from records.trainings import folded
from snnkd_jax.report.energy import COLUMNS, energy_rows, energy_terms, of_ann
from snnkd_jax.report.markdown import markdown_table


def energy_section(records: list[dict[str, Any]]) -> str:
    """A row for each network of each record, and below it the commands."""
    if not records:
        return ""
    parts = [
        "![Energy per image: one bar per network, split into MACs and ACs.](figures/energy.svg)\n",
        markdown_table(COLUMNS, (row for record in records for row in energy_rows(record))),
        f"{energy_terms(records)}\n",
        f"{energy_verdict(records)}\n",
    ]
    commands = []
    for r in records:
        against = f", ANN of `{r['ann_command']}`" if r["ann_command"] else ""
        commands.append(
            f"- [{r['name']}](../experiments/results/energy/{r['name']}.json): `{r['command']}`, {r['images']} images, "
            f"RUN of `{r['run_command']}`{against}; on {r['hardware']}, jax {r['versions']['jax']}."
        )
    return "\n".join([*parts, folded(commands)])


def energy_verdict(records: list[dict[str, Any]]) -> str:
    """How many spiking networks need less energy than the ANN of their architecture, where that was counted."""
    ratios = [of_ann(r, role) for r in records for role, x in r["networks"].items() if x["num_steps"] is not None]
    counted = [ratio for ratio in ratios if ratio is not None]
    return (
        f"By NeuroBench's definition, {sum(ratio < 1 for ratio in counted)} of the {len(counted)} spiking networks "
        "above that have the ANN of their architecture beside them need less energy than it."
    )
