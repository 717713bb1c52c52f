"""The nested configuration: one name per option, the same flat and nested, and its lists of names are the library's."""

import dataclasses
import re
import shlex
from typing import Any

import jax.numpy as jnp
import optax
import pytest

from snnkd_jax.cli.arguments import parse
from snnkd_jax.cli.train import train
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.dynamics.neurons import ILIF, NEURONS
from snnkd_jax.dynamics.surrogate import SURROGATES
from snnkd_jax.errors import InputError
from snnkd_jax.models import MODELS
from snnkd_jax.runs import models, objective
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config, config_of, default_config
from snnkd_jax.runs.optimisation import OptimisationConfig
from snnkd_jax.runs.run_dir import run_directory


def test_names_known_without_jax_are_those_of_the_library():
    assert set(models.MODELS) == set(MODELS)
    assert set(objective.PRESETS) == set(PRESETS)
    for name in NEURONS:
        default_config("digits").replace(neuron=name).neuron.check()
    for name in SURROGATES:
        default_config("digits").replace(surrogate=name).neuron.check()
    with pytest.raises(InputError, match="atan"):
        default_config("digits").replace(surrogate="atn").neuron.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neuron": "lif", "levels": 4}, "levels=4.*neuron='ilif'"),
        ({"neuron": "ilif", "levels": 0}, "levels=0"),
        ({"neuron": "ilif", "levels": 300}, "levels=300.*256"),
        ({"neuron": "ilif", "v_reset": -1.0}, "v_reset=-1.0.*None"),
        ({"neuron": "ilif", "surrogate": "sigmoid"}, "surrogate='sigmoid'.*leave it out"),
        ({"neuron": "ilif", "surrogate_alpha": 3.0}, "surrogate_alpha=3.0.*leave it out"),
    ],
)
def test_options_of_integer_neurons_that_do_not_go_together(options, message):
    with pytest.raises(InputError, match=message):
        default_config("digits").replace(**options).checked()


def test_integer_neurons_count_their_levels_as_time_steps():
    config = default_config("digits").replace(neuron="ilif", num_steps=1, v_reset=None).checked()
    assert (config.time_steps, config.replace(levels=8).time_steps) == ("T x D = 1 x 4", "T x D = 1 x 8")
    assert (config.neuron.build(), config.replace(levels=8).neuron.build()) == (ILIF(4), ILIF(8))
    assert config.replace(neuron="lif").time_steps == "T = 1"


def test_options_have_one_name_each_and_are_the_same_flat_and_nested():
    config = default_config("digits").replace(tau=3.0, seed=7, preset="tet", width=0.5)
    sections = [getattr(config, field.name) for field in dataclasses.fields(config)]
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(set(names)) == len(names) == len(config.flat())
    assert (config.neuron.tau, config.run.seed, config.objective.preset, config.student.width) == (3.0, 7, "tet", 0.5)
    assert config_of(config.flat(), "here") == config
    with pytest.raises(TypeError, match="colour"):
        config.replace(colour="red")
    with pytest.raises(InputError, match="here"):
        config_of({"dataset": "digits", "colour": "red"}, "here")


def test_noise_of_students_is_in_the_command_and_in_the_method():
    """And changes the name of a run, which is what it was without."""
    config = default_config("digits").replace(student_noise=["blur:2", "none"])
    line = command(config)
    assert line == "snnkd train --dataset digits --student-noise blur:2 none --seed 0"
    assert parse(train, shlex.split(line)[2:]).keywords["config"] == config
    assert config.method == "temporal, noise blur:2 none"
    plain = config.replace(student_noise=())
    assert (plain.method, run_directory(plain).name) == ("temporal", "digits-convnet-temporal-t2-seed0")
    assert run_directory(config).name.startswith("digits-convnet-temporal-t2-seed0-")
    with pytest.raises(InputError, match="student_noise='jpeg:2'"):
        config.replace(student_noise=["jpeg:2"]).checked()


def test_what_is_published_has_no_path_of_this_machine():
    paths = {"data_dir": "/here/data", "run_dir": "/here/run", "store_teacher": "/here/store"}
    names = {"teacher": "torch:/here/net.pt", "teacher_checkpoint": "/here/teacher"}
    published = default_config("mnist").replace(**paths, **names).published()
    assert "here" not in str(published.flat())
    assert (published.teacher.teacher, published.teacher.teacher_checkpoint) == ("torch:net.pt", "teacher")


def test_every_option_is_a_flag():
    for name, value in Config().flat().items():
        if name in ("dataset", "distributed") or value is None:
            continue
        flag = f"--{name.replace('_', '-')}"
        values = map(str, value if isinstance(value, tuple) else [value])
        words = [flag if value else flag.replace("--", "--no-", 1)] if isinstance(value, bool) else [flag, *values]
        found = parse(train, ["--dataset", "cifar10", *words]).keywords["config"]
        assert found == default_config("cifar10"), name


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"feature_weight": 100.0}, ["feature_weight=100", "0.1", "=3.4 or less", "=0.00", "clip_norm=1"]),
        ({"learning_rate": 1.0}, ["feature_weight=1.56", "rate of 1", "learning_rate=0.22"]),
        ({"base_batch_size": 10, "batch_size": 100}, ["rate of 1", "learning_rate=0.022"]),
        ({"momentum": 0.0, "feature_weight": 10.0}, ["momentum=0 ", "is 2 or more", "feature_weight=5 or less"]),
    ],
)
def test_what_must_diverge_is_refused_with_what_does_not(change, told):
    config = default_config("digits").replace(preset="sakd", **change)
    with pytest.raises(InputError) as error:
        config.checked()
    assert all(part in str(error.value) for part in told), error.value
    advice = dict(re.findall(r"(\w+)=([\d.e-]+) or less", str(error.value)))
    assert advice.keys() == {"feature_weight", "learning_rate"}
    for name, value in {**advice, "clip_norm": 1.0}.items():
        config.replace(**{name: float(value)}).checked()
    config.replace(optimizer="adamw").checked()
    default_config("digits").replace(preset="sakd").checked()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_the_limit_is_that_of_the_optimiser(momentum):
    """A parabola of curvature 1, just below the limit and just above it."""
    limit = 2 * (1 + momentum) / (1 + 2 * momentum)
    for factor in (0.98, 1.02):
        rule = optax.sgd(factor * limit, momentum=momentum, nesterov=True)
        x: Any = jnp.ones(())
        state = rule.init(x)
        for _ in range(600):
            update, state = rule.update(x, state)
            x = optax.apply_updates(x, update)
        assert (abs(float(x)) < 1) == (factor < 1)
        config = OptimisationConfig(momentum=momentum, learning_rate=factor * limit)
        objective = PRESETS["sakd"].with_weights({"feature": 0.5})  # of curvature 2
        if factor < 1:
            config.check_stable(objective)
        else:
            with pytest.raises(InputError, match=r"feature_weight=0.5"):
                config.check_stable(objective)
