"""The table of the students that come with the package, from their cards."""

from typing import Any

from records.trainings import folded
from snnkd_jax.inference.students import WEIGHTS, students
from snnkd_jax.report.markdown import markdown_table
from snnkd_jax.runs.models import number_of_steps


def students_section(records: list[dict[str, Any]]) -> str:
    """A row for each student, and below it the commands; raises KeyError for a card whose record is not there."""
    hardware = {record["name"]: f"{record['hardware']}, jax {record['versions']['jax']}" for record in records}
    rows, commands = [], []
    for name, card in students().items():
        network, result, record = card["network"], card["result"], card["record"]
        spiking = network["spiking"]
        rows.append(
            (
                f"`{name}`",
                card["data"],
                f"{network['model']}, width {network['width']:g}",
                number_of_steps(spiking["num_steps"], spiking.get("levels") or 1),
                f"{100 * result['accuracy']:.2f}",
                f"{result['parameters'] / 1e6:.2f} M",
                f"{(WEIGHTS / f'{name}.npz').stat().st_size / 1e6:.2f} MB",
                card["licence"],
            )
        )
        changed = result.get("classes_changed", 0.0)
        rounding = f"; rounding to half precision changed {changed:.2%} of the classes" if changed else ""
        link = f"[{record}](../experiments/results/{record}.json)"
        commands.append(f"- `{name}`, {link}: `{card['command']}`; {hardware[record]}{rounding}")
    heading = ("name", "data", "network", "T or T x D", "test accuracy, %", "parameters", "file", "licence of the data")
    return "\n".join([markdown_table(heading, rows), folded(commands)])
