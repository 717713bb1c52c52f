"""`snnkd energy`, on networks that were not trained."""

import dataclasses
import functools
import json

import jax
import pytest
from records.energy import energy_section
from representative import slow

from snnkd_jax import data
from snnkd_jax.cli.energy import energy
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_sealed
from snnkd_jax.inference import trained as loading
from snnkd_jax.inference.trained import Trained
from snnkd_jax.report.energy import energy_rows
from snnkd_jax.runs.config import default_config
from snnkd_jax.training.manifest import Manifest


@functools.cache
def trained(spiking, width=0.1, **options):
    config = default_config("digits").replace(teacher="convnet", student="convnet", width=width, teacher_width=None)
    config = config.replace(**options)
    network = config.build_student(10) if spiking else config.build_teacher(10)
    variables = network.init(jax.random.key(0), (8, 8, 1))
    names = tuple("0123456789")
    return Trained(network, variables, Normalisation((0.3,), (0.2,)), (8, 8, 1), names, "digits")


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The folder of two runs: the teacher is twice as wide as the student, that of the run "ann" is the same."""
    networks = {
        ("run", "teacher"): trained(False, width=0.2),
        ("run", "student"): dataclasses.replace(trained(True), result={"accuracy": 0.9}),
        ("ann", "teacher"): trained(False),
    }
    for run, role in networks:
        (tmp_path / run / role).mkdir(parents=True)
        Manifest(None, role, {}).write(tmp_path / run / role)
        config = default_config("digits").flat() | {"teacher_checkpoint": f"{tmp_path}/x"}
        write_sealed(tmp_path / run / "config.json", {"config": config})
    monkeypatch.setattr(loading, "load", lambda run, role: networks[run.name, role])
    return tmp_path


def test_prints_and_records(runs, capsys):
    energy(runs / "run", against=runs / "ann", images=30, batch_size=15, record=runs / "energy" / "x.json")
    shown = capsys.readouterr().out
    assert "teacher: convnet, width 0.2, an ANN" in shown
    assert "of the non-zero operations of the trained ANN, ann" in shown
    assert shown.count("of all operations of an ANN of this architecture") == 1
    text = (runs / "energy" / "x.json").read_text()
    assert str(runs) not in text
    record = json.loads(text)
    assert record["command"].startswith("snnkd energy RUN --against ANN --images 30 ")
    assert record["run_command"].startswith("snnkd train --dataset digits")
    assert list(record["networks"]) == ["teacher", "student", "ann"]
    assert {role: n["ann"] for role, n in record["networks"].items()} == {
        "teacher": "teacher",
        "student": "ann",
        "ann": "ann",
    }
    student = record["networks"]["student"]
    assert student["test_accuracy"] == 0.9
    assert student["num_steps"] == 2
    assert student["macs"] == pytest.approx(
        sum(layer["effective"] for layer in student["layers"] if layer["operations"] == "MAC")
    )
    assert record.keys() >= {"versions", "hardware", "commit", "date", "images", "mac_pj", "ac_pj"}
    rows = [line for line in energy_section([record]).splitlines() if line.startswith("| digits |")]
    assert len(rows) == 3
    kept = json.loads((runs / "run" / "energy.json").read_text())
    assert kept == record | {"name": "energy"}


def test_the_result_goes_elsewhere(runs, tmp_path):
    energy(runs / "run", images=15, batch_size=15, out=tmp_path / "elsewhere")
    assert json.loads((tmp_path / "elsewhere" / "energy.json").read_text())["images"] == 15
    assert not (runs / "run" / "energy.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["max", slow("avg")])
def test_integer_neurons_are_counted_in_binary_substeps(runs, monkeypatch, capsys, pool):
    """Beside the ANN; with means of spikes, in integers, and the reason is said."""
    student, ann = (
        trained(spiking, pool=pool, teacher_pool=pool, neuron="ilif", levels=3) for spiking in (True, False)
    )
    monkeypatch.setattr(loading, "load", lambda _, role: student if role == "student" else ann)
    energy(runs / "run", images=20)
    shown, record = capsys.readouterr().out, json.loads((runs / "run" / "energy.json").read_text())
    found = record["networks"]["student"]
    assert (found["num_steps"], found["levels"], found["ann"]) == (2, 3, "teacher")
    assert "T x D = 2 x 3" in shown
    assert [row[2] for row in energy_rows(record)] == ["–", "2 x 3"]
    counted = {layer["name"]: (layer["operations"], layer["steps"]) for layer in found["layers"]}
    if pool == "max":
        assert counted == {"conv1": ("MAC", 1), "conv2": ("AC", 6), "hidden": ("AC", 6), "head": ("AC", 6)}
    else:
        assert "student: counted in integers" in shown
        assert counted["conv2"] == ("MAC", 2)


@pytest.mark.slow
def test_counts_a_student_at_another_number_of_steps(runs, monkeypatch):
    """The accuracy is that by as many steps, and operations on spikes grow with T."""
    digits, student, records = data.load("digits"), trained(True), []
    strong = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(3), x.shape), student.variables["params"])
    student = dataclasses.replace(student, variables=student.variables | {"params": strong})
    of_run = loading.load
    monkeypatch.setattr(loading, "load", lambda *key: student if key[1] == "student" else of_run(*key))
    logits = student.with_steps(5).apply(student.variables, student.normalisation(digits.test_images))[0]
    right = [(logits[:, :t].mean(1).argmax(-1) == digits.test_labels).mean() for t in (2, 5)]
    assert right[0] != right[1]
    for num_steps in (None, 5):
        energy(runs / "run", num_steps=num_steps, images=30, record=runs / "energy" / "x.json")
        record = json.loads((runs / "energy" / "x.json").read_text())
        records.append(record["networks"])
    assert " RUN --num-steps 5 --images 30 " in record["command"]
    assert records[1]["student"]["test_accuracy"] == pytest.approx(right[1])
    assert records[0]["student"]["acs"] < records[1]["student"]["acs"]
    assert (records[1]["student"]["num_steps"], records[1]["teacher"]) == (5, records[0]["teacher"])


def test_refuses_what_it_cannot_count(runs):
    with pytest.raises(InputError, match="images=0"):
        energy(runs / "run", images=0)
    with pytest.raises(InputError, match="num_steps=0"):
        energy(runs / "run", num_steps=0)
    with pytest.raises(InputError, match="no network"):
        energy(runs)
    with pytest.raises(InputError, match=r"against=.*run: its teacher is of none of the architectures"):
        energy(runs / "run", against=runs / "run", images=15, batch_size=15)
