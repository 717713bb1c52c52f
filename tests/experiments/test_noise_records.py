"""What a record of noise makes of its reports, by hand, and the script that measures them."""

import dataclasses
import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest
import robustness as noise_script
from records.noise import noise_section

from snnkd_jax.analysis.corruptions import IMAGE_LEVELS
from snnkd_jax.analysis.robustness import LEVELS
from snnkd_jax.errors import InputError
from snnkd_jax.report.noise import in_words, noise_table, summarise
from snnkd_jax.runs.config import default_config

ROOT = Path(__file__).parents[2]


def report_of(clean, means, undefined=()):
    """A report whose accuracy is the same at all levels of a kind."""
    kinds = {
        kind: None if kind in undefined else {"accuracy": [clean, *[mean] * 5], "mean": mean, "drop": clean - mean}
        for kind, mean in means.items()
    }
    whole = None if undefined else statistics.fmean(means.values())
    return {"clean": clean, "kinds": kinds, "mean": {"image": 0.5, "layer": None, "all": whole}}


REPORTS = {
    "teacher": [report_of(0.95, {"blur": 0.6, "spike_deletion": 0.0}, ["spike_deletion"])] * 2,
    "student_baseline": [report_of(0.90, {"blur": a, "spike_deletion": 0.4}) for a in (0.50, 0.52)],
    "student": [report_of(0.92, {"blur": a, "spike_deletion": 0.3}) for a in (0.56, 0.60)],
}


def test_summary_over_seeds_by_hand():
    """Blur gains 0.06 and 0.08, deletion loses 0.1: the seeds' mean gains are -0.02 and -0.01."""
    found = summarise(REPORTS)
    blur = found["networks"]["student"]["kinds"]["blur"]
    assert blur["mean"]["values"] == [0.56, 0.60]
    assert blur["mean"]["std"] == pytest.approx(0.04 / 2**0.5)
    assert blur["accuracy"][0]["mean"] == pytest.approx(0.92)
    assert blur["drop"]["mean"] == pytest.approx(0.34)
    assert found["networks"]["teacher"]["kinds"]["spike_deletion"] is None
    assert found["comparison"]["better"] == ["blur"]
    assert found["comparison"]["kinds"] == ["blur", "spike_deletion"]
    assert found["comparison"]["gain"]["values"] == pytest.approx([-0.02, -0.01])
    assert found["comparison"]["clean_gain"]["mean"] == pytest.approx(0.02)
    assert summarise({"student": REPORTS["student"]})["comparison"] is None


def test_table_has_a_row_a_kind_and_the_gain():
    record = summarise(REPORTS)
    rows = noise_table(record).splitlines()
    assert rows[0] == "| noise | teacher | student without KD | student with KD | gain by KD |"
    assert rows[2:5] == [
        "| none | 95.00 ± 0.00 | 90.00 ± 0.00 | 92.00 ± 0.00 | +2.00 ± 0.00 |",
        "| blur | 60.00 ± 0.00 | 51.00 ± 1.41 | 58.00 ± 2.83 | +7.00 ± 1.00 |",
        "| spike deletion | – | 40.00 ± 0.00 | 30.00 ± 0.00 | -10.00 ± 0.00 |",
    ]
    assert rows[5].startswith("| **mean of the 10 on images** |")
    assert "| **mean of all 14** | – | 45.50 ± 0.71 |" in rows[6]
    assert in_words(record) == (
        "With KD the student is better in 1 of 2 kinds. Averaged over all of them it gains -1.50 ± 0.50 points, "
        "without noise +2.00 ± 0.00."
    )
    alone = noise_table(summarise({"student": REPORTS["student"][:1]}))
    assert alone.splitlines()[:3] == ["| noise | student with KD |", "| --- | --- |", "| none | 92.00 |"]
    assert noise_section([]) == ""


