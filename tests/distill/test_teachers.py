"""Teachers that are given: what a function may return, what it sees, and outputs that were computed once."""

import dataclasses
import functools
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from host_failures import logged

from snnkd_jax import data, experiment
from snnkd_jax.cli.train import main
from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.batches import MemorySource
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.teacher import Teacher, flax_teacher
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.errors import InputError
from snnkd_jax.experiment import run
from snnkd_jax.inference.trained import load
from snnkd_jax.models import build
from snnkd_jax.parallel.mesh import put_batch, put_replicated
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.teacher import is_near_chance
from snnkd_jax.training import teacher_store
from snnkd_jax.training.checkpoint import save_network
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.optim import make_optimizer
from snnkd_jax.training.saved import write_network
from snnkd_jax.training.teacher_store import STEPS_PER_FILE, TeacherStore, open_teacher_store
from snnkd_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("silent_layers")

SHAPE, K = (8, 8, 1), 10
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((64, K)).astype(np.float32)


def linear(variables, images):
    return images.reshape(images.shape[0], -1) @ variables


def make(teacher: Any, preset="temporal", **changes) -> Trainer:
    settings = {
        "network": build("convnet", K, neuron=LIF(), num_steps=2, width=0.1),
        "objective": PRESETS[preset],
        "optimizer": make_optimizer("sgd", learning_rate=0.1, num_steps=10),
        "normalisation": Normalisation((0.4,), (0.3,)),
        "augment": Augmentation(1, True, 3),
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
    # Its classifier reads its last stage, as this objective wants it.
    flat = {"network": build("vgg11", K, neuron=LIF(), num_steps=1, width=0.1), "image_shape": (32, 32, 1)}
    pooled = Teacher(lambda w, x: x.mean((1, 2)) @ w[:1], WEIGHTS)
    for lacks, refused in (
        ("no pre-activations", lambda: make(teacher, "kdsnn")),
        ("no stages", lambda: make(teacher, "lasnn")),
        ("no params/head", lambda: make(pooled, "enof", **flat)),
    ):
        with pytest.raises(InputError, match=f"{lacks}.*use kdsnn-response, temporal, tser, hta-kl, dist or seal"):
            refused()


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda _, x: x.reshape(x.shape[0], -1), r"logits of shape \(1, 64\) for one image, .* 10 classes"),
        (lambda w, x: linear(w, x)[None], r"its logits should be \[B, K\], not \(1, 1, 10\)"),
        (lambda w, x: (linear(w, x), {"stages": {"last": x[0]}}), r"stages 'last' should be \[B, H, W, C\], not \(8"),
        (lambda w, x: [linear(w, x)], r"its logits should be \[B, K\], not <class 'list'>"),
        (
            lambda w, x: (linear(w, x), None),
            "teacher 'function': its features should be a dictionary, not <class 'None",
        ),
        (lambda w, x: (linear(w, x), x), "its features should be a dictionary"),
        (lambda w, x: (linear(w, x), {"stages": [x]}), "its stages should be a dictionary, not <class 'list'>"),
    ],
)
def test_what_is_no_logits_and_no_features_is_told(function, told):
    with pytest.raises(InputError, match=told):
        make(Teacher(function, WEIGHTS))


