"""`snnkd noise`: which networks it compares, and the record."""

import json

import pytest
from noise_reports import REPORTS
from records.noise import noise_section

from snnkd_jax.analysis import robustness
from snnkd_jax.cli.noise import noise
from snnkd_jax.data.corruptions import IMAGE_LEVELS
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_sealed
from snnkd_jax.inference import trained as loading
from snnkd_jax.report.noise import noise_table, summarise
from snnkd_jax.runs.config import default_config
from snnkd_jax.runs.networks import find_networks
from snnkd_jax.training.manifest import Manifest


def make_run(directory, roles, **changes):
    config = default_config("digits").replace(run_dir=str(directory), **changes)
    for role in roles:
        (directory / role).mkdir(parents=True)
        Manifest(None, role, {}).write(directory / role)
    write_sealed(directory / "config.json", {"config": config.flat()})
    return directory


def test_seeds_are_paired_and_a_record_is_written(monkeypatch, tmp_path, capsys):
    """Two distilled students, given in the wrong order, two of other runs without, one teacher for both."""
    measured = []

    def measure(name, images, labels, seed, *, batch_size, index):
        measured.append(name)
        assert index.tolist() == [0, 90, 180, 270]  # of 360
        assert (seed, batch_size, len(images), len(labels)) == (5, 8, 4, 4)
        role = {"t": "teacher", "n": "student_baseline", "k": "student"}[name[0]]
        return REPORTS[role][0 if name[1] == "0" else 1]

    monkeypatch.setattr(loading, "load", lambda run, role: f"{run.name}/{role}")
    monkeypatch.setattr(robustness, "evaluate_noise", measure)
    path = tmp_path / "results" / "x.json"
    teacher = make_run(tmp_path / "t0", ["teacher"])
    runs = [
        make_run(tmp_path / f"k{s}", ["student"], seed=s, teacher_checkpoint=str(teacher), baseline=False)
        for s in (1, 0)
    ]
    others = [make_run(tmp_path / f"n{s}", ["student"], seed=s, preset="none") for s in (0, 1)]
    noise(runs, tuple(others), images=4, seed=5, batch_size=8, record=path, dataset="the digits")
    assert sorted(measured) == ["k0/student", "k1/student", "n0/student", "n1/student", "t0/teacher"]
    record = json.loads(path.read_text())
    assert record["seeds"] == [0, 1]
    assert record["networks"]["student"]["kinds"]["blur"]["mean"]["values"] == [0.56, 0.60]
    assert record["comparison"] == summarise(REPORTS)["comparison"]
    command = "snnkd noise RUN ... --baseline RUN ..."
    assert record["command"] == f"{command} --images 4 --seed 5 --batch-size 8 --dataset 'the digits'"
    assert record["networks"]["teacher"]["kinds"]["blur"]["mean"] == {"values": [0.6], "mean": 0.6, "std": None}
    assert {"kind", "versions", "hardware", "commit", "date", "levels", "config"} <= record.keys()
    assert record["levels"]["jpeg"] == list(IMAGE_LEVELS["jpeg"])
    assert str(tmp_path) not in json.dumps(record)
    assert noise_table(record) in capsys.readouterr().out
    kept = [json.loads((tmp_path / name / "noise.json").read_text())["networks"] for name in ("k0", "k1")]
    assert [n["student"]["kinds"]["blur"]["mean"]["values"] for n in kept] == [[0.56], [0.60]]
    section = noise_section([record])
    assert noise_table(record) in section
    run = "snnkd train --dataset digits"
    taught = f"{run} --seed 0 --no-baseline --teacher-checkpoint runs/digits-convnet-temporal-t2-seed0"
    assert f"RUN of `{run} --seed 0 && {taught}`" in section
    assert f"baseline of `{run} --preset none --seed 0`, on" in section
    assert "[x](../experiments/results/noise/x.json): the digits, convnet, width 0.25, T = 2, temporal;" in section


def test_the_kinds_that_students_were_trained_on_are_those_of_their_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loading, "load", lambda _, role: role)
    monkeypatch.setattr(robustness, "evaluate_noise", lambda role, *_, **__: REPORTS[role][0])
    run = make_run(tmp_path / "run", REPORTS, student_noise=["blur:2", "none", "blur:3"])
    noise([run])
    assert json.loads((run / "noise.json").read_text())["trained_on"] == ["blur"]
    printed = capsys.readouterr().out
    assert "\n| blur (trained on) | 60.00 |" in printed
    assert "The students were trained on noise (blur), which their teacher did not see." in printed
    alone = make_run(tmp_path / "alone", ["student"], student_noise=["blur:2"])
    clean = make_run(tmp_path / "clean", ["student"], preset="none")
    with pytest.raises(InputError, match=r"baseline differ in student_noise \(\('blur:2',\), \(\)\)"):
        find_networks([alone], [clean])


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    a = make_run(tmp_path / "a", ["student"])
    networks = find_networks([a], [])[1]
    assert list(networks) == ["student"]
    alone = make_run(tmp_path / "alone", ["student"], preset="none")
    assert list(find_networks([alone], [])[1]) == ["student_baseline"]
    cases = {
        "runs are missing": ([], []),
        "repeat a seed": ([a, a], []),
        "differ in tau": ([a, make_run(tmp_path / "b", ["student"], seed=1, tau=3.0)], []),
        "only some of them have a teacher": ([a, make_run(tmp_path / "c", ["student", "teacher"], seed=1)], []),
        "a student_baseline of their own": ([make_run(tmp_path / "d", ["student", "student_baseline"])], [alone]),
        "must have the seeds of the runs": ([a], [make_run(tmp_path / "e", ["student"], preset="none", seed=1)]),
        "differ in epochs": ([a], [make_run(tmp_path / "f", ["student"], preset="none", epochs=1)]),
        "is not trained by the cross-entropy alone": ([a], [make_run(tmp_path / "g", ["student"])]),
        "leave baseline out": ([alone], [a]),
        "no network that finished training": ([make_run(tmp_path / "h", [".hidden"])], []),
    }
    for message, arguments in cases.items():
        with pytest.raises(InputError, match=message):
            find_networks(*arguments)
    with pytest.raises(InputError, match="images=0"):
        noise([a], images=0)
