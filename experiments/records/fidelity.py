"""What the fidelity page says: the equations, quoted from docstrings, and what each is checked against and how closely.

The records, in `experiments/results/fidelity/`, are written by `experiments/fidelity.py`.
"""

import importlib
import inspect
import re
from typing import Any, NamedTuple

from records.docstrings import is_block, is_table, markdown, paragraphs
from snnkd_jax.errors import InputError
from snnkd_jax.report.markdown import markdown_table

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
        "spikes": Check("dynamics.neurons dynamics.neurons.integer_lif dynamics.integration.integrate", LOOP),
        "lif, hard reset": Check("dynamics.neurons.lif", f"{LOOP} with a backward pass by hand"),
        "lif, soft reset": Check("dynamics.neurons.lif", f"{LOOP} with a backward pass by hand"),
        "plif, hard reset": Check(
            "dynamics.neurons.plif dynamics.neurons.plif_tau", f"{LOOP} with a backward pass by hand"
        ),
        "plif, soft reset": Check(
            "dynamics.neurons.plif dynamics.neurons.plif_tau", f"{LOOP} with a backward pass by hand"
        ),
        "integrate_and_fire, hard reset": Check(
            "dynamics.neurons.integrate_and_fire", f"{LOOP} with a backward pass by hand"
        ),
        "integrate_and_fire, soft reset": Check(
            "dynamics.neurons.integrate_and_fire", f"{LOOP} with a backward pass by hand"
        ),
        "plif in float64": Check("dynamics.neurons.plif", f"{LOOP} with a backward pass by hand"),
        "plif_parameter": Check("dynamics.neurons.plif_parameter", BY_HAND),
        "kappa": Check("dynamics.integration.integrate_with_slopes", "that loop, a neuron at a time"),
        "kappa_tau": Check("dynamics.integration.integrate_with_slopes", "that loop, a neuron at a time"),
        "trajectories by hand": Check(
            "dynamics.neurons.lif dynamics.neurons.plif dynamics.neurons.integrate_and_fire", BY_HAND
        ),
        "a stream in pieces": Check("dynamics.integration.integrate", "the stream in one piece"),
        "NIR's single neuron, spikes": Check("dynamics.neurons.lif", "the experiment of the NIR paper"),
        "NIR's single neuron, potential": Check("dynamics.neurons.lif", "the experiment of the NIR paper"),
        "NIR's nodes, random graphs": Check("interop.euler", "a simulation of the format's definitions in float64"),
        "SpikingJelly's lif, spikes": Check("dynamics.neurons.lif", "SpikingJelly"),
        "SpikingJelly's lif": Check("dynamics.neurons.lif", "SpikingJelly"),
        "SpikingJelly's plif, spikes": Check("dynamics.neurons.plif", "SpikingJelly"),
        "SpikingJelly's plif": Check("dynamics.neurons.plif", "SpikingJelly"),
        "SpikingJelly's if, spikes": Check("dynamics.neurons.integrate_and_fire", "SpikingJelly"),
        "SpikingJelly's if": Check("dynamics.neurons.integrate_and_fire", "SpikingJelly"),
    },
    "surrogates": {
        name: Check(
            f"dynamics.surrogate dynamics.surrogate.{name.split(',')[0]}", "differences of the primitive, in float64"
        )
        for surrogate in ("atan", "sigmoid", "triangle", "rectangle", "fast_sigmoid")
        for name in (surrogate, f"{surrogate}, gradient of the spike")
    }
    | {
        "surrogates by hand": Check("dynamics.surrogate", BY_HAND),
        "SpikingJelly's atan": Check("dynamics.surrogate.atan", "SpikingJelly"),
        "SpikingJelly's sigmoid": Check("dynamics.surrogate.sigmoid", "SpikingJelly"),
    },
    "encoders": {
        "direct code": Check("dynamics.encoders.direct", "the image"),
        "Poisson code": Check(
            "dynamics.encoders.poisson", "the pixels; in standard errors of the binomial distribution"
        ),
        "latency code": Check("dynamics.encoders.latency", BY_HAND),
    },
    "layers": {
        "batch norm": Check("models.layers.BatchNorm", "Flax"),
        "batch norm with tdBN": Check("models.layers.BatchNorm", FORMULA),
        "batch norm, gradients": Check("models.layers.normalise", "automatic differentiation of the formula"),
        "max pooling": Check("models.layers.max_pool", "XLA's `reduce_window`, value and gradient"),
        "mean pooling": Check("models.layers.avg_pool", "a loop"),
        "convolution of a small map": Check("models.layers.convolve", "XLA's convolution, value and gradients"),
        "patch moments": Check("models.whitening", FORMULA),
        "whitening filters": Check("models.whitening", "NumPy's eigendecomposition, in float64"),
        "whitened patches": Check("models.whitening", "the identity, but for eps"),
    },
    "bodies": {
        "numbers of parameters": Check(
            "models.resnet models.imagenet_resnet models.wide_resnet models.pyramidnet models.airbench models.vgg "
            "models.convnet",
            "sums worked out by hand",
        ),
        "a whitened airbench": Check("models.airbench", "NumPy, in float64"),
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
        "cross-entropy": Check("distill.losses.cross_entropy", "SciPy, in float64"),
        "KD": Check("distill.losses.kd_divergence", "SciPy's relative entropy, in float64"),
        "KD, gradient": Check("distill.losses.kd_divergence", ANALYTIC),
        "negative mean": Check("distill.losses.negative_mean", BY_HAND),
        "margin distance by hand": Check("distill.losses.margin_distance", BY_HAND),
        "margin distance": Check("distill.losses.margin_distance", LOOP),
        "margin distance, gradient": Check("distill.losses.margin_distance", ANALYTIC),
        "classifier": Check("distill.losses.classifier_divergence", LOOP),
        "classifier, gradient": Check("distill.losses.classifier_divergence", ANALYTIC),
        "deviation": Check("distill.losses.logit_deviation", LOOP),
        "deviation, gradient": Check("distill.losses.logit_deviation", QUOTIENT),
        "sharing": Check("distill.losses.temporal_sharing", LOOP),
        "sharing, gradient": Check("distill.losses.temporal_sharing", ANALYTIC),
        "reliable sharing": Check("distill.losses.reliable_sharing", LOOP),
        "reliable sharing, gradient": Check("distill.losses.reliable_sharing", ANALYTIC),
        "entropy": Check("distill.losses.negative_entropy", "SciPy, in float64"),
        "entropy, gradient": Check("distill.losses.negative_entropy", QUOTIENT),
        "head and tail": Check("distill.losses.head_tail_divergence", LOOP),
        "head and tail, gradient": Check("distill.losses.head_tail_divergence", ANALYTIC),
        "inter": Check(
            "distill.losses.inter_class_distance distill.losses.unit_vector", "NumPy's correlation, in float64"
        ),
        "inter, gradient": Check("distill.losses.inter_class_distance", QUOTIENT),
        "intra": Check("distill.losses.intra_class_distance", "NumPy's correlation, in float64"),
        "intra, gradient": Check("distill.losses.intra_class_distance", QUOTIENT),
        "strong to weak": Check("distill.losses.strong_to_weak", LOOP),
        "strong to weak, gradient": Check("distill.losses.strong_to_weak", ANALYTIC),
        "error aware": Check("distill.losses.error_aware_divergence", LOOP),
        "error aware, gradient": Check("distill.losses.error_aware_divergence", QUOTIENT),
        "similar steps": Check("distill.losses.similar_steps_divergence", LOOP),
        "similar steps, gradient": Check("distill.losses.similar_steps_divergence", ANALYTIC),
        "noise smoothed": Check("distill.losses.noise_smoothed_divergence", LOOP),
        "noise smoothed, gradient": Check("distill.losses.noise_smoothed_divergence", QUOTIENT),
    },
    "features": {
        "squared": Check("distill.losses.pooled_distance", LOOP),
        "squared, gradient": Check("distill.losses.pooled_distance", QUOTIENT),
        "mean squared": Check("distill.losses.mean_squared_distance", LOOP),
        "mean squared, gradient": Check("distill.losses.mean_squared_distance", QUOTIENT),
        "attention": Check("distill.losses.attention_distance", LOOP),
        "attention, gradient": Check("distill.losses.attention_distance", QUOTIENT),
        "saliency": Check("distill.losses.saliency_divergence", LOOP),
        "saliency, gradient": Check("distill.losses.saliency_divergence", QUOTIENT),
        "masked channels": Check("distill.losses.mask_channels", "the ratio"),
        "connector": Check("distill.connector.Connectors", "NumPy, in float64"),
        "generator": Check("distill.connector.Connectors", "loops over the kernel, in float64"),
        "branches": Check("distill.connector.Branches", "NumPy, in float64"),
    },
    "objectives": {
        "objectives": Check(
            "distill.objective distill.terms distill.presets distill.losses.dist_distance",
            "SciPy and loops over examples, in float64",
        )
    },
    "optimisers": {
        "triangular schedule": Check("training.optim.triangle", BY_HAND),
        "the update of airbench": Check("training.optim.make_optimizer", f"{LOOP}, as the original code has it"),
        "muon": Check("training.optim.muon", "the iteration of Newton and Schulz in NumPy, in float64"),
        "lookahead": Check("training.lookahead", LOOP),
    },
    "conversion": {
        "folded norms": Check("models.folding.fold_norms", "the network before folding, in evaluation"),
        "QCFS": Check("models.activation.QCFS models.activation.IntegerSpike", FORMULA),
        "QCFS, gradient by theta": Check("models.activation.QCFS", ANALYTIC),
        "converted neurons": Check("inference.convert models.converted models.expanded", FORMULA),
        "maxima of sums": Check("models.converted.ConvertedMaxPool", LOOP),
        "early exit": Check("inference.predict", "the logits of all steps"),
    },
    "energy": {
        "operations by hand": Check("analysis.energy.count", BY_HAND),
        "operations of whole networks": Check(
            "analysis.energy analysis.energy.count", "loops over every position of every map"
        ),
        "dense operations": Check("analysis.energy.count", "the closed formula for ResNet-18 and VGG-11"),
        "joules": Check("analysis.joules.joules", BY_HAND),
    },
    "image noise": {
        "gaussian": Check("data.corruptions", "the standard deviation"),
        "uniform": Check("data.corruptions", "the standard deviation"),
        "salt_and_pepper": Check("data.corruptions", "the share of white and of black pixels"),
        "shot": Check("data.corruptions", "the standard deviation"),
        "speckle": Check("data.corruptions", "the standard deviation"),
        "blur": Check("data.corruptions", "SciPy's `gaussian_filter`, in float64"),
        "occlusion": Check("data.corruptions", "the number of grey pixels"),
        "contrast": Check("data.corruptions", FORMULA),
        "brightness": Check("data.corruptions", FORMULA),
        "jpeg": Check("data.corruptions", "Pillow"),
    },
    "layer noise": {
        "spike_deletion": Check("analysis.disturbance", "the share of lost spikes"),
        "spike_insertion": Check("analysis.disturbance", "the share of spurious spikes"),
        "threshold_mismatch": Check(
            "analysis.disturbance.threshold_factors", "a loop in float64 with a threshold for each neuron"
        ),
        "weight_noise": Check("analysis.disturbance.noisy_weights", "the standard deviation"),
    },
}
"""Section of the page to its rows."""