@pytest.mark.slow
def test_a_teacher_sees_the_students_pixels_in_its_own_normalisation():
    """Augmentation first: what is blank there is black, whatever the normalisation. Features of others are let be."""
    pixels = Teacher(lambda _, x: (x[:, 0, :, 0] @ jnp.ones((8, K)), {"stages": {"stage1": x}, "embedding": x}))
    images, step = examples(6)["images"], np.int32(5)
    own = make(pixels, "lasnn", augment=Augmentation(), teacher_normalisation=Normalisation((0.5,), (0.25,)))
    students = dataclasses.replace(own, teacher_normalisation=None)
    for trainer, mean, std in ((own, 0.5, 0.25), (students, 0.4, 0.3)):
        found = jax.jit(trainer.teach)((), step, images)["features"]["stages"]["stage1"]
        np.testing.assert_allclose(found, (images / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    moved = dataclasses.replace(own, augment=Augmentation(1, True, 3))
    found = jax.jit(moved.teach)((), step, images)["features"]["stages"]["stage1"]
    seen = jax.jit(Augmentation(1, True, 3))(jax.random.fold_in(jax.random.key(3), 5), images / 255)
    np.testing.assert_allclose(found, (np.asarray(seen) - 0.5) / 0.25, rtol=1e-5, atol=1e-5)
    black = dataclasses.replace(own, augment=Augmentation(8), teacher_normalisation=Normalisation((1,), (2,)))
    moved = jax.jit(black.teach)((), step, np.full_like(images, 255))["features"]["stages"]["stage1"]
    assert set(np.unique(np.round(moved, 6))) == {-0.5, 0.0}  # not to every compiler 255 / 255 is 1


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
    variables = jax.jit(functools.partial(module.init, train=False))(jax.random.key(0), images)
    teacher = flax_teacher(module, variables, pre_activations=("first/conv", "second"), train=False)
    logits, features = jax.jit(teacher.apply)(teacher.variables, images)

    @jax.jit
    def expected(variables, images):
        first = Wrapped().apply({"params": variables["params"]["first"]}, images)
        return module.apply(variables, images, train=False), first

    for found, value in zip((logits, features["pre_activations"]["stage01"]), expected(variables, images), strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)
    assert features["pre_activations"]["stage02"].shape == (2, 8, 8, 4)
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


def opened(folder: Path, compute=None) -> TeacherStore:
    return TeacherStore(MemorySource(examples(12), 4, 0), folder, OUTPUTS, compute or Counted())


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


def raise_error(error: Exception):
    raise error


def test_an_interrupted_file_is_no_file(tmp_path, monkeypatch):
    def compute(step):
        if step == 7:
            raise KeyboardInterrupt
        return Counted.of(step)

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path, compute).outputs(0)
    assert not list(tmp_path.iterdir())
    (tmp_path / "left.tmp").write_bytes(b"of a run that was killed")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: raise_error(OSError(28, "full")))
        with pytest.raises(InputError, match=r"000000\.bin cannot be written \(full\)"):
            opened(tmp_path).outputs(0)
    assert [path.name for path in tmp_path.iterdir()] == ["left.tmp"]
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


