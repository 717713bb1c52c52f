"""Whole runs through the command line: the comparison, what a run leaves and keeps, and what it does not take."""

import dataclasses
import gzip
import hashlib
import json
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from host_failures import arrays, logged
from records.steps import steps_section
from representative import slow
from tiny_runs import TINY, refused

from snnkd_jax import data
from snnkd_jax.analysis.observation import load_observation
from snnkd_jax.cli import main as snnkd
from snnkd_jax.cli.train import main, table
from snnkd_jax.errors import InputError
from snnkd_jax.experiment import run
from snnkd_jax.files import read_sealed, write_sealed
from snnkd_jax.inference.convert import convert
from snnkd_jax.inference.predict import accuracy_by_step
from snnkd_jax.inference.trained import load
from snnkd_jax.runs.config import default_config
from snnkd_jax.runs.run_dir import content_digests, open_run_dir
from snnkd_jax.training.manifest import read_manifest
from snnkd_jax.training.metrics import MetricsLog
from snnkd_jax.training.profiling import PROFILED_STEPS, Profiler

pytestmark = pytest.mark.usefixtures("silent_layers")


def test_a_trace_that_is_cut_short_is_written_and_too_few_steps_are_told(tmp_path):
    def interrupted():
        with Profiler(tmp_path, 0, 100) as profiler:
            for step in range(8):
                profiler.before(step)
                profiler.after(step, ())
            raise KeyboardInterrupt

    for _ in range(2):  # the second would fail if the first trace were still open
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    assert len(list(tmp_path.rglob("*.xplane.pb"))) >= 1
    with pytest.warns(UserWarning, match="no trace: 3 steps are left"):
        Profiler(tmp_path, 97, 100)


