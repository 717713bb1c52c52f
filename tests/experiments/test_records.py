"""Records: what they hold, and the tables that are made of them."""

import json
import re
import shlex
import statistics
from pathlib import Path
from typing import Any

import pytest
from figures.speed import draw
from records.nir import nir_section
from records.speed import benchmark_tables, early_exit_table, gradient_table, time_tables
from records.trainings import make_record, tables, with_sections
from representative import representatives
from time_to_accuracy import reached

from snnkd_jax.cli.arguments import parse
from snnkd_jax.cli.train import train
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_sealed
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.run_dir import run_directory

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "experiments" / "results"
FILES = sorted(RECORDS.rglob("*.json"))


def finish(directory: Path, seed: int, accuracy: float | None, **changes) -> Path:
    """A run directory as a run leaves it."""
    directory.mkdir()
    config = default_config("digits").replace(seed=seed, run_dir=str(directory), **changes)
    by_network = {"teacher": 0.99, "student_baseline": None, "student": accuracy}
    result = {
        "test_accuracy": by_network,
        "test_accuracy_by_step": {"teacher": [0.99], "student_baseline": None, "student": [0.5, accuracy]},
        "firing_rate": {"teacher": None, "student_baseline": None, "student": 0.2},
        "parameters": {"teacher": 1000, "student_baseline": None, "student": 123_456},
        "seconds": 90.0,
        "config": config.flat(),
        "versions": {"jax": "0.10.2", "python": "3.11.7"},
        "hardware": "1 cpu device(s) (2 x Somebody's)",
        "commit": "0" * 40,
    }
    write_sealed(directory / "result.json", result)
    return directory


BOTH = {"preset": "temporal", "initial_weights": "teacher"}


def test_a_student_with_its_teachers_weights_is_set_against_a_random_one(tmp_path):
    """It is no baseline itself, though its objective is the cross-entropy alone."""
    random = make_record("a", [finish(tmp_path / "a", 0, 0.90, preset="none")], "digits")
    begun = make_record("b", [finish(tmp_path / "b", 0, 0.95, preset="none", initial_weights="teacher")], "digits")
    distilled = make_record("c", [finish(tmp_path / "c", 0, 0.97, preset="temporal")], "digits")
    both = make_record("d", [finish(tmp_path / "d", 0, 0.96, **BOTH)], "digits")
    wider = make_record("e", [finish(tmp_path / "e", 0, 0.94, teacher_width=2.0, **BOTH)], "digits")
    rows = [row.split(" | ") for row in tables([begun, random, distilled, both, wider]).splitlines()[2:7]]
    assert [(row[2], row[-3], row[-1].removesuffix(" |")) for row in rows] == [
        ("none, teacher's weights", "90.00", "+5.00"),
        ("none", "90.00", "–"),
        ("temporal", "90.00", "+7.00"),
        ("temporal, teacher's weights", "90.00", "+6.00; the loss: +1.00"),
        ("temporal, teacher's weights", "90.00", "+4.00"),  # the weights of another teacher
    ]


def test_mean_and_std_over_seeds(tmp_path):
    """Sample standard deviation of 0.90, 0.92, 0.97, by hand: sqrt(0.0013)."""
    runs = [finish(tmp_path / str(s), s, a) for s, a in ((2, 0.97), (0, 0.90), (1, 0.92))]
    record = make_record("x", runs, "digits")
    assert record["seeds"] == [0, 1, 2]
    metric = record["metrics"]["student/test_accuracy"]
    assert metric["values"] == [0.90, 0.92, 0.97]
    assert metric["mean"] == pytest.approx(0.93)
    assert metric["std"] == pytest.approx(0.0013**0.5)
    assert record["metrics"]["student/test_accuracy_at_1"]["mean"] == 0.5
    assert "student_baseline/test_accuracy" not in record["metrics"]
    row = tables([record]).splitlines()[2]
    assert row == (
        "| digits | convnet, width 0.25 (0.12 M) | temporal | "
        "2 | 60 | bptt | 3 | convnet, width 1: 99.00 | – | 93.00 ± 3.61 | – |"
    )


