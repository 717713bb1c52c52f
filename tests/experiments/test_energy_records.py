"""What is said of energy, by hand, and the script that counts it, on networks that were not trained."""

import dataclasses
import functools
import json

import energy as energy_script
import figure_energy
import jax
import pytest
from matplotlib.figure import Figure
from records.energy import energy_section

from snnkd_jax import data
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError
from snnkd_jax.inference.trained import Trained
from snnkd_jax.runs.config import default_config


@functools.cache
def trained(spiking, width=0.1):
    config = dataclasses.replace(
        default_config("digits"), teacher="convnet", student="convnet", width=width, teacher_width=None
    )
    network = config.build_student(10) if spiking else config.build_teacher(10)
    variables = network.init(jax.random.key(0), (8, 8, 1))
    names = tuple("0123456789")
    return Trained(network, variables, Normalisation((0.3,), (0.2,)), (8, 8, 1), names, "digits", config)


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script and a run of it: the teacher is twice as wide as the student, that of the run "ann" is the same."""
    networks = {
        ("run", "teacher"): trained(False, width=0.2),
        ("run", "student"): trained(True),
        ("ann", "teacher"): trained(False),
    }
    for run, role in networks:
        (tmp_path / run / role).mkdir(parents=True)
        (tmp_path / run / role / "network.json").touch()
        config = dataclasses.asdict(default_config("digits")) | {"teacher_checkpoint": f"{tmp_path}/x"}
        (tmp_path / run / "config.json").write_text(json.dumps({"config": config}))
    accuracy = {"teacher": 0.98, "student_baseline": None, "student": 0.9}
    (tmp_path / "run" / "result.json").write_text(json.dumps({"test_accuracy": accuracy}))
    monkeypatch.setattr(energy_script, "load_trained", lambda run, role: networks[run.name, role])
    monkeypatch.setattr(energy_script, "RESULTS", tmp_path / "energy")
    return energy_script


def test_script_prints_and_records(script, tmp_path, capsys):
    script.main(tmp_path / "run", against=tmp_path / "ann", images=30, batch_size=15, record="x")
    shown = capsys.readouterr().out
    assert "teacher: convnet, width 0.2, an ANN" in shown
    assert "of those of the trained ANN of this architecture, ann, that are not zero" in shown
    assert shown.count("of all operations of an ANN of this architecture") == 1
    text = (tmp_path / "energy" / "x.json").read_text()
    assert str(tmp_path) not in text
    record = json.loads(text)
    assert record["command"].startswith("python experiments/energy.py RUN --against ANN --images 30 ")
    assert record["run_command"].startswith("python experiments/cifar_distill.py --dataset digits")
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
    kept = json.loads((tmp_path / "run" / "energy.json").read_text())
    assert kept == record | {"name": "energy"}


def test_script_counts_a_student_at_another_number_of_steps(script, monkeypatch, tmp_path):
    """The accuracy is that by as many steps, and operations on spikes grow with T."""
    digits, student, records = data.load("digits"), trained(True), []
    strong = jax.tree.map(lambda x: x + jax.random.normal(jax.random.key(3), x.shape), student.variables["params"])
    student = dataclasses.replace(student, variables=student.variables | {"params": strong})
    of_run = script.load_trained
    monkeypatch.setattr(script, "load_trained", lambda *key: student if key[1] == "student" else of_run(*key))
    logits = student.with_steps(5).apply(student.variables, student.normalisation(digits.test_images))[0]
    right = [(logits[:, :t].mean(1).argmax(-1) == digits.test_labels).mean() for t in (2, 5)]
    assert right[0] != right[1]
    for num_steps in (None, 5):
        script.main(tmp_path / "run", num_steps=num_steps, images=30, record="x")
        record = json.loads((tmp_path / "energy" / "x.json").read_text())
        records.append(record["networks"])
    assert " RUN --num-steps 5 --images 30 " in record["command"]
    assert records[1]["student"]["test_accuracy"] == pytest.approx(right[1])
    assert records[0]["student"]["acs"] < records[1]["student"]["acs"]
    assert (records[1]["student"]["num_steps"], records[1]["teacher"]) == (5, records[0]["teacher"])


def test_script_refuses_what_it_cannot_count(script, tmp_path):
    with pytest.raises(InputError, match="images=0"):
        script.main(tmp_path / "run", images=0)
    with pytest.raises(InputError, match="num_steps=0"):
        script.main(tmp_path / "run", num_steps=0)
    with pytest.raises(InputError, match="no network"):
        script.main(tmp_path)
    with pytest.raises(InputError, match=r"against=.*run: its teacher is of none of the architectures"):
        script.main(tmp_path / "run", against=tmp_path / "run", images=15, batch_size=15)


def test_readme_section_and_figure():
    """Energies by hand: 10 M MACs and 20 M ACs are 46 + 18 = 64 µJ."""
    snn = {"model": "vgg11", "width": 0.25, "num_steps": 4, "test_accuracy": 0.9123, "ann": "ann", "dense_pass": 20e6}
    snn |= {"macs": 10e6, "acs": 20e6, "estimate": [1e6, 20e6]}
    ann = snn | {"num_steps": None, "test_accuracy": None, "macs": 16e6, "acs": 0.0, "estimate": [20e6, 0.0]}
    record = {
        "name": "x",
        "dataset": "cifar10",
        "networks": {"student_baseline": snn | {"ann": None}, "student": snn, "ann": ann},
        "config": {"dataset": "cifar10", "preset": "kdsnn"},
        "mac_pj": 4.6,
        "ac_pj": 0.9,
        "images": 1000,
        "command": "python experiments/energy.py RUN",
        "run_command": "python a",
        "ann_command": "python b",
        "hardware": "2 x Somebody's",
        "versions": {"jax": "0.10.2"},
    }
    rows = energy_section([record]).splitlines()[4:7]
    name, numbers = "| cifar10 | vgg11, width 0.25,", "| 10.0 | 20.0 | 64.0 |"
    assert rows == [
        f"{name} student without KD | 4 | 91.23 {numbers} – | 22.6 | 0.25 |",
        f"{name} student, kdsnn | 4 | 91.23 {numbers} 0.87 | 22.6 | 0.25 |",
        f"{name} ANN | – | – | 16.0 | 0 | 73.6 | 1.00 | 92.0 | 1.00 |",
    ]
    assert "4.6 pJ a MAC and 0.9 pJ an AC" in energy_section([record])
    assert "definition, 1 of the 1 spiking networks" in energy_section([record])
    costly = record | {"networks": record["networks"] | {"ann": ann | {"macs": 13e6}}}
    assert "definition, 0 of the 1 spiking networks" in energy_section([costly])
    assert energy_section([]) == ""
    axes = Figure().subplots()
    figure_energy.draw_bars(axes, record)
    macs, acs = ([round(bar.get_width(), 3) for bar in bars] for bars in axes.containers)
    assert (macs, acs) == ([73.6, 46.0, 46.0], [0.0, 18.0, 18.0])
    assert [label.get_text() for label in axes.texts] == [" 73.6", " 64", " 64"]
    assert (
        "student without KD | 4"
        in energy_section([record | {"config": {"dataset": "cifar10", "preset": "none"}}]).splitlines()[5]
    )