@pytest.mark.slow
def test_rates_first_then_through_time_with_a_profile(tmp_path):
    """The first epochs are those of a purely rate-based run, the last is not; the trace names the steps."""
    rates = [*TINY, "--preset", "none", "--epochs", "3", "--warmup-epochs", "0", "--backprop", "rate"]
    both = [*rates, "--bptt-epochs", "1"]
    assert main([*rates, "--run-dir", str(tmp_path / "rate")]) == 0
    assert main([*both, "--profile", "--run-dir", str(tmp_path / "both")]) == 0
    assert (
        main([*both, "--epochs", "3", "--run-dir", str(tmp_path / "both")]) == 0
    )  # finished, and known to be the same
    pure, mixed = logged(tmp_path / "rate"), logged(tmp_path / "both")
    assert mixed[:2] == pure[:2]
    assert mixed[2] != pure[2]
    (trace,) = (tmp_path / "both" / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    assert sum(event.get("name") == "student" for event in events) == len(PROFILED_STEPS)
    assert list((tmp_path / "both" / "profile").rglob("*.xplane.pb"))  # what TensorBoard reads
    assert not (tmp_path / "rate" / "profile").exists()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A short run with baseline."""
    run_dir = tmp_path_factory.mktemp("runs") / "finished"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([*TINY, "--epochs", "2", "--run-dir", str(run_dir)]) == 0
    return run_dir


def test_result_and_log(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["test_accuracy"].keys() == {"teacher", "student_baseline", "student"}
    assert all(0 <= accuracy <= 1 for accuracy in result["test_accuracy"].values())
    assert len(result["test_accuracy_by_step"]["student"]) == 2
    assert result["versions"].keys() >= {"python", "jax", "flax", "optax"}
    entries = logged(finished)
    phases = ("teacher", "student_baseline", "student")
    assert [(e["phase"], e["epoch"]) for e in entries] == [(p, i) for p in phases for i in (1, 2)]
    assert entries[-1]["loss"] == pytest.approx(
        entries[-1]["ce"] + 0.2 * entries[-1]["kd"] + 0.5 * entries[-1]["steps"], rel=1e-4
    )
    config = json.loads((finished / "config.json").read_text())
    assert config["config"]["preset"] == "temporal"
    assert config["config"]["baseline"] is True
    digits, digest = data.load("digits"), hashlib.sha256()
    for x in (digits.train_images, digits.train_labels):
        digest.update(hashlib.sha256(x.tobytes()).digest())
    assert config["data_sha256"] == digest.hexdigest()


def test_table_shows_what_was_measured(finished):
    result = json.loads((finished / "result.json").read_text())
    text = table(result)
    for name, accuracy in result["test_accuracy"].items():
        assert f"{100 * accuracy:.2f} %" in text, name
        assert f"{result['parameters'][name]:,}" in text


def test_a_run_ends_with_its_report_and_with_what_it_shows_of_the_student(finished, capsys):
    """The confusions add up to the accuracy that was reported; a report that is missing is written again."""
    result = json.loads((finished / "result.json").read_text())
    observed = load_observation(finished / "student" / "observation.npz")
    assert observed.confusion.sum() == 360
    assert np.trace(observed.confusion) / 360 == pytest.approx(result["test_accuracy"]["student"], abs=1.01 / 360)
    np.testing.assert_array_equal(observed.image, data.load("digits").test_images[0])
    assert [layer.name for layer in observed.layers] == ["act1", "act2", "act_hidden"]
    before = (finished / "report.html").read_bytes()
    for accuracy in result["test_accuracy"].values():
        assert f"{100 * accuracy:.2f} %".encode() in before
    (finished / "report.html").unlink()
    assert main([*TINY, "--epochs", "2", "--run-dir", str(finished)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert (finished / "report.html").read_bytes() == before


@pytest.mark.slow
def test_a_result_is_not_lost_because_it_cannot_be_shown(tmp_path, monkeypatch):
    """What cannot be drawn or recorded is told as a warning, after the result or without it."""

    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr("snnkd_jax.fitting.observe", fail)
    monkeypatch.setattr("snnkd_jax.report.write.write_report", fail)
    run_dir = tmp_path / "run"
    config = default_config("digits").replace(width=0.1, preset="none", epochs=1, run_dir=str(run_dir))
    with pytest.warns(UserWarning, match="no ink") as warned:
        result = run(config)
    told = [str(w.message) for w in warned if "no ink" in str(w.message)]
    assert len(told) == 2
    assert "RuntimeError: no ink" in told[0]
    assert "report.html cannot be written" in told[1]
    assert read_sealed(run_dir / "result.json") == result


def test_finished_run_is_not_trained_again(finished, capsys):
    before = (finished / "metrics.jsonl").read_bytes()
    assert main([*TINY, "--epochs", "2", "--run-dir", str(finished)]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_preset_none_trains_the_student_alone(tmp_path):
    run_dir = tmp_path / "direct"
    assert main([*TINY, "--preset", "none", "--epochs", "1", "--run-dir", str(run_dir)]) == 0
    accuracy = json.loads((run_dir / "result.json").read_text())["test_accuracy"]
    assert accuracy["teacher"] is None
    assert accuracy["student_baseline"] is None
    assert 0 <= accuracy["student"] <= 1


def test_what_is_measured_after_a_run_takes_its_data_folder(monkeypatch):
    found = []
    digits = data.load("digits")
    monkeypatch.setattr(data, "load", lambda *arguments, **_: found.append(arguments) or digits)
    loaded = default_config("mnist").replace(data_dir="/elsewhere", validation_fraction=0.3).load_data()
    assert loaded.validation_fraction == 0.3
    assert found == [("mnist", "/elsewhere", None)]
    with pytest.raises(InputError, match=r"dataset 'imagenet2012' is read from disk.* works with digits"):
        default_config("imagenet2012").load_data()


@pytest.mark.slow
def test_teacher_of_another_run_gives_the_same_student(finished, tmp_path):
    """The teacher is read, not trained; the student is bit for bit the one of the run that trained it."""
    run_dir = tmp_path / "second"
    arguments = [*TINY, "--epochs", "2", "--no-baseline", "--teacher-checkpoint", str(finished)]
    assert main([*arguments, "--run-dir", str(run_dir)]) == 0
    assert {entry["phase"] for entry in logged(run_dir)} == {"student"}
    for a, b in zip(arrays(run_dir, "student"), arrays(finished, "student"), strict=True):
        np.testing.assert_array_equal(a, b)
    results = [json.loads((path / "result.json").read_text())["test_accuracy"] for path in (run_dir, finished)]
    assert results[0]["teacher"] == results[1]["teacher"]


@pytest.mark.parametrize(
    ("options", "told"), [slow(["--seed", "1"], True), slow(["--validation-fraction", "0.05"], False)]
)
def test_a_teacher_that_saw_what_is_held_out_is_told(finished, tmp_path, capsys, options, told):
    """The validation split of a seed begins with that of a smaller fraction."""
    arguments = [*TINY, "--epochs", "1", "--no-baseline", "--teacher-checkpoint", str(finished), *options]
    assert main([*arguments, "--run-dir", str(tmp_path / "run")]) == 0
    words = "the teacher was trained with seed=0, validation_fraction=0.1, so on images of this run's validation split"
    assert (words in capsys.readouterr().out) == told


@pytest.mark.slow
def test_a_student_begins_with_the_weights_of_its_teacher(finished, tmp_path):
    """With a learning rate that moves nothing it ends with them too, and without a distillation loss."""
    run_dir = tmp_path / "begun"
    arguments = [*TINY, "--preset", "none", "--initial-weights", "teacher", "--teacher-checkpoint", str(finished)]
    arguments += ["--no-baseline", "--epochs", "1", "--learning-rate", "1e-30"]
    assert main([*arguments, "--run-dir", str(run_dir)]) == 0
    student, teacher = load(run_dir), load(finished, "teacher")
    for a, b in zip(*(jax.tree.leaves(x.variables["params"]) for x in (student, teacher)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {entry["phase"] for entry in logged(run_dir)} == {"student"}


@pytest.mark.slow
def test_a_teacher_alone_is_trained_quantised_and_converted(tmp_path):
    run_dir = tmp_path / "teacher"
    arguments = [*TINY, "--epochs", "1", "--teacher-only", "--teacher-levels", "4"]
    assert main([*arguments, "--run-dir", str(run_dir)]) == 0
    accuracy = json.loads((run_dir / "result.json").read_text())["test_accuracy"]
    assert accuracy["student"] is None
    teacher = load(run_dir, "teacher")
    converted = convert(teacher, data.load("digits").train_images, 1)
    assert converted.logits_by_step(data.load("digits").test_images, 2).shape == (360, 2, 10)
    with pytest.raises(InputError, match=r"no student that finished training"):
        load(run_dir)


def test_a_finished_network_is_loaded_as_it_was(finished, tmp_path):
    """It gives the test accuracy that the run reported, at each step; a damaged description is refused."""
    student = load(finished)
    assert (student.network.title, student.dataset) == ("convnet, width 0.1", "digits")
    digits = data.load("digits")
    logits = student.logits_by_step(digits.test_images, 2)
    expected = json.loads((finished / "result.json").read_text())["test_accuracy_by_step"]["student"]
    np.testing.assert_allclose(accuracy_by_step(logits, digits.test_labels), expected, atol=1e-6)
    assert student.with_steps(7).num_steps == 7
    np.testing.assert_allclose(student.logits_by_step(digits.test_images, 3)[:, :2], logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="num_steps=0"):
        student.logits_by_step(digits.test_images, 0)
    teacher = load(finished, "teacher")
    for call in (teacher.with_steps, lambda t: teacher.logits_by_step(digits.test_images, t)):
        with pytest.raises(InputError, match="no time steps"):
            call(2)
    shutil.copytree(finished, tmp_path / "damaged")
    (tmp_path / "damaged" / "student" / "manifest.json").write_text('{"spiking": null}')
    with pytest.raises(InputError, match=r"manifest\.json .* damaged"):
        load(tmp_path / "damaged")


@pytest.mark.slow
def test_records_of_every_number_of_steps(finished, tmp_path, capsys):
    """Of both students and of the converted teacher: what the run found, and where each comes from."""
    paths = [tmp_path / "records" / f"{name}.json" for name in ("students", "converted")]
    for subcommand, num_steps, path in zip(("steps", "convert"), ("3", "4"), paths, strict=True):
        options = ["--dataset", "the digits", "--num-steps", num_steps, "--record", str(path)]
        assert snnkd([subcommand, str(finished), *options]) == 0
    records = [json.loads(path.read_text()) for path in paths]
    assert [record["name"] for record in records] == ["students", "converted"]
    assert records[0]["command"] == "snnkd steps RUN ... --num-steps 3 --dataset 'the digits'"
    result = json.loads((finished / "result.json").read_text())
    for entry, role in zip(records[0]["entries"], ("student_baseline", "student"), strict=True):
        np.testing.assert_allclose(entry["accuracy"][0][:2], result["test_accuracy_by_step"][role], atol=1e-6)
        assert all(1 <= exit["mean_steps"] <= 2 for exit in entry["exits"][0])
    assert len(records[1]["entries"][0]["accuracy"][0]) == 4
    assert records[1]["entries"][0]["ordinary"] == [result["test_accuracy"]["teacher"]]
    text = steps_section(records)
    for role in ("student_baseline", "student"):
        assert f"| {100 * result['test_accuracy'][role]:.2f} |" in text
    assert f"| {100 * result['test_accuracy']['teacher']:.2f} |" in text
    assert str(finished) not in json.dumps(records)
    capsys.readouterr()
    assert snnkd(["steps", str(finished), str(finished), "--dataset", "digits"]) == 2
    assert "repeat a seed" in capsys.readouterr().err


def test_unwritable_run_directory(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(capsys, [*TINY, "--run-dir", str(tmp_path / "file" / "run")])
    assert f"run_dir {tmp_path / 'file' / 'run'} cannot be written" in message


def test_other_configuration_is_refused_with_its_differences(finished, capsys):
    before = (finished / "config.json").read_bytes()
    message = refused(capsys, [*TINY, "--epochs", "3", "--tau", "1.5", "--run-dir", str(finished)])
    assert "epochs (was 2, is 3), tau (was 2.0, is 1.5)" in message
    assert (finished / "config.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b'{"config": null}', b"{}"], ids=str)
def test_damaged_configuration_is_refused(capsys, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    assert "config.json" in refused(capsys, [*TINY, "--run-dir", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_bytes() == content


def test_checkpoints_of_an_unknown_run_are_refused(finished, capsys, tmp_path):
    shutil.copytree(finished / "student", tmp_path / "run" / "student")
    assert "has student but no config.json" in refused(capsys, [*TINY, "--run-dir", str(tmp_path / "run")])


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "report.html"])
def test_files_of_something_else_are_left_alone(capsys, tmp_path, name):
    (tmp_path / name).write_text('{"another": "project"}\n')
    assert f"has {name} but no config.json" in refused(capsys, [*TINY, "--run-dir", str(tmp_path)])
    assert (tmp_path / name).read_text() == '{"another": "project"}\n'
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_goes_on_with_the_data_and_the_teacher_that_it_began_with(tmp_path):
    """Wherever the data lie; runs that are older than the digests go on with any."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    config = default_config("mnist").replace(data_dir="/here", teacher_checkpoint=str(tmp_path / "t"))

    def opened(config, data, teacher):
        open_run_dir(run_dir, {"config": config.flat()}, content_digests(data, teacher))

    opened(config, b"images", b"weights")
    moved = config.replace(data_dir="/there")
    opened(moved, b"images", b"weights")
    with pytest.raises(InputError, match=r"started with other images.*; name another"):
        opened(moved, b"others", b"weights")
    with pytest.raises(InputError, match="started with another teacher"):
        opened(config, b"images", b"others")
    started = json.loads((run_dir / "config.json").read_text())
    older = {k: v for k, v in started.items() if k not in ("data_sha256", "teacher_sha256", "sha256")}
    write_sealed(run_dir / "config.json", older)
    opened(config, b"others", b"others")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("jax_enable_x64", True),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_default_matmul_precision", "highest"),
        ("jax_random_seed_offset", 1),
    ],
)
def test_a_run_goes_on_only_with_the_numbers_that_it_began_with(tmp_path, setting, value):
    what = {"config": default_config("digits").flat()}
    open_run_dir(tmp_path, what, {})
    before = getattr(jax.config, setting)
    assert before != value
    jax.config.update(setting, value)
    try:
        with pytest.raises(InputError) as refused:
            open_run_dir(tmp_path, what, {})
        assert f"{setting} (was {before!r}, is {value!r})" in str(refused.value)
        started = read_sealed(tmp_path / "config.json")
        assert started["numerics"][setting] == before
        write_sealed(tmp_path / "config.json", {k: v for k, v in started.items() if k != "numerics"})
        open_run_dir(tmp_path, what, {})  # a run that is older than this entry
    finally:
        jax.config.update(setting, before)