@pytest.fixture
def script(monkeypatch, tmp_path):
    """`experiments/robustness.py`, writing to a folder of its own and with networks that are measured at once."""
    monkeypatch.setattr(noise_script, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(noise_script, "load_trained", lambda run, role: f"{run.name}/{role}")
    return noise_script


def make_run(directory, roles, **changes):
    config = dataclasses.replace(default_config("digits"), run_dir=str(directory), **changes)
    for role in roles:
        (directory / role).mkdir(parents=True)
        (directory / role / "network.json").write_text("{}")
    (directory / "config.json").write_text(json.dumps({"config": dataclasses.asdict(config)}))
    return directory


def test_script_pairs_the_seeds_and_writes_a_record(script, monkeypatch, tmp_path, capsys):
    """Two distilled students, given in the wrong order, two of other runs without, one teacher for both."""
    measured = []

    def measure(name, images, labels, seed, *, batch_size, index):
        measured.append(name)
        assert index.tolist() == [0, 90, 180, 270]  # of 360
        assert (seed, batch_size, len(images), len(labels)) == (5, 8, 4, 4)
        role = {"t": "teacher", "n": "student_baseline", "k": "student"}[name[0]]
        return REPORTS[role][0 if name[1] == "0" else 1]

    monkeypatch.setattr(script, "evaluate_noise", measure)
    teacher = make_run(tmp_path / "t0", ["teacher"])
    runs = [
        make_run(tmp_path / f"k{s}", ["student"], seed=s, teacher_checkpoint=str(teacher), baseline=False)
        for s in (1, 0)
    ]
    others = [make_run(tmp_path / f"n{s}", ["student"], seed=s, preset="none") for s in (0, 1)]
    script.main(runs, tuple(others), images=4, seed=5, batch_size=8, record="x", dataset="the digits")
    assert sorted(measured) == ["k0/student", "k1/student", "n0/student", "n1/student", "t0/teacher"]
    record = json.loads((tmp_path / "results" / "x.json").read_text())
    assert record["seeds"] == [0, 1]
    assert record["networks"]["student"]["kinds"]["blur"]["mean"]["values"] == [0.56, 0.60]
    assert record["comparison"] == summarise(REPORTS)["comparison"]
    script_command = "python experiments/robustness.py RUN ... --baseline RUN ..."
    assert record["command"] == f"{script_command} --images 4 --seed 5 --batch-size 8 --dataset 'the digits'"
    assert record["networks"]["teacher"]["kinds"]["blur"]["mean"] == {"values": [0.6], "mean": 0.6, "std": None}
    assert {"kind", "versions", "hardware", "commit", "date", "levels", "config"} <= record.keys()
    assert record["levels"]["jpeg"] == list(IMAGE_LEVELS["jpeg"])
    assert str(tmp_path) not in json.dumps(record)
    assert noise_table(record) in capsys.readouterr().out
    kept = [json.loads((tmp_path / name / "noise.json").read_text())["networks"] for name in ("k0", "k1")]
    assert [n["student"]["kinds"]["blur"]["mean"]["values"] for n in kept] == [[0.56], [0.60]]
    section = noise_section([record])
    assert noise_table(record) in section
    run = "python experiments/cifar_distill.py --dataset digits"
    taught = f"{run} --seed 0 --no-baseline --teacher-checkpoint runs/digits-convnet-temporal-t2-seed0"
    assert f"RUN of `{run} --seed 0 && {taught}`" in section
    assert f"baseline of `{run} --preset none --seed 0`, on" in section
    assert "[x](experiments/results/noise/x.json): the digits, convnet, width 0.25, T = 2, temporal;" in section


def test_script_refuses_runs_that_cannot_be_compared(script, tmp_path):
    a = make_run(tmp_path / "a", ["student"])
    networks = script.find_networks([a], [])[1]
    assert list(networks) == ["student"]
    alone = make_run(tmp_path / "alone", ["student"], preset="none")
    assert list(script.find_networks([alone], [])[1]) == ["student_baseline"]
    cases = {
        "runs are missing": ([], []),
        "repeat a seed": ([a, a], []),
        "differ in tau": ([a, make_run(tmp_path / "b", ["student"], seed=1, tau=3.0)], []),
        "only some of them have a teacher": ([a, make_run(tmp_path / "c", ["student", "teacher"], seed=1)], []),
        "a student_baseline of their own": ([make_run(tmp_path / "d", ["student", "student_baseline"])], [alone]),
        "must have the seeds of the runs": ([a], [make_run(tmp_path / "e", ["student"], preset="none", seed=1)]),
        "differ in epochs": ([a], [make_run(tmp_path / "f", ["student"], preset="none", epochs=1)]),
        "has more than the labels": ([a], [make_run(tmp_path / "g", ["student"])]),
        "leave baseline out": ([alone], [a]),
        "no network that was trained to its end": ([make_run(tmp_path / "h", [".hidden"])], []),
    }
    for message, arguments in cases.items():
        with pytest.raises(InputError, match=message):
            script.find_networks(*arguments)
    with pytest.raises(InputError, match="images=0"):
        script.main([a], images=0)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments/results/noise").glob("*.json")), ids=lambda path: path.stem
)
def test_committed_record_of_noise(path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
    assert record["levels"] == {kind: list(strengths) for kind, strengths in LEVELS.items()}
    for role, network in record["networks"].items():
        for entry in filter(None, network["kinds"].values()):
            by_level = [level["values"] for level in entry["accuracy"]]
            assert entry["mean"]["values"] == pytest.approx(np.mean(by_level[1:], axis=0).tolist())
            assert entry["mean"]["mean"] == pytest.approx(np.mean(by_level[1:]))
            of_one = role == "teacher" and len(entry["mean"]["values"]) == 1  # one teacher for all seeds
            assert of_one or len(entry["mean"]["values"]) == len(record["seeds"])