def test_a_student_without_a_teacher_is_shown_as_one_and_its_backpropagation_named(tmp_path):
    run = finish(tmp_path / "0", 0, 0.9, preset="none", backprop="rate", bptt_epochs=2)
    row = tables([make_record("x", [run], "digits")]).splitlines()[2]
    assert "| none | 2 | 60 | rate, last 2 of 60 epochs bptt | 1 |" in row
    assert row.endswith("| 1 | convnet, width 1: 99.00 | 90.00 | – | – |")


def test_gain_is_paired_by_seed_and_finds_its_baseline(tmp_path):
    """Differences 2, 1 and 6 points: mean 3, standard error sqrt(7 / 3). The other has another T."""
    without = [finish(tmp_path / f"a{s}", s, a, preset="none") for s, a in enumerate((0.90, 0.92, 0.91))]
    other = [finish(tmp_path / f"b{s}", s, 0.5, preset="none", num_steps=3) for s in range(3)]
    kd = [finish(tmp_path / f"c{s}", s, a, kd_weight=0.3) for s, a in enumerate((0.92, 0.93, 0.97))]
    records = [make_record(name, runs, "digits") for name, runs in (("other", other), ("none", without), ("kd", kd))]
    row = tables(records).splitlines()[4]
    assert "| temporal, kd weight 0.3 |" in row
    assert row.endswith("| 91.00 ± 1.00 | 94.00 ± 2.65 | +3.00 ± 1.53 |")
    assert tables([records[0], records[2]]).splitlines()[3].endswith("| – | 94.00 ± 2.65 | – |")
    elsewhere = records[1] | {"dataset": "other data"}
    assert tables([elsewhere, records[2]]).splitlines()[3].endswith("| – | 94.00 ± 2.65 | – |")
    assert tables([elsewhere, records[1]]).splitlines()[3].endswith("| 91.00 ± 1.00 | – | – |")
    older = {n: v for n, v in records[1]["config"].items() if n not in ("steps_weight", "pool", "backprop")}
    assert "+3.00 ± 1.53" in tables([records[1] | {"config": older}, records[2]])
    taught = [finish(tmp_path / f"d{s}", s, 0.5, preset="none", kd_weight=0.5) for s in range(3)]
    assert "| – | 94.00" in tables([make_record("taught", taught, "digits"), records[2]])


def test_one_seed_has_no_standard_deviation(tmp_path):
    record = make_record("x", [finish(tmp_path / "0", 0, 0.9)], "digits")
    assert record["metrics"]["student/test_accuracy"]["std"] is None


def test_runs_that_do_not_belong_together_are_refused(tmp_path):
    a = finish(tmp_path / "a", 0, 0.9)
    with pytest.raises(InputError, match="repeat a seed"):
        make_record("x", [a, finish(tmp_path / "b", 0, 0.9)], "digits")
    with pytest.raises(InputError, match="differ in config"):
        make_record("x", [a, finish(tmp_path / "c", 1, 0.9, tau=3.0)], "digits")
    with pytest.raises(InputError, match="teacher alone"):
        make_record("x", [finish(tmp_path / "teacher", 2, None, teacher_only=True)], "digits")
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match="not finished"):
        make_record("x", [a, tmp_path / "d"], "digits")


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_command_gives_the_configuration_again(dataset):
    config = default_config(dataset).replace(
        seed=3,
        preset="kdsnn",
        v_reset=None,
        decay_input=False,
        baseline=not default_config(dataset).run.baseline,
        clip_norm=1.0,
    )
    assert parsed(command(config)) == config


def test_command_of_a_taught_student_begins_with_its_teachers(tmp_path):
    """And reads the teacher from where that command leaves it, which another configuration does not use."""
    teacher = default_config("digits").replace(width=0.5, teacher_only=True, run_dir=str(tmp_path / "t"))
    (tmp_path / "t" / "teacher").mkdir(parents=True)
    write_sealed(tmp_path / "t" / "config.json", {"config": teacher.flat()})
    student = default_config("digits").replace(width=0.5, seed=3, run_dir=str(tmp_path / "s"))
    for checkpoint in (tmp_path / "t", tmp_path / "t" / "teacher"):
        text = command(student.replace(teacher_checkpoint=str(checkpoint)))
        configs = [parsed(part) for part in text.split(" && ")]
        assert configs[0] == teacher.replace(run_dir=None)
        place = str(run_directory(configs[0]))
        assert configs[1] == student.replace(run_dir=None, teacher_checkpoint=place)
        assert place.startswith("runs/digits-convnet-temporal-t2-seed0-")
    other = run_directory(configs[0].replace(epochs=7))
    assert len({str(other), place, str(run_directory(default_config("digits")))}) == 3
    assert str(run_directory(default_config("digits"))) == "runs/digits-convnet-temporal-t2-seed0"
    gone = student.replace(teacher_checkpoint=str(tmp_path / "gone"))
    assert parsed(command(gone)).teacher.teacher_checkpoint == "gone"