@pytest.mark.parametrize(
    ("name", "flags", "kept"),
    [
        ("XLA_FLAGS", "--xla_dump_to=x --xla_cpu_enable_fast_math=true", "--xla_cpu_enable_fast_math=true"),
        ("XLA_FLAGS", "--xla_force_host_platform_device_count=4", None),
        ("NVIDIA_TF32_OVERRIDE", "0", "0"),
        ("LIBTPU_INIT_ARGS", "--xla_b=1  --xla_a=1", "--xla_a=1 --xla_b=1"),
    ],
)
def test_other_compiler_flags_are_told(tmp_path, monkeypatch, recwarn, name, flags, kept):
    what = {"config": default_config("digits").flat()}
    monkeypatch.delenv(name, raising=False)
    open_run_dir(tmp_path, what, {})
    monkeypatch.setenv(name, flags)
    open_run_dir(tmp_path, what, {})
    told = [str(warned.message) for warned in recwarn]
    assert told == [] if kept is None else f"{name} (was None, is {kept!r})" in told[0]


@pytest.mark.slow
def test_divergence_ends_the_run(capsys, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [*TINY, "--preset", "none", "--epochs", "2", "--learning-rate", "1e38"]
    message = refused(capsys, [*arguments, "--warmup-epochs", "0", "--run-dir", str(run_dir)])
    assert "student diverged" in message
    assert "learning_rate" in message


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (["--teacher", "resnet20"], ["model is 'convnet', not 'resnet20'"]),
        (["--teacher-width", "0.2"], ["width is 0.1, not 0.2"]),
    ],
    ids=["model", "width"],
)
def test_teacher_of_another_architecture(finished, capsys, tmp_path, change, names):
    arguments = [*TINY, "--teacher-checkpoint", str(finished), *change, "--run-dir", str(tmp_path / "run")]
    message = refused(capsys, arguments)
    for name in ["of another network", *names]:
        assert name in message


