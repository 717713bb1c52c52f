"""Recipes: the options of a published training as defaults, and a run with them, interrupted and resumed."""

import json

import jax
import numpy as np
import pytest
from tiny_runs import refused

from snnkd_jax import data, load
from snnkd_jax.cli.arguments import parse
from snnkd_jax.cli.train import main, train
from snnkd_jax.data.arrays import from_arrays
from snnkd_jax.errors import InputError
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import RECIPES, config_of, default_config
from snnkd_jax.runs.run_dir import run_directory
from snnkd_jax.training.interrupt import StopRequest

pytestmark = pytest.mark.usefixtures("silent_layers")


def parsed(*words: str):
    return parse(train, words).keywords["config"]


@pytest.mark.parametrize("words", [["--recipe", "airbench"], ["--recipe=airbench"]])
def test_a_recipe_sets_defaults_over_those_of_the_data_set(words):
    config = parsed("--dataset", "cifar10", *words)
    assert config.flat() == default_config("cifar10").flat() | RECIPES["airbench"] | {"recipe": "airbench"}
    assert config == default_config("cifar10", "airbench")


def test_options_on_the_command_line_win():
    config = parsed("--recipe", "airbench", "--learning-rate", "0.5", "--no-alternate-flip", "--epochs", "3")
    changed = {"learning_rate": 0.5, "alternate_flip": False, "epochs": 3}
    assert config == default_config("cifar10", "airbench").replace(**changed)


def test_the_constants_are_those_of_the_publication():
    """Per example and kilostep: 11.5 and 0.0153 for a summed loss, divided by 1 + 1 / (1 - 0.85) = 7.67."""
    found = default_config("cifar10", "airbench").optimisation
    assert found.peak_learning_rate == pytest.approx(11.5 / (1 + 1 / 0.15))
    assert found.peak_learning_rate * found.weight_decay == pytest.approx(0.0153 / (1 + 1 / 0.15))


def test_without_a_recipe_nothing_has_changed():
    """Names of run directories, which have a digest of the options, and configurations that were saved before it."""
    assert str(run_directory(default_config("cifar10"))) == "runs/cifar10-resnet18-kdsnn-feature-t4-seed0"
    changed = default_config("cifar10").replace(warmup_epochs=3)
    assert str(run_directory(changed)) == "runs/cifar10-resnet18-kdsnn-feature-t4-seed0-f445be"
    new = ("recipe", "schedule", "norm_bias_scale", "decay_biases", "whitening_bias_epochs", "lookahead")
    new += ("alternate_flip", "reflect_padding")
    saved = {name: value for name, value in default_config("digits").flat().items() if name not in new}
    assert config_of(saved, "here") == default_config("digits")


def test_a_run_with_a_recipe_has_a_directory_of_its_own_and_a_command():
    config = default_config("cifar10", "airbench").replace(seed=3, momentum=0.9)
    assert run_directory(config) != run_directory(default_config("cifar10").replace(seed=3, momentum=0.9))
    words = command(config)
    assert words == "snnkd train --dataset cifar10 --recipe airbench --momentum 0.9 --seed 3"
    assert parsed(*words.split()[2:]) == config


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--recipe", "airbensh"], ["recipe", "airbensh", "airbench"]),
        (["--recipe", "airbench", "--warmup-epochs", "2"], ["warmup_epochs=2", "triangle"]),
        (["--recipe", "airbench", "--no-flip"], ["alternate_flip=True", "flip=False"]),
        (["--recipe", "airbench", "--lookahead", "0"], ["lookahead=0"]),
        (["--whitening-bias-epochs", "-1"], ["whitening_bias_epochs=-1"]),
        (["--norm-bias-scale", "0"], ["norm_bias_scale=0.0"]),
        (["--schedule", "step"], ["schedule", "step", "cosine", "triangle"]),
    ],
)
def test_what_does_not_go_together_is_refused(words, told, capsys, tmp_path):
    message = refused(capsys, ["--dataset", "digits", *words, "--run-dir", str(tmp_path / "run")])
    assert all(part in message for part in told), message
    assert not (tmp_path / "run").exists()


def test_images_on_disk_do_not_alternate():
    with pytest.raises(InputError, match=r"alternate_flip=True.*read from disk"):
        default_config("imagenet2012").replace(alternate_flip=True).open_data()


def coloured(n: int = 96) -> data.Dataset:
    """Images of 32x32 whose colour tells the class, under the name of CIFAR-10."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, n)
    images = rng.random((n, 32, 32, 3)) / 2
    images[np.arange(n), :, :, labels] += 0.4
    names = ("red", "green", "blue")
    return from_arrays((images[32:], labels[32:]), (images[:32], labels[:32]), names, name="cifar10")


TINY = ["--dataset", "cifar10", "--recipe", "airbench", "--width", "0.1", "--batch-size", "16", "--epochs", "3"]
TINY += ["--teacher-epochs", "8", "--base-batch-size", "64", "--num-steps", "2", "--checkpoint-every", "3"]


@pytest.fixture
def tiny_cifar(monkeypatch):
    monkeypatch.setattr(data, "load", lambda *_, **__: coloured())


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_cifar")
def test_a_run_with_the_recipe_learns_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    """Stopped in the middle of an epoch, between two averages of lookahead."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    arguments = [*TINY, "--initial-weights", "teacher", "--preset", "temporal"]
    assert main([*arguments, "--run-dir", str(whole)]) == 0
    polls = iter(range(1000))
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "poll", lambda _: next(polls) >= 13)
        assert main([*arguments, "--run-dir", str(resumed)]) == 0
    assert not (resumed / "result.json").exists()
    assert main([*arguments, "--run-dir", str(resumed)]) == 0
    for role in ("teacher", "student"):
        a, b = (jax.tree.leaves(load(run, role).variables) for run in (whole, resumed))
        assert all(map(np.array_equal, a, b)), role
    result = json.loads((whole / "result.json").read_text())
    expected = default_config("cifar10", "airbench").replace(**options_of(arguments, whole)).flat()
    assert result["config"] == json.loads(json.dumps(expected))
    assert result["test_accuracy"]["teacher"] > 0.9
    filters = [load(whole, role).variables["params"]["whitening"]["conv"]["kernel"] for role in ("teacher", "student")]
    np.testing.assert_array_equal(*filters)
    np.testing.assert_array_equal(filters[0][..., :12], -filters[0][..., 12:])


def options_of(arguments, run_dir):
    """What the arguments say, without the recipe."""
    options = parsed(*arguments, "--run-dir", str(run_dir)).flat()
    return {name: options[name] for name in options if f"--{name.replace('_', '-')}" in [*arguments, "--run-dir"]}
