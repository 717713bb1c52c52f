"""Training on all images, with `validation_fraction=0`: nothing is held out, and nothing pretends to be."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from test_fit import DATA, IMAGES, LABELS, SMALL, spiking

import snnkd_jax as kd
from snnkd_jax.cli import main as snnkd
from snnkd_jax.experiment import run
from snnkd_jax.files import read_sealed, write_sealed
from snnkd_jax.report.write import write_report
from snnkd_jax.runs.config import default_config
from snnkd_jax.runs.teacher import split_warning

pytestmark = pytest.mark.usefixtures("silent_layers")
WHOLE = dataclasses.replace(DATA, validation_fraction=0)


@pytest.mark.slow
def test_all_images_are_trained_on_and_no_validation_is_reported(tmp_path, capsys):
    """Log, line of progress, result, report of the run, and its comparison with a run that has a validation split."""
    options = {**SMALL, "batch_size": 88, "run_dir": tmp_path / "whole"}  # of 90 images; 81 would not do
    trained = kd.fit(spiking(), WHOLE, **options)
    assert "val accuracy" not in capsys.readouterr().out
    log = tmp_path / "whole" / "metrics.jsonl"
    (logged,) = map(json.loads, log.read_text().splitlines())
    assert [logged] == list(trained.history)
    assert "validation" not in logged
    assert trained.test_accuracy == pytest.approx((trained.predict(IMAGES[90:]).classes == LABELS[90:]).mean())
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "in training; none is held out" in page
    assert "on the validation split, and" not in page

    shutil.copytree(tmp_path / "whole", tmp_path / "split")
    validation = {"accuracy": 0.625, "loss": 1.5, "firing_rate": 0.25}
    (tmp_path / "split" / "metrics.jsonl").write_text(json.dumps(logged | {"validation": validation}))
    config = read_sealed(tmp_path / "split" / "config.json")
    config["fit"]["validation_fraction"] = 0.1
    write_sealed(tmp_path / "split" / "config.json", config)
    text = write_report([tmp_path / "whole", tmp_path / "split"], tmp_path / "both.html").read_text()
    assert "validation accuracy, %, mean and standard deviation over runs. At the end: recipe 2 62.5." in text


def test_a_foreign_teacher_is_checked_on_training_images(tmp_path):
    guess = kd.Teacher(lambda _, x: x.mean(axis=(1, 2)) * np.zeros(10, np.float32), name="guess")
    config = default_config("digits").replace(validation_fraction=0.0, run_dir=str(tmp_path / "run"), width=0.1)
    with pytest.raises(kd.InputError, match=r"guess.*: training accuracy 0\.\d+ is near chance, 0\.1"):
        run(config, guess)
    assert not (tmp_path / "run").exists()


def test_what_needs_a_validation_split_says_so(tmp_path, capsys, monkeypatch):
    config = default_config("digits").replace(validation_fraction=0.0)
    monkeypatch.setattr("snnkd_jax.runs.recipe.seeds_of_one_recipe", lambda *_: [(config, tmp_path)])
    (tmp_path / "student").mkdir()
    assert snnkd(["steps", str(tmp_path), "--dataset", "digits"]) == 2
    error = capsys.readouterr().err
    assert "validation_fraction=0" in error
    assert error.count("\n") == 1


def test_no_split_is_warned_of_where_none_is_held_out(monkeypatch):
    whole, split = (default_config("digits").replace(validation_fraction=fraction, seed=1) for fraction in (0.0, 0.1))
    monkeypatch.setattr("snnkd_jax.runs.teacher.run_of_teacher", lambda _: default_config("digits"))
    assert split_warning(whole) is None
    monkeypatch.setattr("snnkd_jax.runs.teacher.run_of_teacher", lambda _: whole)
    assert "validation_fraction=0" in str(split_warning(split))