def test_teacher_with_another_number_of_classes(finished, capsys, tmp_path, monkeypatch):
    digits = data.load("digits")
    seven = data.Dataset(
        "digits",
        digits.train_images,
        np.minimum(digits.train_labels, 6),
        digits.test_images,
        np.minimum(digits.test_labels, 6),
        digits.class_names[:7],
    )
    monkeypatch.setattr(data, "load", lambda *_, **__: seven)
    arguments = [*TINY, "--teacher-checkpoint", str(finished), "--run-dir", str(tmp_path / "run")]
    assert "num_classes is 10, not 7" in refused(capsys, arguments)


def test_log_drops_what_will_be_written_again(tmp_path):
    log = MetricsLog(tmp_path)
    for phase, step in (("teacher", 10), ("teacher", 20), ("student", 10), ("student", 20)):
        log.write({"phase": phase, "step": step, "seconds": 2.5, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{}\n1\n{"phase": "student", "st')  # a crash while writing, and what is no entry
    assert log.seconds() == 10
    log.rewind("student", 10)
    assert log.seconds() == 7.5
    log.close()
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(e["phase"], e["step"]) for e in entries] == [("teacher", 10), ("teacher", 20), ("student", 10)]


def test_unfinished_teacher_is_refused(finished, capsys, tmp_path):
    """A run that was stopped in the middle of its teacher's training has checkpoints, but no teacher."""
    shutil.copytree(finished, tmp_path / "unfinished")
    manifest = read_manifest(tmp_path / "unfinished" / "teacher")
    assert manifest is not None
    dataclasses.replace(manifest, network=None).write(tmp_path / "unfinished" / "teacher")
    arguments = [*TINY, "--teacher-checkpoint", str(tmp_path / "unfinished"), "--run-dir", str(tmp_path / "run")]
    assert "trained teacher" in refused(capsys, arguments)