def fidelity_section(records: list[dict[str, Any]], section: str) -> str:
    """The equations of a section as their docstrings have them, and the table of its rows; the worst of all records."""
    names = dict.fromkeys(name for check in ROWS[section].values() for name in check.of.split())
    rows = []
    for name, check in ROWS[section].items():
        found = [record["rows"][name] for record in records if name in record["rows"]]
        if not found:
            raise InputError(f"no record of fidelity has the row {name!r}; run its test with --fidelity")
        error, number = max(row["error"] for row in found), sum(row["comparisons"] for row in found)
        limit = "exact" if found[0]["kind"] == "exact" else f"{found[0]['tolerance']:g}, {found[0]['kind']}"
        of = ", ".join(f"`{name}`" for name in check.of.split())
        shown = "0" if error == 0 else f"{error:.1e}"
        rows.append((name, of, check.against, limit, shown, number))
    table = markdown_table(("what", "of", "against", "tolerance", "largest error", "comparisons"), rows)
    return "\n\n".join([*(quoted(name) for name in names), table])


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
            f"- [{name}](../experiments/results/fidelity/{name}.json): {comparisons} comparisons in {len(rows)} rows, "
            f"{record['date']}, on {record['hardware']}; {versions}. {record['notes']}".rstrip()
        )
    return "\n".join(lines) + "\n"
