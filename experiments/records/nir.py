"""The table of exported networks, from `experiments/results/nir/`, which `experiments/check_nir.py` writes.

A record has `readers`: how often each reader of the file differs from a reading of it in plain NumPy.
"""

from typing import Any

from snnkd_jax.report.markdown import markdown_table


def nir_section(records: list[dict[str, Any]]) -> str:
    """A row for each record and reader, and below them the commands."""
    if not records:
        return ""
    columns = ("network", "images", "read by", "spikes", "that differ", "classes that differ", "logits differ by")
    rows = []
    for record in records:
        for reader in record["readers"]:
            counts = [f"{reader[name]:,}" for name in ("spikes", "differing_spikes", "differing_classes")]
            difference = f"{reader['logit_difference']:.1g}"
            rows.append((record["name"], record["images"], reader["reader"], *counts, difference))
    terms = "Differences are those to the first reader, over all test images that were taken.\n"
    commands = "".join(
        f"- [{r['name']}](../experiments/results/nir/{r['name']}.json): `{r['command']}`, RUN of `{r['run']}`, "
        f"T = {r['num_steps']}.\n"
        for r in records
    )
    return "\n".join([markdown_table(columns, rows), terms, commands])
