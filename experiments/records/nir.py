"""What the README says of exported networks, from `experiments/results/nir/`, which `experiments/check_nir.py` writes.

A record has `readers`: how often each reader of the file differs from a reading of it in plain NumPy.
"""

from typing import Any


def nir_section(records: list[dict[str, Any]]) -> str:
    """A row for each record and reader, and below them the commands."""
    if not records:
        return ""
    columns = ("network", "images", "read by", "spikes", "that differ", "classes that differ", "logits differ by")
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]
    for record in records:
        for reader in record["readers"]:
            counts = [f"{reader[name]:,}" for name in ("spikes", "differing_spikes", "differing_classes")]
            cells = [record["name"], str(record["images"]), reader["reader"], *counts]
            lines.append(f"| {' | '.join(cells)} | {reader['logit_difference']:.1g} |")
    lines += ["", "Differences are those to the first reader, over all test images that were taken.", ""]
    for r in records:
        lines.append(
            f"- [{r['name']}](experiments/results/nir/{r['name']}.json): `{r['command']}`, RUN of `{r['run']}`, "
            f"T = {r['num_steps']}."
        )
    return "\n".join(lines) + "\n"
