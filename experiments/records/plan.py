"""The tables of plans, from the records in `experiments/results/plan/` (`snnkd plan`).

A record has an entry for each topology, T and kind of rematerialisation that was compiled for; memory is in bytes.
Records of the kind `memory` compare T and rematerialisation on one topology, those of the kind `topologies` the chips.
"""

from typing import Any

from snnkd_jax.report.markdown import markdown_table


def plan_section(records: list[dict[str, Any]]) -> str:
    """The tables of both kinds."""
    writers = {"topologies": _topologies, "memory": _memory}
    return "\n".join(writers[kind](record) for kind in writers for record in records if record["kind"] == kind)


def _topologies(record: dict[str, Any]) -> str:
    """A row for each topology."""
    columns = ("chips", "images per chip", "GFLOP per chip", "memory per chip, GiB", "all-reduce, MB")
    heading = (*columns, "other collectives", "step at best, ms", "largest batch per chip")
    rows = []
    for entry in record["entries"]:
        others = [name for name in entry["collectives"] if name != "all-reduce"]
        rows.append(
            [
                f"{entry['chips']} ({entry['topology']})",
                entry["batch_size"],
                f"{entry['flops'] / 1e9:.1f}",
                f"{entry['memory'] / 2**30:.2f}",
                f"{entry['collectives'].get('all-reduce', 0) / 1e6:.2f}",
                ", ".join(others) or "none",
                f"{1e3 * max(entry['bounds'].values()):.2f}",
                "–" if entry["largest_batch"] is None else entry["largest_batch"],
            ]
        )
    return f"{markdown_table(heading, rows)}\n{_command(record)}\n"


def _memory(record: dict[str, Any]) -> str:
    """A row for each T: temporary memory by rematerialisation, and the operations that it costs."""
    kinds = list(dict.fromkeys(entry["remat"] for entry in record["entries"]))
    steps = sorted({entry["num_steps"] for entry in record["entries"]})
    at = {(entry["num_steps"], entry["remat"]): entry for entry in record["entries"]}
    columns = [f"remat {kind}, GiB" for kind in kinds] + [f"{kind}, GFLOP" for kind in kinds]
    rows = []
    for t in steps:
        cells = [f"{at[t, kind]['temporary'] / 2**30:.2f}" for kind in kinds]
        cells += [f"{at[t, kind]['flops'] / 1e9:.1f}" for kind in kinds]
        rows.append([t, *cells])
    ratios = [f"{growth(record, kind) / growth(record, kinds[0]):.2f} with {kind}" for kind in kinds[1:]]
    first = record["entries"][0]
    terms = (
        f"Temporary memory per chip, mostly activations, and operations, with {first['batch_size']} images on each "
        f"chip of {first['topology']}. From T = {steps[0]} to {steps[-1]} it grows by "
        f"{', '.join(ratios)}, in units of what it grows by with {kinds[0]}."
    )
    return f"{markdown_table(['T', *columns], rows)}\n{terms}\n\n{_command(record)}\n"


def growth(record: dict[str, Any], remat: str) -> float:
    """Bytes of temporary memory for each further step, from the least T of a record to the greatest."""
    found = sorted((e["num_steps"], e["temporary"]) for e in record["entries"] if e["remat"] == remat)
    (least, small), (greatest, large) = found[0], found[-1]
    return (large - small) / (greatest - least)


def _command(record: dict[str, Any]) -> str:
    config = record["config"]
    return (
        f"[{record['name']}](../experiments/results/plan/{record['name']}.json): `{record['command']}`; "
        f"{config['student']}, width {config['width']:g}, {config['preset']}, {config['dtype']}; "
        f"jax {record['versions']['jax']}, libtpu {record['versions']['libtpu']}."
    )
