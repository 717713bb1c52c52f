"""Presets on features do not diverge at the default learning rate, with a teacher as narrow as the student."""

import functools

import numpy as np
import pytest

from snnkd_jax import data
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.fitting import fit
from snnkd_jax.models import build


@functools.cache
def teacher():
    return fit(build("convnet", 10, width=0.25), data.load("digits"), epochs=3, batch_size=64)


@pytest.mark.slow
@pytest.mark.usefixtures("silent_layers")
@pytest.mark.parametrize("preset", ["sakd", "bkdsnn", "esd"])
def test_a_few_epochs_do_not_diverge(preset):
    """`sakd` reached infinity in its fourth epoch when its weight was for 64 channels and more."""
    network = build("convnet", 10, neuron=LIF(), num_steps=2, width=0.25)
    objective = PRESETS[preset]
    student = fit(
        network,
        data.load("digits"),
        teacher=teacher() if objective.needs_teacher else None,
        objective=objective,
        epochs=6,
        batch_size=64,
    )
    losses = [epoch["loss"] for epoch in student.history]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    assert student.history[-1]["accuracy"] > 0.5
