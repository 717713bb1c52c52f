"""Teachers that are given: what a function may return, what it sees, and outputs that were computed once."""

import dataclasses
import json
import shutil
import threading
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnkd_jax import data
from snnkd_jax.augment import Augmentation
from snnkd_jax.batches import InMemory
from snnkd_jax.cli import main
from snnkd_jax.config import Config, default_config
from snnkd_jax.distill import PRESETS
from snnkd_jax.errors import InputError
from snnkd_jax.experiment import run
from snnkd_jax.models import Neuron, build
from snnkd_jax.optim import make_optimizer
from snnkd_jax.teacher import Teacher, flax_teacher
from snnkd_jax.teacher_store import STEPS_PER_FILE, TaughtSource, taught_source
from snnkd_jax.train import Normalisation, Trainer
from snnkd_jax.trained import load_trained

SHAPE, K = (8, 8, 1), 10
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((64, K)).astype(np.float32)


def linear(variables, images):
    return images.reshape(images.shape[0], -1) @ variables


def make(teacher: Any, preset="temporal", **changes) -> Trainer:
    settings = {
        "network": build("convnet", K, neuron=Neuron(), num_steps=2, width=0.1),
        "objective": PRESETS[preset],
        "optimizer": make_optimizer("sgd", learning_rate=0.1, num_steps=10),
        "normalisation": Normalisation((0.4,), (0.3,)),
        "augmentation": Augmentation(1, True, 3),
        "image_shape": SHAPE,
        "seed": 3,
        "teacher": teacher,
    }
    return Trainer(**settings | changes)


def examples(n: int) -> dict[str, np.ndarray]:
    return {"images": RNG.integers(0, 256, (n, *SHAPE), np.uint8), "labels": np.arange(n, dtype=np.int32) % K}


# --- what a teacher is


def test_a_function_of_logits_alone_is_refused_by_what_needs_more():
    """By name of what does without."""
    teacher = Teacher(linear, WEIGHTS)
    make(teacher, "temporal")
    make(teacher, "none")
    for preset, lacks in (("kdsnn", "no currents"), ("lasnn", "no stages"), ("enof", "no params/head")):
        with pytest.raises(InputError, match=f"{lacks}.*use kdsnn-response, temporal, tser, hta-kl or dist"):
            make(teacher, preset)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda _, x: x.reshape(x.shape[0], -1), r"logits of shape \(1, 64\) for one image, .* 10 classes"),
        (lambda w, x: linear(w, x)[None], r"its logits should be \[B, K\], not \(1, 1, 10\)"),
        (lambda w, x: (linear(w, x), {"stages": {"last": x[0]}}), r"stages 'last' should be \[B, H, W, C\], not \(8"),
        (lambda w, x: [linear(w, x)], r"its logits should be \[B, K\], not <class 'list'>"),
    ],
)
def test_what_is_no_logits_and_no_features_is_told(function, told):
    with pytest.raises(InputError, match=told):
        make(Teacher(function, WEIGHTS))


