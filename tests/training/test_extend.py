"""A finished training is continued: a warm restart of its optimiser, on the weights and batches where it ended."""

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from tiny_training import three_classes

from snnkd_jax import LIF, build, data, fit, load
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.errors import InputError
from snnkd_jax.parallel.mesh import data_mesh, put_batch, put_replicated
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.manifest import is_trained
from snnkd_jax.training.trainer import Trainer, variables_of

pytestmark = pytest.mark.usefixtures("silent_layers")

NETWORK = build("convnet", 3, width=0.1, neuron=LIF(), num_steps=2)
EPOCHS, STEPS = 2, 3  # epochs of the first training, and training steps of an epoch


@pytest.fixture(scope="module")
def images() -> data.Dataset:
    return three_classes()


def optimizer(num_steps: int, peak: float = 0.1) -> optax.GradientTransformation:
    return optax.sgd(optax.cosine_decay_schedule(peak, num_steps), momentum=0.9)


def train(images, run_dir=None, **options):
    options = {"epochs": EPOCHS, "batch_size": 8, "optimizer": optimizer} | options
    return fit(NETWORK, images, run_dir=run_dir, **options)


def leaves(variables) -> list[np.ndarray]:
    return jax.tree.leaves(jax.device_get(variables))


def assert_same(a, b) -> None:
    assert all(map(np.array_equal, leaves(a), leaves(b)))


@pytest.fixture
def finished(images, tmp_path) -> Path:
    train(images, tmp_path / "run")
    return tmp_path / "run"


def by_hand(images, *extensions: int):
    """The steps, one after another, with an optimiser per part; batches are those of the whole training."""
    mesh, inputs = data_mesh(), images.inputs(8, 0)
    assert inputs.training.steps_per_epoch == STEPS
    state, step = None, 0
    for epochs in (EPOCHS, *extensions):
        rule = optimizer(epochs * STEPS)
        trainer = Trainer(NETWORK, PRESETS["none"], rule, images.normalisation, None, images.image_shape, seed=0)
        steps = compile_steps(trainer, mesh)
        state = (
            steps.init(None)
            if state is None
            else state._replace(opt_state=put_replicated(mesh, rule.init(state.params)))
        )
        for step in range(step, step + epochs * STEPS):  # noqa: B020
            state, _ = steps.train(state, {}, put_batch(mesh, inputs.training(step)))
        step += 1
    assert state is not None
    return variables_of(state)


@pytest.mark.slow
def test_it_is_a_warm_restart_to_the_bit(images, finished):
    before = json.loads((finished / "result.json").read_text())
    extended = train(images, finished, extend=3)
    assert_same(extended.variables, by_hand(images, 3))
    assert [entry["epoch"] for entry in extended.history] == [1, 2, 3, 4, 5]
    assert [entry["epoch"] for entry in load(finished).history] == [1, 2, 3, 4, 5]
    assert json.loads((finished / "result-2-epochs.json").read_text()) == before
    assert_same(train(images, finished, extend=3).variables, extended.variables)  # loaded, not extended again
    again = train(images, finished, extend=4)
    assert_same(again.variables, by_hand(images, 3, 1))


@pytest.mark.slow
def test_an_interrupted_extension_is_resumed_to_the_same_bits(images, finished):
    class Stop(Exception):
        pass

    def stop(entry):
        if entry["epoch"] == 4:
            raise Stop

    with pytest.raises(Stop):
        train(images, finished, extend=3, callbacks=[stop])
    assert not is_trained(finished / "student")
    with pytest.raises(InputError, match="resume"):
        load(finished)
    assert_same(train(images, finished, extend=3).variables, by_hand(images, 3))


@pytest.mark.slow
def test_the_schedule_may_change_and_nothing_else(images, finished, tmp_path):
    config = (finished / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"batch_size \(was 8, is 16\)"):
        train(images, finished, extend=1, batch_size=16)
    assert (finished / "config.json").read_bytes() == config
    train(images, finished, extend=1, optimizer=lambda n: optimizer(n, peak=0.01))
    with pytest.raises(InputError, match=r"extend \(was 1, is 0\)"):
        train(images, finished)
    with pytest.raises(InputError, match="no run to extend"):
        train(images, tmp_path / "none", extend=1)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_what_is_not_finished_is_not_extended(images, finished):
    train(images, finished, extend=2)
    with pytest.raises(InputError, match="extended by 2 already"):
        train(images, finished, extend=1)
    (finished / "result.json").unlink()
    with pytest.raises(InputError, match="not finished"):
        train(images, finished, extend=3)
    with pytest.raises(InputError, match="name its run_dir"):
        train(images, extend=3)
    with pytest.raises(InputError, match="extend=-1"):
        train(images, finished, extend=-1)
