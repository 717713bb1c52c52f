"""What each equation of the library is checked against: the rows of the fidelity page, and the record of their errors.

    python -m pytest --fidelity found.jsonl
    python experiments/fidelity.py found.jsonl --record cpu
    python experiments/make_tables.py

Tests name a row where they compare (`tests/comparison.py`), and tell the error that they found.
"""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from docstrings import is_block, is_table, markdown, paragraphs

from snnkd_jax.errors import InputError, told_in_one_line
from snnkd_jax.runs.record import write_record

RESULTS = Path(__file__).parent / "results" / "fidelity"
LOOP = "a loop in float64"
BY_HAND = "values worked out by hand"
QUOTIENT = "difference quotients of the loop"
ANALYTIC = "the derivative worked out by hand, in float64"
FORMULA = "the formula in NumPy"


class Check(NamedTuple):
    """What is compared: `of`, names below `snnkd_jax`, `against` something independent."""

    of: str
    against: str


ROWS: dict[str, dict[str, Check]] = {
    "neurons": {
        "spikes": Check("neurons neurons.integrate", LOOP),
        "lif, hard reset": Check("neurons.lif", f"{LOOP} with a backward pass by hand"),
        "lif, soft reset": Check("neurons.lif", f"{LOOP} with a backward pass by hand"),
        "plif, hard reset": Check("neurons.plif neurons.plif_tau", f"{LOOP} with a backward pass by hand"),
        "plif, soft reset": Check("neurons.plif neurons.plif_tau", f"{LOOP} with a backward pass by hand"),
        "integrate_and_fire, hard reset": Check("neurons.integrate_and_fire", f"{LOOP} with a backward pass by hand"),
        "integrate_and_fire, soft reset": Check("neurons.integrate_and_fire", f"{LOOP} with a backward pass by hand"),
        "plif in float64": Check("neurons.plif", f"{LOOP} with a backward pass by hand"),
        "plif_parameter": Check("neurons.plif_parameter", BY_HAND),
        "kappa": Check("neurons.integrate_with_slopes", "that loop, a neuron at a time"),
        "kappa_tau": Check("neurons.integrate_with_slopes", "that loop, a neuron at a time"),
        "trajectories by hand": Check("neurons.lif neurons.plif neurons.integrate_and_fire", BY_HAND),
        "a stream in pieces": Check("neurons.integrate", "the stream in one piece"),
        "NIR's single neuron, spikes": Check("neurons.lif", "the experiment of the NIR paper"),
        "NIR's single neuron, potential": Check("neurons.lif", "the experiment of the NIR paper"),
        "SpikingJelly's lif, spikes": Check("neurons.lif", "SpikingJelly"),
        "SpikingJelly's lif": Check("neurons.lif", "SpikingJelly"),
        "SpikingJelly's plif, spikes": Check("neurons.plif", "SpikingJelly"),
        "SpikingJelly's plif": Check("neurons.plif", "SpikingJelly"),
        "SpikingJelly's if, spikes": Check("neurons.integrate_and_fire", "SpikingJelly"),
        "SpikingJelly's if": Check("neurons.integrate_and_fire", "SpikingJelly"),
    },
    "surrogates": {
        name: Check(f"surrogate surrogate.{name.split(',')[0]}", "differences of the primitive, in float64")
        for surrogate in ("atan", "sigmoid", "triangle", "rectangle", "fast_sigmoid")
        for name in (surrogate, f"{surrogate}, gradient of the spike")
    }
    | {
        "surrogates by hand": Check("surrogate", BY_HAND),
        "SpikingJelly's atan": Check("surrogate.atan", "SpikingJelly"),
        "SpikingJelly's sigmoid": Check("surrogate.sigmoid", "SpikingJelly"),
    },
    "encoders": {
        "direct code": Check("encoders.direct", "the image"),
        "Poisson code": Check("encoders.poisson", "the pixels; in standard errors of the binomial distribution"),
        "latency code": Check("encoders.latency", BY_HAND),
    },
    "layers": {
        "batch norm": Check("models.layers.BatchNorm", "Flax"),
        "batch norm with tdBN": Check("models.layers.BatchNorm", FORMULA),
        "batch norm, gradients": Check("models.layers.normalise", "automatic differentiation of the formula"),
        "max pooling": Check("models.layers.max_pool", "XLA's `reduce_window`, value and gradient"),
        "mean pooling": Check("models.layers.avg_pool", "a loop"),
        "convolution of a small map": Check("models.layers.convolve", "XLA's convolution, value and gradients"),
    },
    "bodies": {
        "numbers of parameters": Check(
            "models.resnet models.imagenet_resnet models.wide_resnet models.pyramidnet models.airbench models.vgg "
            "models.convnet",
            "sums worked out by hand",
        ),
        "a spiking convnet": Check("models.convnet", "loops over steps, convolutions by SciPy in float64"),
    },
    "rates": {
        "rates, one step": Check("models.rate", "backpropagation through time, T = 1"),
        "rates, one layer": Check("models.rate", "backpropagation through time, T = 5"),
        "rates, neurons without memory": Check("models.rate", "backpropagation through time, tau = 1"),
        "rates, neurons that always fire": Check("models.rate", "backpropagation through time, T = 4"),
        "rates, a loss on single steps": Check("models.rate", "the gradient of the mean's loss"),
    },
    "losses": {
        "cross-entropy": Check("losses.cross_entropy", "SciPy, in float64"),
        "KD": Check("losses.kd_divergence", "SciPy's relative entropy, in float64"),
        "KD, gradient": Check("losses.kd_divergence", ANALYTIC),
        "negative mean": Check("losses.negative_mean", BY_HAND),
        "margin distance by hand": Check("losses.margin_distance", BY_HAND),
        "margin distance": Check("losses.margin_distance", LOOP),
        "margin distance, gradient": Check("losses.margin_distance", ANALYTIC),
        "classifier": Check("losses.classifier_divergence", LOOP),
        "classifier, gradient": Check("losses.classifier_divergence", ANALYTIC),
        "deviation": Check("losses.logit_deviation", LOOP),
        "deviation, gradient": Check("losses.logit_deviation", QUOTIENT),
        "sharing": Check("losses.temporal_sharing", LOOP),
        "sharing, gradient": Check("losses.temporal_sharing", ANALYTIC),
        "entropy": Check("losses.negative_entropy", "SciPy, in float64"),
        "entropy, gradient": Check("losses.negative_entropy", QUOTIENT),
        "head and tail": Check("losses.head_tail_divergence", LOOP),
        "head and tail, gradient": Check("losses.head_tail_divergence", ANALYTIC),
        "inter": Check("losses.inter_class_distance losses.unit_vector", "NumPy's correlation, in float64"),
        "inter, gradient": Check("losses.inter_class_distance", QUOTIENT),
        "intra": Check("losses.intra_class_distance", "NumPy's correlation, in float64"),
        "intra, gradient": Check("losses.intra_class_distance", QUOTIENT),
        "strong to weak": Check("losses.strong_to_weak", LOOP),
        "strong to weak, gradient": Check("losses.strong_to_weak", ANALYTIC),
    },
    "features": {
        "squared": Check("feature_losses.squared_distance", LOOP),
        "squared, gradient": Check("feature_losses.squared_distance", QUOTIENT),
        "mean squared": Check("feature_losses.mean_squared_distance", LOOP),
        "mean squared, gradient": Check("feature_losses.mean_squared_distance", QUOTIENT),
        "attention": Check("feature_losses.attention_distance", LOOP),
        "attention, gradient": Check("feature_losses.attention_distance", QUOTIENT),
        "masked channels": Check("feature_losses.mask_channels", "the ratio"),
        "connector": Check("models.connector.Connectors", "NumPy, in float64"),
        "generator": Check("models.connector.Connectors", "loops over the kernel, in float64"),
    },
    "objectives": {
        "objectives": Check(
            "distill.objective distill.logit_terms distill.feature_terms distill.presets distill.losses.dist_distance",
            "SciPy and loops over examples, in float64",
        )
    },
    "conversion": {
        "folded norms": Check("models.conversion.fold_norms", "the network before folding, in evaluation"),
        "QCFS": Check("models.activation.QCFS", FORMULA),
        "QCFS, gradient by theta": Check("models.activation.QCFS", ANALYTIC),
        "converted neurons": Check("convert models.conversion", FORMULA),
        "maxima of sums": Check("models.conversion.ConvertedMaxPool", LOOP),
        "early exit": Check("inference", "the logits of all steps"),
    },
    "energy": {
        "operations by hand": Check("energy.count", BY_HAND),
        "operations of whole networks": Check("energy energy.count", "loops over every position of every map"),
        "dense operations": Check("energy.count", "the closed formula for ResNet-18 and VGG-11"),
        "joules": Check("energy.joules", BY_HAND),
    },
    "image noise": {
        "gaussian": Check("corruptions", "the standard deviation"),
        "uniform": Check("corruptions", "the standard deviation"),
        "salt_and_pepper": Check("corruptions", "the share of white and of black pixels"),
        "shot": Check("corruptions", "the standard deviation"),
        "speckle": Check("corruptions", "the standard deviation"),
        "blur": Check("corruptions", "SciPy's `gaussian_filter`, in float64"),
        "occlusion": Check("corruptions", "the number of grey pixels"),
        "contrast": Check("corruptions", FORMULA),
        "brightness": Check("corruptions", FORMULA),
        "jpeg": Check("corruptions", "Pillow"),
    },
    "layer noise": {
        "spike_deletion": Check("models.disturbance", "the share of lost spikes"),
        "spike_insertion": Check("models.disturbance", "the share of spurious spikes"),
        "threshold_mismatch": Check(
            "models.disturbance.threshold_factors", "a loop in float64 with a threshold for each neuron"
        ),
        "weight_noise": Check("models.disturbance.noisy_weights", "the standard deviation"),
    },
}
"""Section of the page to its rows."""