def test_a_teacher_sees_the_students_pixels_in_its_own_normalisation():
    """Augmentation first: what is blank there is black, whatever the normalisation."""
    pixels = Teacher(lambda _, x: (x[:, 0, :, 0] @ jnp.ones((8, K)), {"stages": {"stage1": x}}))
    images, step = examples(6)["images"], np.int32(5)
    own = make(pixels, "lasnn", augmentation=Augmentation(), teacher_normalisation=Normalisation((0.5,), (0.25,)))
    found = own.teach((), step, images)["features"]["stage1"]
    np.testing.assert_allclose(found, (images / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-5)
    students = dataclasses.replace(own, teacher_normalisation=None).teach((), step, images)["features"]["stage1"]
    np.testing.assert_allclose(students, (images / 255 - 0.4) / 0.3, rtol=1e-5, atol=1e-5)
    black = dataclasses.replace(own, augmentation=Augmentation(8), teacher_normalisation=Normalisation((1,), (2,)))
    moved = np.asarray(black.teach((), step, np.full_like(images, 255))["features"]["stage1"])
    assert set(np.unique(moved)) == {-0.5, 0.0}


class Small(nn.Module):
    """Two stages; what enters their ReLU are the outputs of the convolutions."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(Wrapped(name="first")(x))
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.avg_pool(nn.relu(nn.Conv(4, (3, 3), name="second")(x)), (2, 2), (2, 2))
        return nn.Dense(K, name="out")(x.reshape(x.shape[0], -1))


class Wrapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(3, (3, 3), name="conv")(x)


def test_a_flax_module_gives_the_features_that_are_named():
    module, images = Small(), jnp.asarray(RNG.standard_normal((2, *SHAPE)).astype(np.float32))
    variables = module.init(jax.random.key(0), images, train=False)
    teacher = flax_teacher(module, variables, currents=("first/conv", "second"), train=False)
    logits, features = teacher.apply(teacher.variables, images)
    np.testing.assert_array_equal(logits, module.apply(variables, images, train=False))  # pyright: ignore[reportArgumentType]
    first = Wrapped().apply({"params": variables["params"]["first"]}, images)
    np.testing.assert_array_equal(features["currents"]["stage01"], first)  # pyright: ignore[reportArgumentType]
    assert features["currents"]["stage02"].shape == (2, 8, 8, 4)
    assert features["stages"] == {}
    make(teacher, "kdsnn")
    with pytest.raises(InputError, match=r"no submodule 'third' that is called"):
        make(flax_teacher(module, variables, stages=("third",), train=False), "lasnn")


# --- the store


class Counted:
    """Outputs that are functions of the step, and how often they were computed."""

    def __init__(self, delay=0.0):
        self.steps, self.delay = [], delay

    def __call__(self, step):
        self.steps.append(step)
        time.sleep(self.delay)
        return self.of(step)

    @staticmethod
    def of(step):
        rng = np.random.default_rng(step)
        return {"features": {"s": rng.random((4, 2, 2, 3), np.float32)}, "logits": rng.random((4, K), np.float32)}


OUTPUTS = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), Counted.of(0))


def opened(folder: Path, compute=None) -> TaughtSource:
    return TaughtSource(InMemory(examples(12), 4, 0), folder, OUTPUTS, compute or Counted())


def test_outputs_are_computed_once_and_read_again(tmp_path):
    compute = Counted()
    source = opened(tmp_path, compute)
    for step in (0, 1, STEPS_PER_FILE + 3, 7):
        jax.tree.map(np.testing.assert_array_equal, source(step)["teacher"], Counted.of(step))
    assert compute.steps == list(range(2 * STEPS_PER_FILE))
    other = opened(tmp_path, compute)
    assert other(STEPS_PER_FILE - 1).keys() == {"images", "labels", "teacher"}
    assert len(compute.steps) == 2 * STEPS_PER_FILE
    assert (source.batch_size, source.steps_per_epoch) == (4, 3)
    size = STEPS_PER_FILE * 4 * (4 * 12 + 4 * K)
    assert other.missing_bytes(3 * STEPS_PER_FILE + 1) == 2 * size
    assert [path.stat().st_size for path in tmp_path.iterdir()] == [size + 32] * 2


def test_an_interrupted_file_is_no_file(tmp_path):
    def compute(step):
        if step == 7:
            raise KeyboardInterrupt
        return Counted.of(step)

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, compute).outputs(0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "left.tmp").write_bytes(b"of a run that was killed")
    jax.tree.map(np.testing.assert_array_equal, opened(tmp_path).outputs(7), Counted.of(7))


def test_runs_that_write_the_same_file_at_once_leave_one(tmp_path):
    sources = [opened(tmp_path, Counted(0.001)) for _ in range(4)]
    threads = [threading.Thread(target=source.outputs, args=(0,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["000000.bin"]
    for source in [*sources, opened(tmp_path)]:
        jax.tree.map(np.testing.assert_array_equal, source.outputs(5), Counted.of(5))


def test_a_damaged_file_is_told_and_not_used(tmp_path):
    opened(tmp_path).outputs(0)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"000000\.bin is damaged; delete it"):
            opened(tmp_path).outputs(0)
    for content in (b"", whole[:-1], whole + b"0"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"000000\.bin is damaged; delete it"):
            opened(tmp_path).outputs(0)
    file.unlink()
    jax.tree.map(np.testing.assert_array_equal, opened(tmp_path).outputs(0), Counted.of(0))


def test_a_store_is_of_one_teacher_data_seed_and_augmentation(tmp_path, monkeypatch):
    """What a run cannot use is in another folder, and a function that hides behind the same description is found."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    folders: set[str] = set()

    def taught(trainer, variables=WEIGHTS, size=4, known=False, **described):
        """Opens a store of grey images, which is `known` or not."""
        images = np.full((12, *SHAPE), 9, np.uint8)
        source = InMemory({"images": images, "labels": np.zeros(12, np.int32)}, size, 3)
        found = taught_source(source, tmp_path, trainer, variables, num_steps=6, mesh=mesh, described=described)
        before = set(folders)
        folders.update(path.name for path in tmp_path.iterdir())
        assert len(folders) == len(before) + (not known)
        return found

    trainer = make(Teacher(linear, WEIGHTS))
    assert taught(trainer).outputs(0)["logits"].shape == (4, K)
    taught(trainer, known=True)
    taught(trainer, WEIGHTS + 1)
    taught(trainer, size=6)
    taught(trainer, images="others")
    taught(dataclasses.replace(trainer, seed=4))
    taught(dataclasses.replace(trainer, augmentation=Augmentation(1, True, 2)))
    taught(dataclasses.replace(trainer, teacher_normalisation=Normalisation((0.1,), (1.0,))))

    both = Teacher(lambda w, x: (linear(w, x), {"stages": {"s": x}, "currents": {"s": -x}}), WEIGHTS)
    for preset, sign in (("lasnn", 1), ("kdsnn-feature", -1)):
        outputs = taught(make(both, preset, augmentation=Augmentation())).outputs(1)
        np.testing.assert_allclose(outputs["features"]["s"], sign * (9 / 255 - 0.4) / 0.3, rtol=1e-5)

    hidden = make(Teacher(lambda w, x: linear(-w, x), WEIGHTS))
    with pytest.raises(InputError, match="of another teacher, or of other data; delete it"):
        taught(hidden)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(InputError, match=r"GB are needed, .* has 1e-08 GB free"):
        taught(dataclasses.replace(trainer, seed=5))


# --- whole runs

TINY = {"width": 0.1, "teacher_width": 0.1, "epochs": 2, "baseline": False}


@pytest.fixture(autouse=True)
def _restore_warnings(monkeypatch):
    """The command line prints warnings its own way; here they stay errors, but for untrained silent layers."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    warnings.filterwarnings("ignore", message=".*(silent|saturated) layers.*")


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """One compilation cache for all runs of this file."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("cache")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def logged(run_dir: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{n: v for n, v in entry.items() if n not in ("seconds", "images_per_second")} for entry in entries]


def config(run_dir: Path, **changes) -> Config:
    return dataclasses.replace(default_config("digits"), **TINY, run_dir=str(run_dir), **changes)


def nearest_mean() -> Teacher:
    """A classifier that is no network: the class whose mean image is nearest."""
    digits = data.load("digits")
    means = np.stack([digits.train_images[digits.train_labels == k].mean(axis=0) for k in range(K)]) / 255

    def function(means, images):
        return -jnp.square(images[:, None] - means).sum((2, 3, 4))

    return Teacher(function, means.astype(np.float32), Normalisation((0.0,), (1.0,)), "nearest mean")


@pytest.mark.usefixtures("compiled_once")
def test_stored_outputs_give_the_same_training_bit_for_bit(tmp_path, monkeypatch, capsys):
    """With logits of a function and with features of a network, written by one run and read by another."""
    alone = tmp_path / "alone"
    assert main(["--dataset", "digits", "--width", "0.1", "--teacher-width", "0.1", "--epochs", "2", "--teacher-only",
                 "--teacher-pool", "max", "--run-dir", str(alone)]) == 0  # fmt: skip
    own = {"teacher_checkpoint": str(alone), "preset": "kdsnn", "teacher_pool": "max"}
    for name, changes, teacher in (("function", {}, nearest_mean()), ("network", own, None)):
        folder = tmp_path / name
        live = run(config(folder / "live", **changes), teacher)
        store = {"store_teacher": str(folder / "store")}
        run(config(folder / "written", **changes, **store), teacher)
        with monkeypatch.context() as patch:
            patch.setattr(TaughtSource, "_write", None)
            read = run(config(folder / "read", **changes, **store), teacher)
        assert read["test_accuracy"] == live["test_accuracy"]
        assert live["test_accuracy"]["teacher"] > 0.2
        for other in ("written", "read"):
            assert logged(folder / other) == logged(folder / "live")
            assert logged(folder / other)[-1]["kd"] > 0
        # The same run without the store is no other run.
        run(config(folder / "read", **changes), teacher)
    printed = capsys.readouterr()
    assert "store_teacher: 0.000128 GB for 40 steps" in printed.out + printed.err
    trained = load_trained(alone, "teacher")
    assert trained.config.teacher_pool == "max"
    accuracy = json.loads((alone / "result.json").read_text())["test_accuracy"]["teacher"]
    digits = data.load("digits")
    logits, _ = trained.network.apply(trained.variables, trained.normalisation(digits.test_images))
    assert (np.asarray(logits).argmax(-1) == digits.test_labels).mean() == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.usefixtures("compiled_once")
def test_a_teacher_that_knows_nothing_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"given:guess: validation accuracy .* near chance, 0\.1000; give"):
        run(config(tmp_path / "run"), Teacher(lambda w, x: 0 * linear(w, x), WEIGHTS, name="guess"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--teacher", "torch:nowhere.pt"], "nowhere.pt does not exist"),
        (["--teacher", "given:mine"], "'given:mine' is a function"),
        (["--teacher", "torch:a.pt", "--teacher-checkpoint", "b"], "teacher_checkpoint='b'"),
        (["--teacher", "torch:a.pt", "--teacher-levels", "4"], "teacher_levels=4"),
        (["--teacher", "torch:a.pt", "--teacher-pool", "max"], "teacher_pool='max'"),
        (["--teacher", "torch:a.pt", "--preset", "none"], "uses no teacher"),
        (["--teacher", "torch:a.pt", "--teacher-only"], "trains no teacher"),
        (["--teacher", "torch:a.pt", "--teacher-normalisation", "imagnet"], "did you mean imagenet"),
        (["--teacher", "torch:a.pt", "--teacher-normalisation", "0.5/0"], "teacher_normalisation='0.5/0'"),
        (["--teacher-normalisation", "imagenet"], "goes with teacher='torch:FILE'"),
        (["--store-teacher", "s", "--preset", "tet"], "store_teacher='s': preset 'tet' uses no teacher"),
        (["--teacher-pool", "min"], "pool 'min'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_told_in_one_line(capsys, tmp_path, arguments, told):
    assert main(["--dataset", "digits", "--width", "0.1", *arguments, "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert not (tmp_path / "run").exists()


def test_records_name_files_without_their_folders():
    config = Config(teacher="torch:/home/me/resnet18.pt", teacher_checkpoint="/home/me/run", store_teacher="/home/me")
    published = config.published()
    assert (published.teacher, published.teacher_checkpoint) == ("torch:resnet18.pt", "run")
    assert (published.store_teacher, published.run_dir) == (None, None)
