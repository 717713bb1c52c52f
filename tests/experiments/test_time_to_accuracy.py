"""The script that compares training times, on runs whose logs are made up."""

import json

import pytest
import time_to_accuracy

from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json
from snnkd_jax.runs.config import default_config
from snnkd_jax.runs.run_dir import open_run_dir


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Makes a run with these options whose epochs take `seconds` each and have these accuracies."""
    monkeypatch.setattr(time_to_accuracy, "RESULTS", tmp_path)

    def make(name, seconds, accuracies, **options):
        directory = tmp_path / name
        directory.mkdir()
        config = default_config("digits").replace(preset="none", **options)
        open_run_dir(directory, {"config": config.flat()}, {})
        entries = [
            {"phase": "student", "epoch": i + 1, "seconds": seconds, "validation": {"accuracy": accuracy}}
            for i, accuracy in enumerate(accuracies)
        ]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        (directory / "result.json").write_text(json.dumps({"test_accuracy": {"student": accuracies[-1]}}))
        return directory

    return make


INTEGER = {"neuron": "ilif", "levels": 4, "num_steps": 1, "v_reset": None}


def test_the_record_by_hand(run, tmp_path):
    """Two epochs of 5 s and three of 7 s to 60 %."""
    integer = run("a", 5.0, [0.5, 0.6, 0.7], **INTEGER, seed=0), run("b", 7.0, [0.1, 0.2, 0.6], **INTEGER, seed=1)
    theirs = (run("c", 20.0, [0.6, 0.65], num_steps=4, v_reset=None),)
    time_to_accuracy.main(0.6, "d", integer=integer, spikingjelly=theirs, record="x")
    record = read_json(tmp_path / "x.json")
    assert record["command"] == (
        "python experiments/time_to_accuracy.py --integer RUN ... --spikingjelly RUN ... --target 0.6 --dataset 'd'"
    )
    assert record["time_steps"] == {"snnkd_jax, integer": "1 x 4", "SpikingJelly, compiled": "4"}
    assert {name: found["seconds"] for name, found in record["found"].items()} == {
        "snnkd_jax, integer": [10.0, 21.0],
        "SpikingJelly, compiled": [20.0],
    }
    assert record["seeds"]["snnkd_jax, integer"] == [0, 1]
    assert record["test_accuracy"] == {"snnkd_jax, integer": [0.7, 0.6], "SpikingJelly, compiled": [0.65]}
    ours, theirs = record["run_commands"].values()
    assert ours.startswith("snnkd train --dataset digits")
    assert theirs.startswith("python experiments/spikingjelly_run.py --dataset digits")


@pytest.mark.parametrize(
    ("option", "options", "message"),
    [
        ("integer", ({},), "integer: a run has neuron='lif'; give runs with 'ilif'"),
        ("rate", ({"backprop": "bptt"},), "rate: a run has backprop='bptt'; give runs with 'rate'"),
        ("bptt", ({"num_steps": 2}, {"num_steps": 8}), r"bptt differ in num_steps \(2, 8\)"),
        ("bptt", (), "no runs"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(run, tmp_path, option, options, message):
    runs = tuple(run(str(i), 1.0, [0.5, 0.6], **each) for i, each in enumerate(options))
    with pytest.raises(InputError, match=message):
        time_to_accuracy.main(0.6, "d", record="x", **{option: runs})  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "x.json").exists()


def test_groups_of_runs_have_the_same_recipe(run):
    ours, theirs = run("a", 1.0, [0.5, 0.6], **INTEGER), run("b", 1.0, [0.5, 0.6], width=0.5, v_reset=None)
    with pytest.raises(InputError, match="runs differ in width"):
        time_to_accuracy.main(0.6, "d", integer=(ours,), spikingjelly=(theirs,))