def parsed(command: str) -> Config:
    words = shlex.split(command)
    assert words[:2] == ["snnkd", "train"]
    return parse(train, words[2:]).keywords["config"]


def commands(record: Any) -> list[str]:
    """Of trainings, in a record."""
    if isinstance(record, dict):
        return [command for value in record.values() for command in commands(value)]
    return [record] if isinstance(record, str) and record.startswith("snnkd train") else []


@pytest.mark.parametrize(
    "path", representatives(FILES, FILES[::6].__contains__), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_trainings_of_committed_records_can_be_done_again(path):
    """Their commands are understood, and a teacher's checkpoint is where the command before leaves it."""
    for line in commands(json.loads(path.read_text())):
        configs = [parsed(part) for part in line.split(" && ")]
        places = [None, *(str(run_directory(config)) for config in configs)]
        assert [config.teacher.teacher_checkpoint for config in configs] == places[: len(configs)]


def speed_entry(library: str, task: str, median: float) -> dict:
    return {
        "library": library,
        "task": task,
        "model": "resnet18",
        "num_steps": 4,
        "batch_size": 16,
        "images_per_second": {"median": median, "min": median - 1, "max": median + 1},
        "peak_bytes": 1_500_000_000,
        "first_step_seconds": 12.34,
        "rounds": [[1.0]] * 7,
        "utilisation": 0.5,
    }


def test_speed_has_a_row_for_each_library_and_one_for_rates():
    record = {
        "name": "x",
        "command": "python experiments/benchmark.py",
        "settings": {"libraries": ["snnkd_jax", "norse"], "rounds": 7, "threads": 2, "width": 1.0},
        "entries": [
            speed_entry("norse", "train", 10.0),
            speed_entry("snnkd_jax", "rate", 40.0),
            speed_entry("snnkd_jax", "train", 20.0),
            speed_entry("snnkd_jax", "inference", 80.0),
        ],
        "matmul": [{"flops_per_second": 3.9e11}],
        "failed": [],
        "versions": {"jax": "0.10.2", "numpy": "2"},
        "hardware": "1 cpu device(s) (2 x Somebody's)",
        "notes": "",
    }
    text = benchmark_tables([record])
    assert text.splitlines()[2:5] == [
        "| resnet18, batch 16 | 4 | snnkd_jax | 20 (19–21) | – | 80 (79–81) | 1.50 | 12.3 | 50 % |",
        "| resnet18, batch 16 | 4 | snnkd_jax, rate-based | 40 (39–41) | – | – | 1.50 | 12.3 | 50 % |",
        "| resnet18, batch 16 | 4 | norse | 10 (9–11) | – | – | 1.50 | 12.3 | 50 % |",
    ]
    assert "390 GFLOP/s" in text


def test_speed_on_a_gpu_names_integers_memory_flags_and_what_was_left_out(tmp_path):
    on_gpu = {"device": "gpu", "dtype": "bfloat16"}
    record = {
        "name": "gpu",
        "command": "python experiments/benchmark.py --device gpu --dtype bfloat16",
        "settings": {"libraries": ["snnkd_jax", "norse"], "threads": 2, "width": 1.0, "batch_size": None} | on_gpu,
        "entries": [
            speed_entry("snnkd_jax", "kd-integer", 30.0),
            speed_entry("norse", "train", 10.0),
            speed_entry("snnkd_jax", "integer", 40.0),
            speed_entry("snnkd_jax", "rate", 20.0),
        ],
        "matmul": [{"flops_per_second": 5e14}],
        "failed": [],
        "left_out": [{"library": "norse", "task": "kd", "model": "vgg11", "num_steps": 4}],
        "flags": {"snnkd_jax": ["state donated"], "norse": ["channels_last", "fused SGD"]},
        "versions": {},
        "hardware": "1 gpu device(s) (Somebody's)",
        "notes": "",
    }
    with pytest.raises(InputError, match="no record of speed"):  # its bars would stand beside those of a CPU
        draw([record | {"kind": "benchmark"}], tmp_path / "speed.svg")
    text = benchmark_tables([record])
    assert text.splitlines()[2:5] == [
        "| resnet18, batch 16 | 4 | snnkd_jax, rate-based | 20 (19–21) | – | – | 1.50 | 12.3 | 50 % |",
        "| resnet18, batch 16 | 1 x 4 | snnkd_jax, integer | 40 (39–41) | 30 (29–31) | – | 1.50 | 12.3 | 50 % |",
        "| resnet18, batch 16 | 4 | norse | 10 (9–11) | – | – | 1.50 | 12.3 | 50 % |",
    ]
    assert "width 1, bfloat16, on 1 gpu device(s)" in text
    assert "Memory (the most that was allocated on the device)" in text
    assert " snnkd_jax: state donated. norse: channels_last, fused SGD. No time was left for norse, kd, vgg11" in text


def test_time_to_accuracy_counts_the_first_epoch_and_the_median_of_the_others(tmp_path):
    """By hand: 9 s with compilation, then 5, 30 (something else ran) and 6, median 6; 60 % is reached in the third."""
    seconds, accuracies = [9.0, 5.0, 30.0, 6.0], [0.3, 0.5, 0.6, 0.7]
    lines = [
        {"phase": "student", "epoch": i + 1, "seconds": s, "validation": {"accuracy": a}}
        for i, (s, a) in enumerate(zip(seconds, accuracies, strict=True))
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert reached(tmp_path, 0.6) == {"seconds": 21.0, "epochs": 3, "epoch": 6.0}
    assert reached(tmp_path, 0.8) == {"seconds": None, "epochs": None, "epoch": 6.0}


def test_time_to_accuracy_has_mean_and_std_over_seeds():
    """Standard deviation of 10, 12, 14 by hand: 2; runs that never have the accuracy are no part of it."""
    record = {
        "name": "x",
        "command": "python x",
        "dataset": "CIFAR-10",
        "target": 0.6,
        "seeds": {"snnkd_jax": [0, 1, 2], "snnkd_jax, rate-based": [0, 1, 2], "SpikingJelly": [0]},
        "found": {
            "snnkd_jax": {"seconds": [10.0, 12.0, 14.0], "epochs": [2, 2, 2], "epoch": [5.0, 6.0, 7.0]},
            "snnkd_jax, rate-based": {"seconds": [8.0, None, 8.0], "epochs": [3, None, 3], "epoch": [4.0, 4.0, 4.0]},
            "SpikingJelly": {"seconds": [None], "epochs": [None], "epoch": [10.0]},
        },
        "test_accuracy": {"snnkd_jax": [0.5, 0.52, 0.54], "snnkd_jax, rate-based": [0.5] * 3, "SpikingJelly": [0.51]},
        "config": {"student": "vgg11", "width": 0.25, "num_steps": 4},
        "run_commands": {"snnkd_jax": "python y", "SpikingJelly": "python z"},
        "hardware": "2 x Somebody's",
        "versions": {"jax": "1.2"},
        "commit": "0123456789",
        "date": "2026-01-02",
        "notes": "Loud.",
    }
    text = time_tables([record])
    assert "to a validation accuracy of 60 %; seconds of the first epoch" in text
    assert "on 2 x Somebody's, jax 1.2, 2026-01-02. Loud.\n" in text
    # Eager, as that script ran then.
    assert "- `python x` (of commit 0123456), RUN of snnkd_jax, `python y`; SpikingJelly, `python z`\n" in text
    assert "seconds sums of the epochs as they were" in time_tables([record | {"sums": True}])
    rows = text.splitlines()[2:5]
    assert rows == [
        "| CIFAR-10, vgg11, width 0.25 | 4 | snnkd_jax | 3 | 12 ± 2 | 2.0 ± 0.0 | 6.0 ± 1.0 | 52.00 ± 2.00 |",
        "| CIFAR-10, vgg11, width 0.25 | 4 | snnkd_jax, rate-based | 3 | 8 ± 0 (2 of 3) | 3.0 ± 0.0 (2 of 3) "
        "| 4.0 ± 0.0 | 50.00 ± 0.00 |",
        "| CIFAR-10, vgg11, width 0.25 | 4 | SpikingJelly | 1 | not reached | not reached | 10.0 | 51.00 |",
    ]
    counted = record | {"time_steps": {"SpikingJelly": "1 x 4"}}
    assert "| CIFAR-10, vgg11, width 0.25 | 1 x 4 | SpikingJelly | 1 |" in time_tables([counted])


def test_early_exit_row():
    record = {
        "name": "x",
        "dataset": "MNIST",
        "config": {"dataset": "mnist", "student": "convnet", "width": 1.0, "preset": "none"},
        "num_steps": 4,
        "accuracy": {"full": 0.99, "early": 0.989},
        "mean_steps": {"test": 1.25},
        "images_per_second": {"full": 1000.4, "early": 2000.4},
        "speed_up": 2.0,
        "tolerance": 0.002,
        "threshold": 0.9,
        "batch_size": 100,
        "hardware": "2 x Somebody's",
        "command": "python x",
        "run_command": "python y",
    }
    assert "`python x`, RUN of `python y`; " in early_exit_table([record])
    assert "; the threshold is the lowest that loses at most 0.2 points" in early_exit_table([record])
    assert "; there is no threshold that loses at most 0.2 points" in early_exit_table([record | {"threshold": None}])
    row = early_exit_table([record]).splitlines()[2]
    assert row == "| MNIST, convnet, width 1, none | 4 | 99.00 | 98.90 | 1.25 | 1000 | 2000 | 2.00 |"


def test_readers_of_an_exported_network_have_a_row_each():
    reader = {
        "reader": "NumPy",
        "spikes": 12345,
        "differing_spikes": 0,
        "differing_classes": 0,
        "logit_difference": 0.0,
    }
    other = reader | {"reader": "theirs", "differing_spikes": 2, "differing_classes": 1, "logit_difference": 0.000123}
    record = {"name": "x", "images": 360, "num_steps": 4, "readers": [reader, other], "command": "python x", "run": "y"}
    rows = nir_section([record]).splitlines()
    assert rows[2:4] == ["| x | 360 | NumPy | 12,345 | 0 | 0 | 0 |", "| x | 360 | theirs | 12,345 | 2 | 1 | 0.0001 |"]
    assert rows[-1].endswith("`python x`, RUN of `y`, T = 4.")


def test_markers_are_needed():
    with pytest.raises(InputError, match="lacks the lines"):
        with_sections("no markers", {"results": ""})


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_record(path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem
    assert record.keys() >= {"command", "dataset", "seeds", "versions", "hardware", "commit", "date", "notes"}
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
    for metric in record["metrics"].values():
        assert len(metric["values"]) == len(record["seeds"])
        assert metric["mean"] == pytest.approx(statistics.fmean(metric["values"]))
        if len(metric["values"]) > 1:
            assert metric["std"] == pytest.approx(statistics.stdev(metric["values"]))


def test_gradients_show_all_weights_and_the_extremes():
    layer = {"cosine": 0.25, "norm_ratio": 1.5}
    record = {
        "name": "x",
        "layers": {"conv1": layer, "head": layer | {"cosine": 0.75}, "all": {"cosine": 0.5, "norm_ratio": 1.25}},
        "trained": True,
        "config": {"student": "vgg11", "width": 0.25, "num_steps": 4, "dataset": "cifar10"},
        "command": "python x",
        "run_command": "python y",
    }
    assert "`python x`, RUN of `python y`; " in gradient_table([record])
    row = gradient_table([record]).splitlines()[2]
    assert row == "| vgg11, width 0.25 | 4 | trained | 0.50 | 0.25, 0.75 | 1.25 |"


@pytest.mark.parametrize("path", sorted((RECORDS / "speed").glob("*.json")), ids=lambda path: path.stem)
def test_committed_record_of_speed(path):
    record = json.loads(path.read_text())
    assert record["name"] == path.stem
    assert re.fullmatch(r"[0-9a-f]{40}", record["commit"]), "made from a tree that was not committed"
    for entry in record["entries"] if record["kind"] == "benchmark" else ():
        seconds = [statistics.median(samples) for samples in entry["rounds"]]
        assert entry["seconds"]["median"] == pytest.approx(statistics.median(seconds))
        assert entry["images_per_second"]["median"] == pytest.approx(
            statistics.median(entry["batch_size"] / s for s in seconds)
        )