@pytest.mark.slow
def test_a_store_is_of_one_teacher_data_seed_and_augmentation(tmp_path, monkeypatch):
    """What a run cannot use is in another folder, and a function that hides behind the same description is found."""
    monkeypatch.setattr(teacher_store, "STEPS_PER_FILE", 2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    folders: set[str] = set()

    def taught(trainer, variables=WEIGHTS, size=4, known=False, grey=9, **described):
        """Opens a store of grey images, which is `known` or not."""
        images = np.full((12, *SHAPE), grey, np.uint8)
        source = MemorySource({"images": images, "labels": np.zeros(12, np.int32)}, size, 3)
        found = open_teacher_store(source, tmp_path, trainer, variables, 6, mesh, described)
        before = set(folders)
        folders.update(path.name for path in tmp_path.iterdir())
        assert len(folders) == len(before) + (not known)
        return found

    trainer = make(Teacher(linear, WEIGHTS), augment=Augmentation())
    assert taught(trainer).outputs(0)["logits"].shape == (4, K)
    taught(trainer, known=True)
    taught(trainer, WEIGHTS + 1)
    taught(trainer, size=6)
    taught(trainer, images="others")
    taught(trainer, grey=8)  # as another split of the same images would give
    taught(dataclasses.replace(trainer, seed=4))
    taught(dataclasses.replace(trainer, augment=Augmentation(1)))
    taught(dataclasses.replace(trainer, teacher_normalisation=Normalisation((0.1,), (1.0,))))

    both = Teacher(lambda w, x: (linear(w, x), {"stages": {"s": x}, "pre_activations": {"s": -x}}), WEIGHTS)
    for preset, kind, sign in (("lasnn", "stages", 1), ("kdsnn-feature", "pre_activations", -1)):
        outputs = taught(make(both, preset, augment=Augmentation())).outputs(1)
        np.testing.assert_allclose(outputs["features"][kind]["s"], sign * (9 / 255 - 0.4) / 0.3, rtol=1e-5)

    hidden = make(Teacher(lambda w, x: linear(-w, x), WEIGHTS), augment=Augmentation())
    with pytest.raises(InputError, match="of another teacher, or of other data; delete it"):
        taught(hidden)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(InputError, match=r"GB are needed, .* has 1e-08 GB free"):
        taught(dataclasses.replace(trainer, seed=5))


# --- whole runs

TINY = {"width": 0.1, "teacher_width": 0.1, "epochs": 2, "warmup_epochs": 0, "batch_size": 320, "baseline": False}


@pytest.fixture
def one_device(monkeypatch):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    monkeypatch.setattr(experiment, "data_mesh", lambda *_: mesh)
    return mesh


def config(run_dir: Path, **changes) -> Config:
    return default_config("digits").replace(**TINY, run_dir=str(run_dir), **changes)


def nearest_mean() -> Teacher:
    """A classifier that is no network: the class whose mean image is nearest."""
    digits = data.load("digits")
    means = np.stack([digits.train_images[digits.train_labels == k].mean(axis=0) for k in range(K)]) / 255

    def function(means, images):
        return -jnp.square(images[:, None] - means).sum((2, 3, 4))

    return Teacher(function, means.astype(np.float32), Normalisation((0.0,), (1.0,)), "nearest mean")


@pytest.mark.usefixtures("one_device")
def test_a_training_on_one_image_at_a_time_is_refused_before_it_begins(tmp_path):
    """Where a batch norm reads one value per channel of it; here the teacher's hidden layer."""
    with pytest.raises(
        InputError, match="teacher 'convnet': batch norm 'norm_hidden' is trained on one value per channel"
    ):
        run(config(tmp_path / "run").replace(batch_size=2, accumulate=2))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.optimised
def test_a_run_with_a_function_is_the_same_bit_for_bit_with_a_store(tmp_path, one_device, monkeypatch, capsys):
    """The live teacher has a program of its own: inside the step, XLA rounds a ResNet-18 otherwise."""
    del one_device
    step = Trainer.step

    def guided(self, state, teacher_variables, batch):
        assert ("teacher" in batch) == self.is_guided
        return step(self, state, teacher_variables, batch)

    monkeypatch.setattr(Trainer, "step", guided)
    monkeypatch.setattr(teacher_store, "STEPS_PER_FILE", 3)
    store = {"store_teacher": str(tmp_path / "store")}
    live = run(config(tmp_path / "live"), nearest_mean())
    stored = run(config(tmp_path / "run", **store), nearest_mean())
    assert stored["test_accuracy"] == live["test_accuracy"]
    assert stored["test_accuracy"]["teacher"] > 0.5
    assert logged(tmp_path / "run") == logged(tmp_path / "live")
    assert [entry["kd"] > 0 for entry in logged(tmp_path / "run")] == [True, True]
    printed = capsys.readouterr()
    assert "store_teacher: 0.000115 GB for 8 steps are to be added" in printed.out + printed.err
    # Without the store it is no other run, and finished; with another teacher of that name it is another.
    assert run(config(tmp_path / "run"), nearest_mean()) == stored
    other = dataclasses.replace(nearest_mean(), variables=nearest_mean().variables + 0.1)
    with pytest.raises(InputError, match=r"holds another run; teacher \(was 'given:nearest mean-"):
        run(config(tmp_path / "run"), other)


@pytest.mark.slow
@pytest.mark.optimised
def test_a_training_on_stored_features_is_the_same_bit_for_bit(tmp_path, one_device, monkeypatch):
    """As the loop trains; written by one training and read by another, which does not run the teacher."""
    monkeypatch.setattr(teacher_store, "STEPS_PER_FILE", 2)
    network = build("convnet", K, width=0.1)
    variables = network.init(jax.random.key(1), SHAPE)
    trainer, source = make(network, "kdsnn"), MemorySource(examples(40), 8, 3)
    steps = compile_steps(trainer, one_device)
    assert steps.teach is not None

    def trained(source, teach):
        state, metrics = put_replicated(one_device, jax.jit(trainer.init)()), []
        for step in range(5):
            batch = put_batch(one_device, source(step))
            if "teacher" not in batch:
                batch["teacher"] = teach(variables, state.step, batch["images"])
            state, found = steps.train(state, variables, batch)
            metrics.append(found)
        return jax.device_get((state, metrics))

    live = trained(source, steps.teach)
    for _ in range(2):
        taught = open_teacher_store(source, tmp_path, trainer, variables, 5, one_device, {})
        jax.tree.map(np.testing.assert_array_equal, trained(taught, None), live)
        monkeypatch.setattr(TeacherStore, "_write", None)
    assert live[1][0]["feature"] > 0


@pytest.mark.slow
def test_a_converted_teacher_is_loaded_as_one_of_the_runs_networks(tmp_path):
    """With the pooling that its description says."""
    logits = {}
    for pool in ("avg", "max"):
        network = build("convnet", K, width=0.1, pool=pool)
        variables = network.init(jax.random.key(1), SHAPE)
        save_network(tmp_path / pool / "teacher", variables)
        save_network(tmp_path / pool / "teacher", variables)  # again, after a crash
        description = {
            **{"model": "convnet", "width": 0.1, "levels": None, "pool": pool, "dtype": "float32", "num_classes": K},
            **{"image_shape": SHAPE, "dataset": "digits", "class_names": list("0123456789"), "spiking": None},
            "normalisation": {"mean": [0.5], "std": [0.25]},
        }
        write_network(tmp_path / pool / "teacher", description)
        found = load(tmp_path / pool, "teacher")
        assert found.network.arguments
        assert (found.network.arguments.pool, found.normalisation) == (pool, Normalisation((0.5,), (0.25,)))
        jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
        images = jnp.linspace(-1, 1, 64).reshape(1, *SHAPE)
        logits[pool] = [jax.jit(n.apply)(variables, images)[0] for n in (found.network, network)]
        np.testing.assert_array_equal(*logits[pool])
    assert np.abs(logits["avg"][0] - logits["max"][0]).max() > 1e-3


@pytest.mark.usefixtures("one_device")
def test_a_teacher_that_knows_nothing_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"given:guess-[0-9a-f]{8}: validation accuracy .* near chance, 0\.1000; give"):
        run(config(tmp_path / "run"), Teacher(lambda w, x: 0 * linear(w, x), WEIGHTS, name="guess"))
    assert not (tmp_path / "run").exists()