def main(found: tyro.conf.Positional[list[Path]], record: str, packages: tuple[str, ...] = (), notes: str = "") -> None:
    """Make a record of what comparisons found.

    Args:
        found: Files that `pytest --fidelity` wrote.
        record: Write experiments/results/fidelity/<record>.json.
        packages: Further packages whose versions matter.
        notes: What a reader should know.
    """
    lines = [line for path in found for line in path.read_text().splitlines()]
    rows = summed_up([json.loads(line) for line in lines])
    write_record(RESULTS, "fidelity", record, {"rows": rows, "notes": notes}, packages)


def summed_up(comparisons: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each row its kind of tolerance, the tolerance, the largest error and the number of comparisons.

    Raises `InputError` for a row that the page does not have, or that was compared with several tolerances.
    """
    known = [name for rows in ROWS.values() for name in rows]
    found: dict[str, dict[str, Any]] = {}
    for comparison in comparisons:
        name, limit = comparison["name"], {key: comparison[key] for key in ("kind", "tolerance")}
        if name not in known:
            raise InputError(f"name {name!r} is no row of experiments/fidelity.py; add it there")
        row = found.setdefault(name, limit | {"error": 0.0, "comparisons": 0})
        if not limit.items() <= row.items():
            raise InputError(f"row {name!r} has the tolerances {row} and {limit}; give each a row of its own")
        row["error"] = max(row["error"], comparison["error"])
        row["comparisons"] += 1
    return {name: found[name] for name in known if name in found}


def fidelity_section(records: list[dict[str, Any]], section: str) -> str:
    """The equations of a section as their docstrings have them, and the table of its rows; the worst of all records."""
    names = dict.fromkeys(name for check in ROWS[section].values() for name in check.of.split())
    table = [
        "| what | of | against | tolerance | largest error | comparisons |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, check in ROWS[section].items():
        found = [record["rows"][name] for record in records if name in record["rows"]]
        if not found:
            raise InputError(f"no record of fidelity has the row {name!r}; run its test with --fidelity")
        error, number = max(row["error"] for row in found), sum(row["comparisons"] for row in found)
        limit = "exact" if found[0]["kind"] == "exact" else f"{found[0]['tolerance']:g}, {found[0]['kind']}"
        of = ", ".join(f"`{name}`" for name in check.of.split())
        shown = "0" if error == 0 else f"{error:.1e}"
        table.append(f"| {name} | {of} | {check.against} | {limit} | {shown} | {number} |")
    return "\n\n".join([*(quoted(name) for name in names), "\n".join(table)]) + "\n"


def quoted(name: str) -> str:
    """What a docstring says of equations and sources, under its name."""
    parts = paragraphs(inspect.getdoc(resolved(name)) or "")
    laid_out = [is_block(lines) or is_table(lines) for lines in parts]
    kept = [
        markdown(lines)
        for i, lines in enumerate(parts)
        if i == 0 or any(laid_out[i : i + 2]) or re.search(r"References?:|Sources?:|arXiv", "\n".join(lines))
    ]
    return "\n\n".join([f"**`{name}`**", *kept])


def resolved(name: str) -> Any:
    """The module, function or class of that name below `snnkd_jax`."""
    module, _, last = f"snnkd_jax.{name}".rpartition(".")
    parent = importlib.import_module(module)
    return getattr(parent, last) if hasattr(parent, last) else importlib.import_module(f"{module}.{last}")


def fidelity_source(records: list[dict[str, Any]]) -> str:
    """The records, their machines and versions."""
    lines = []
    for record in records:
        name, rows = record["name"], record["rows"]
        comparisons = sum(row["comparisons"] for row in rows.values())
        versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
        lines.append(
            f"- [{name}](../results/fidelity/{name}.json): {comparisons} comparisons in {len(rows)} rows, "
            f"{record['date']}, on {record['hardware']}; {versions}. {record['notes']}".rstrip()
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with told_in_one_line():
        tyro.cli(main)
