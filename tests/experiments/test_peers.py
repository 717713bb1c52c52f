"""SpikingJelly: its neurons against ours, in spikes, last potential and gradients; a training. Needs `bench`."""

import importlib
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from time_to_accuracy import reached

from snnkd_jax.data import from_arrays
from snnkd_jax.dynamics import neurons, surrogate
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.recipe import read_config

pytestmark = [pytest.mark.peers, pytest.mark.optimised, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

T, W = 6, 0.7
X, SPIKES_COTANGENT = np.random.default_rng(0).normal(size=(2, 4, T, 50)).astype(np.float32)
X = 2 * X + 1  # so that all of the neurons below fire, and not always
OPTIONS = list(itertools.product((0.0, -0.4, None), (False, True), (False, True)))


def theirs(kind: str, v_reset: float | None, decay_input: bool, detach_reset: bool):
    """Spikes, last potential, and the derivatives with respect to the current and, of plif, w."""
    import torch  # pyright: ignore[reportMissingImports]
    from spikingjelly.activation_based import neuron  # pyright: ignore[reportMissingImports]
    from spikingjelly.activation_based import surrogate as surrogates  # pyright: ignore[reportMissingImports]

    options = {"v_threshold": 0.8, "v_reset": v_reset, "detach_reset": detach_reset, "step_mode": "m"}
    options["surrogate_function"] = surrogates.ATan(2.0)
    node: Any
    if kind == "lif":
        node = neuron.LIFNode(tau=2.5, decay_input=decay_input, **options)
    elif kind == "plif":
        node = neuron.ParametricLIFNode(init_tau=1 + float(np.exp(-W)), decay_input=decay_input, **options)
    else:
        node = neuron.IFNode(**options)
    x = torch.tensor(X.swapaxes(0, 1), requires_grad=True)
    spikes = node(x)
    (spikes * torch.tensor(SPIKES_COTANGENT.swapaxes(0, 1))).sum().backward()
    dw = node.w.grad.numpy() if kind == "plif" else np.float32(0)
    assert x.grad is not None
    return *(a.detach().numpy().swapaxes(0, 1) for a in (spikes, x.grad)), node.v.detach().numpy(), dw


def ours(kind: str, v_reset: float | None, decay_input: bool, detach_reset: bool):
    options = {"v_threshold": 0.8, "v_reset": v_reset, "detach_reset": detach_reset, "surrogate": surrogate.atan(2.0)}

    def loss(x, w):
        if kind == "lif":
            spikes, v = neurons.lif(x, tau=2.5, decay_input=decay_input, return_v=True, **options)
        elif kind == "plif":
            spikes, v = neurons.plif(x, w, decay_input=decay_input, return_v=True, **options)
        else:
            spikes, v = neurons.integrate_and_fire(x, return_v=True, **options)
        return (spikes * SPIKES_COTANGENT).sum(), (spikes, v)

    (dx, dw), (spikes, v) = jax.grad(loss, argnums=(0, 1), has_aux=True)(jnp.asarray(X), jnp.float32(W))
    return spikes, dx, v, dw


@pytest.mark.parametrize("kind", ["lif", "plif", "if"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_neurons_are_spikingjellys(kind, options):
    found, expected = ours(kind, *options), theirs(kind, *options)
    assert 0.1 < expected[0].mean() < 0.9
    agrees(found[0], expected[0], name=f"SpikingJelly's {kind}, spikes")
    for a, b in zip(found[1:], expected[1:], strict=True):
        agrees(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max(), name=f"SpikingJelly's {kind}")


@pytest.mark.parametrize("detach_reset", [False, True])
def test_integer_neurons_are_spikingjellys(detach_reset):
    """Those of the benchmark; no potential is halfway between two counts, where they differ."""
    import torch  # pyright: ignore[reportMissingImports]
    from peers.spikingjelly_net import node

    neuron = neurons.ILIF(levels=3, tau=2.5, v_threshold=0.8, detach_reset=detach_reset)
    x = torch.tensor(X.swapaxes(0, 1), requires_grad=True)
    counts = node(neuron)(x)
    (counts * torch.tensor(SPIKES_COTANGENT.swapaxes(0, 1))).sum().backward()
    assert x.grad is not None

    def loss(current):
        found = neurons.integrate(neuron, current, neuron.init((len(X), X.shape[-1])), {})[0]
        return (found * SPIKES_COTANGENT).sum(), found

    dx, found = jax.grad(loss, has_aux=True)(jnp.asarray(X))
    expected = counts.detach().numpy().swapaxes(0, 1)
    assert set(np.unique(expected)) == {0, 1, 2, 3}
    agrees(found, expected)
    agrees(dx, x.grad.numpy().swapaxes(0, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("neuron", [neurons.LIF(), neurons.ILIF()], ids=["lif", "ilif"])
def test_spikingjellys_neurons_are_fused_in_bfloat16(neuron, monkeypatch):
    """Their spikes are those of the same currents in float32, and its reference, a loop over steps, is not used."""
    import torch  # pyright: ignore[reportMissingImports]
    from peers.spikingjelly_net import node
    from spikingjelly._ops.ilif import reference as integers  # pyright: ignore[reportMissingImports]
    from spikingjelly._ops.lif import reference  # pyright: ignore[reportMissingImports]

    for module in (reference, integers):
        monkeypatch.setattr(module, "multi_step", None)
    x = torch.tensor(X.swapaxes(0, 1)).bfloat16()
    found, expected = node(neuron)(x), node(neuron)(x.float())
    assert (found.dtype, expected.dtype) == (torch.bfloat16, torch.float32)
    assert expected.max() >= 1
    agrees(found.float().numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("make", "name"), [(surrogate.atan, "ATan"), (surrogate.sigmoid, "Sigmoid")], ids=["atan", "sigmoid"]
)
@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_surrogates_are_spikingjellys(make, name, alpha):
    import torch  # pyright: ignore[reportMissingImports]
    from spikingjelly.activation_based import surrogate as surrogates  # pyright: ignore[reportMissingImports]

    x = torch.linspace(-3, 3, 101, requires_grad=True)
    getattr(surrogates, name)(alpha)(x).sum().backward()
    assert x.grad is not None
    expected = x.grad.numpy()
    found = make(alpha).derivative(jnp.asarray(x.detach().numpy()))
    agrees(found, expected, rtol=1e-5, atol=1e-6, name=f"SpikingJelly's {make.__name__}")


def test_a_training_in_spikingjelly_writes_what_time_to_accuracy_reads(monkeypatch, tmp_path):
    """In a run directory that is not there yet; random images, so that nothing is said about the accuracy."""
    script = importlib.import_module("spikingjelly_run")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 32, 32, 3), np.uint8), np.arange(40) % 10
    data = from_arrays(train=(images, labels), test=(images[:10], labels[:10]), validation_fraction=0.25)
    monkeypatch.setattr(Config, "load_data", lambda _: data)
    monkeypatch.setattr(script.torch, "compile", lambda network: network)  # which takes a minute
    options = {"student": "vgg11", "width": 0.0625, "preset": "none", "epochs": 2, "batch_size": 8, "num_steps": 2}
    run_dir = tmp_path / "runs" / "new"
    config = default_config("cifar10").replace(**options, warmup_epochs=0, run_dir=str(run_dir))
    assert script.main(config) == 0
    found = reached(run_dir, target=0.0)
    assert found["epochs"] == 1
    assert read_config(run_dir).flat() == config.checked().flat()