def test_near_chance_whatever_the_number_of_classes():
    """0.1 way up of two classes is 0.55; twice chance of ten is 0.2, more than their 0.19."""
    at = [(0.54, 2), (0.56, 2), (0.18, 10), (0.195, 10), (0.0019, 1000), (0.0021, 1000)]
    assert [is_near_chance(accuracy, 1 / k) for accuracy, k in at] == [True, False] * 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--teacher", "torch:nowhere.pt"], "nowhere.pt does not exist"),
        (["--teacher", "given:mine"], "'given:mine' is a function"),
        (["--teacher", "r18.pth"], "teacher='r18.pth' is no architecture but a file; give teacher='torch:r18.pth'"),
        (["--teacher", "nets/last.ckpt"], "give teacher='torch:nets/last.ckpt'"),
        (["--teacher", "net.safetensors"], "give teacher='torch:net.safetensors'"),
        (["--teacher", "PyTorch:net.tar"], "give teacher='torch:net.tar'"),
        (["--teacher", "."], "a directory; give teacher_checkpoint='.'"),
        (["--teacher", "resnet81"], "'resnet81' is unknown (did you mean resnet1"),
        (["--teacher-entry", "ema"], "teacher_entry='ema' goes with teacher='torch:FILE'"),
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
    config = Config().replace(
        teacher="torch:/home/me/resnet18.pt", teacher_checkpoint="/home/me/run", store_teacher="/home/me"
    )
    published = config.published()
    assert (published.teacher.teacher, published.teacher.teacher_checkpoint) == ("torch:resnet18.pt", "run")
    assert (published.teacher.store_teacher, published.run.run_dir) == (None, None)


@pytest.mark.usefixtures("one_device")
def test_a_function_has_no_weights_to_begin_with(tmp_path):
    with pytest.raises(InputError, match=r"initial_weights='teacher': .*function has no weights; use 'random'"):
        run(config(tmp_path / "run", initial_weights="teacher"), nearest_mean())
    assert not (tmp_path / "run").exists()
