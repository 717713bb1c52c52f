"""A trained network in use: what it answers, whole or step by step, here or as StableHLO, and what it refuses."""

import copy
import dataclasses
import functools
import hashlib
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representative import representatives, slow

import snnkd_jax
from snnkd_jax import data
from snnkd_jax.cli.train import main
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.neurons import IF, LIF, PLIF, Neuron
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_sealed
from snnkd_jax.inference.convert import convert
from snnkd_jax.inference.trained import Trained
from snnkd_jax.interop.stablehlo import write_artifact
from snnkd_jax.models import Network
from snnkd_jax.models.activation import QCFS, ReLU, Spike
from snnkd_jax.models.convnet import ConvNet
from snnkd_jax.models.layers import AvgPool, MaxPool
from snnkd_jax.models.resnet import ResNet
from snnkd_jax.training.manifest import read_manifest

IMAGES = data.load("digits").test_images[:192]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short run of a student alone."""
    run_dir = tmp_path_factory.mktemp("runs") / "digits"
    arguments = ["--dataset", "digits", "--width", "0.1", "--preset", "none", "--epochs", "2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([*arguments, "--run-dir", str(run_dir)]) == 0
    return run_dir


@pytest.fixture(scope="module")
def student(run) -> Trained:
    return snnkd_jax.load(run)


@pytest.fixture(scope="module")
def expected(run) -> np.ndarray:
    """The classes by the network of training, its norms not folded, all steps at once."""
    trained = snnkd_jax.load(run)
    logits, _ = jax.jit(trained.network.apply)(trained.variables, trained.normalisation(IMAGES))
    return np.asarray(logits.mean(1).argmax(-1))


@pytest.mark.parametrize("batch", [1, 3, 64, 192])
def test_prediction_is_the_networks(student, expected, batch):
    """In batches of any size, which need not divide what is computed together."""
    parts = [student.predict(IMAGES[i : i + batch]) for i in range(0, 192 if batch > 1 else 20, batch)]
    classes = np.concatenate([part.classes for part in parts])
    np.testing.assert_array_equal(classes, expected[: len(classes)])
    assert [name for part in parts for name in part.names] == [str(digit) for digit in classes]
    assert {int(steps) for part in parts for steps in part.steps} == {2}
    assert len(set(classes)) >= 2, "the case tells no classes apart"


@pytest.mark.slow
def test_numbers_beside_the_class(run, student):
    """Logits, confidence and firing rates against the network of training at another T."""
    trained = snnkd_jax.load(run)
    logits, features = jax.jit(trained.with_steps(5).apply)(trained.variables, trained.normalisation(IMAGES[:30]))
    found = student.predict(IMAGES[:30], num_steps=5)
    np.testing.assert_allclose(found.logits, logits.mean(1), rtol=1e-4, atol=1e-4)
    p = np.exp(found.logits.astype(float))
    np.testing.assert_allclose(found.confidence, (p / p.sum(-1, keepdims=True)).max(-1), rtol=1e-5)
    assert found.firing_rates.keys() == {"act1", "act2", "act_hidden"}
    for name, rate in features["firing_rates"].items():
        np.testing.assert_allclose(found.firing_rates[name], rate, atol=1e-6)
    assert found.steps.tolist() == [5] * 30


def test_floats_and_grey_images_are_the_bytes(student):
    """To the last bit, also of float64 and without the axis of the channel."""
    whole = student.predict(IMAGES[:5])
    for images in (IMAGES[:5, ..., 0], IMAGES[:5] / 255, (IMAGES[:5] / 255).astype(np.float32), jnp.array(IMAGES[:5])):
        np.testing.assert_array_equal(student.predict(images).logits, whole.logits)


@pytest.fixture
def traced_sizes(monkeypatch) -> list[int]:
    """The sizes of the batches for which a step is traced."""
    sizes = []
    apply_from = Network.apply_from

    def spy(network, variables, images, state):
        sizes.append(len(images))
        return apply_from(network, variables, images, state)

    monkeypatch.setattr(Network, "apply_from", spy)
    return sizes


def test_no_image_and_few_programs(student, traced_sizes):
    """Batches of 5 to 8 are one program; none is one of a single image. Frames and T are not compiled for."""
    fresh = dataclasses.replace(student)
    empty = fresh.predict(IMAGES[:0])
    assert (empty.logits.shape, empty.names) == ((0, 10), ())
    for size in (1, 5, 6, 7, 8):
        for num_steps in (1, 2, 3):
            assert fresh.predict(IMAGES[:size], num_steps).logits.shape == (size, 10)
    fresh.predict(np.stack([IMAGES[:5]] * 4, axis=1))
    assert traced_sizes == [1, 8]


COPIES = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "copy": copy.copy, "deepcopy": copy.deepcopy}


@pytest.mark.parametrize(
    ("case", "copied"),
    [
        ("loaded", "pickle"),
        slow("plif to -0.1", "copy"),
        slow("if soft, residual", "deepcopy"),
        slow("an ANN", "pickle"),
    ],
)
def test_a_network_that_has_predicted_can_be_pickled_and_copied(student, case, copied):
    """With its compiled programs left behind; the copy predicts the same bits, and can teach."""
    cases = {"loaded": lambda: student, "an ANN": lambda: made(ReLU), **CASES}
    trained = cases[case]()
    images = IMAGES[:3] if case == "loaded" else np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    expected = trained.predict(images)
    assert "_stepper" in vars(trained)
    other = COPIES[copied](trained)
    assert vars(other).keys() == {field.name for field in dataclasses.fields(Trained)}
    jax.tree.map(np.testing.assert_array_equal, other.predict(images), expected)
    assert (other.title, other.class_names, other.image_shape) == (trained.title, trained.class_names, (8, 8, 1))
    assert other.as_teacher().title == trained.as_teacher().title


T = 4


def made(activation: Any, body: Any = ConvNet, **options) -> Trained:
    """A network for images 8 x 8 x 1 with random weights and norms, learned time constants of 3 and thresholds of 1."""
    if isinstance(activation, Neuron):
        activation = functools.partial(Spike, activation, num_steps=T)
    num_steps = T if getattr(activation, "func", None) is Spike else None
    network = Network(body(num_classes=5, activation=activation, width=0.1, **options), num_steps)
    rng = np.random.default_rng(0)

    def random_of(path, x):
        if not x.shape:
            return np.float32({"w": -np.log(2), "threshold": 1}[path[-1].key])
        low, high = {"mean": (-0.1, 0.1), "bias": (0, 0.3), "kernel": (-0.5, 0.5)}.get(path[-1].key, (0.7, 1.3))
        return rng.uniform(low, high, x.shape).astype(np.float32)

    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), (8, 8, 1)))
    variables = jax.tree_util.tree_map_with_path(random_of, shapes)
    return Trained(network, variables, Normalisation((0.3,), (0.2,)), (8, 8, 1), tuple("abcde"), "digits")


CASES = {
    "lif": lambda: made(LIF(tau=3.0)),
    "lif soft, max pooling": lambda: made(LIF(v_reset=None, decay_input=False), pool=MaxPool),
    "plif to -0.1": lambda: made(PLIF(v_reset=-0.1)),
    "if soft, residual": lambda: made(IF(v_reset=None), ResNet, stage_sizes=(1, 1), stage_channels=(32, 64)),
}


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("case", representatives(CASES, lambda case: case == "plif to -0.1"))
def test_a_stream_is_the_sequence(case):
    """Bit for bit what the sequence gives at once; both are the network that makes all steps in one program."""
    trained = CASES[case]()
    frames = np.random.default_rng(1).integers(0, 256, (3, T, 8, 8, 1), np.uint8)
    whole = trained.folded().predict(frames)
    stream = trained.folded()
    state, outputs = stream.start(3), []
    for t in range(T):
        state, output = stream.step(state, frames[:, t])
        outputs.append(jax.device_get(output))
        assert output.steps.tolist() == [t + 1] * 3
    jax.tree.map(np.testing.assert_array_equal, outputs[-1], whole)
    logits, features = jax.jit(trained.network.apply)(trained.variables, trained.normalisation(frames))
    np.testing.assert_allclose(whole.logits, logits.mean(1), rtol=1e-4, atol=1e-4)
    for name, rate in features["firing_rates"].items():
        np.testing.assert_allclose(whole.firing_rates[name], rate, atol=1e-6)
    assert any(0 < float(rate.mean()) < 1 for rate in features["firing_rates"].values()), "all neurons are alike"


@pytest.mark.slow
@pytest.mark.parametrize("pool", [AvgPool, MaxPool])
def test_a_converted_network_starts_where_its_neurons_do(pool):
    """Networks converted by QCFS start from half a threshold, and sums for maxima from 0."""
    teacher = made(functools.partial(QCFS, 4), pool=pool)
    converted = convert(teacher, IMAGES, T)
    logits, features = jax.jit(converted.network.apply)(converted.variables, converted.normalisation(IMAGES[:3]))
    found = converted.predict(IMAGES[:3])
    np.testing.assert_allclose(found.logits, logits.mean(1), rtol=1e-4, atol=1e-5)
    for name, rate in features["firing_rates"].items():
        np.testing.assert_allclose(found.firing_rates[name], rate, atol=1e-6)
    assert type(converted.network.module).__name__ == converted.network.title == "ConvNet"
    state = converted.start(3)
    assert jax.tree.structure(converted.step(state, IMAGES[:3])[0]) == jax.tree.structure(state)


def test_a_step_is_traced_once(student, traced_sizes):
    """Under the user's own jit, for all frames of a batch size; the answers are those without it."""
    compiled, state, outputs = jax.jit(student.step), student.start(3), []
    for frame in (IMAGES[:3], IMAGES[3:6], IMAGES[6:9]):
        state, output = compiled(state, frame)
        outputs.append(output)
    assert traced_sizes == [4]
    assert state.batch == 3
    whole = student.predict(np.stack([IMAGES[:3], IMAGES[3:6], IMAGES[6:9]], axis=1))
    np.testing.assert_allclose(outputs[-1].logits, whole.logits, rtol=1e-5, atol=1e-5)
    assert outputs[-1].names == whole.names


def test_a_whole_stream_is_traced(student):
    """Its start with it, which leaves nothing of the trace behind."""
    fresh = dataclasses.replace(student)

    @jax.jit
    def logits_of(frames):
        state = fresh.start(3)
        state, _ = fresh.step(state, frames[:, 0])
        return fresh.step(state, frames[:, 1])[1].logits

    frames = np.stack([IMAGES[:3], IMAGES[3:6]], axis=1)
    np.testing.assert_allclose(logits_of(frames), fresh.predict(frames).logits, rtol=1e-5, atol=1e-5)


def test_an_ann_predicts_and_takes_no_streams():
    teacher = made(ReLU)
    logits, _ = jax.jit(teacher.network.apply)(teacher.variables, teacher.normalisation(IMAGES[:30]))
    found = teacher.folded().predict(IMAGES[:30])
    np.testing.assert_allclose(found.logits, logits, rtol=1e-4, atol=1e-4)
    assert (found.firing_rates, found.steps.tolist()) == ({}, [1] * 30)
    assert "ReLU" in teacher.summary()
    with pytest.raises(InputError, match="no time steps and takes no streams"):
        teacher.start(1)
    with pytest.raises(InputError, match=r"num_steps=3.*an ANN has no time steps"):
        teacher.predict(IMAGES, 3)


READER = """
import json, sys
import numpy as np
from jax import export

folder, images = sys.argv[1], np.load(sys.argv[2])
exported = export.deserialize(bytearray(open(f"{folder}/student.stablehlo", "rb").read()))
logits = {b: [exported.call(images[i : i + b]) for i in range(0, len(images), b)] for b in (1, 3, 64)}
np.savez(sys.argv[3], **{str(b): np.concatenate(parts) for b, parts in logits.items()})
assert not any(name.startswith(("snnkd_jax", "flax", "orbax")) for name in sys.modules)
"""


@pytest.mark.slow
def test_stablehlo_in_a_process_without_the_package(student, expected, tmp_path):
    """Batches of 1, 3 and 64 from one file; the description says what is needed to use it."""
    write_artifact(student, tmp_path / "out")
    np.save(tmp_path / "images.npy", IMAGES)
    arguments = [tmp_path / "out", tmp_path / "images.npy", tmp_path / "logits.npz"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", READER, *map(str, arguments)],
        check=True,
        cwd=tmp_path,
        env=environment | {"JAX_PLATFORMS": "cpu"},
    )
    described = json.loads((tmp_path / "out" / "student.json").read_text())
    assert described["input"]["shape"] == ["b", 8, 8, 1]
    assert described["output"]["shape"] == ["b", 2, 10]
    assert described["classes"] == [str(digit) for digit in range(10)]
    assert described["platforms"] == ["cpu", "cuda", "tpu"]
    content = (tmp_path / "out" / "student.stablehlo").read_bytes()
    assert described["sha256"] == hashlib.sha256(content).hexdigest()
    with np.load(tmp_path / "logits.npz") as logits:
        assert set(logits) == {"1", "3", "64"}
        for name in logits:
            assert logits[name].shape == (192, 2, 10)
            np.testing.assert_array_equal(logits[name].mean(1).argmax(-1), expected)


def test_summary_adds_up(student):
    """Names, shapes and numbers worked out by hand: 3, 6 and 13 channels of width 0.1."""
    lines = student.summary().splitlines()
    assert lines[0].startswith("convnet, width 0.1, T = 2, trained on digits: images 8 x 8 x 1, classes 0, 1, 2,")
    assert lines[1].startswith("neurons: LIF(tau=2.0, v_threshold=1.0, v_reset=0.0, decay_input=True, detach_reset=")
    rows = {line.split()[0]: line.split("  ") for line in lines[3:-1]}
    assert [cell.strip() for cell in rows["conv2"] if cell] == ["conv2", "convolution", "4 x 4 x 6", "162"]
    assert [cell.strip() for cell in rows["act_hidden"] if cell] == ["act_hidden", "neurons", "13", "-"]
    assert [cell.strip() for cell in rows["head"] if cell] == ["head", "dense", "10", "140"]
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[4:-1] if not line.endswith("-")]
    total = 27 + 162 + 2 * 2 * 6 * 13 + 140 + 2 * (3 + 6 + 13)
    assert (sum(counts), lines[-1]) == (total, f"{total} parameters")
    assert "neurons, tau = 3" in made(PLIF()).summary()


def test_images_that_do_not_fit_are_refused(student):
    image, state = IMAGES[:2], student.start(2)
    with pytest.raises(InputError, match=r"images have shape \(2, 9, 8, 1\); the network takes \[B, 8, 8, 1\]"):
        student.predict(np.zeros((2, 9, 8, 1), np.uint8))
    with pytest.raises(InputError, match=r"give one image as images\[None\]"):
        student.predict(IMAGES[0])
    with pytest.raises(InputError, match="not an array"):
        student.predict([[1], [1, 2]])
    with pytest.raises(InputError, match=r"dtype int64; give bytes"):
        student.predict(image.astype(int))
    with pytest.raises(InputError, match=r"are from 0 to 16, first in image 0; floats must be in \[0, 1\]"):
        student.predict(image / 255 * 16)
    with pytest.raises(InputError, match="NaN or infinite pixels in 1 of 2 images, first in 1"):
        student.predict(np.where(np.arange(2)[:, None, None, None] == 1, np.nan, image / 255))
    with pytest.raises(InputError, match="NaN or infinite"):
        student.predict(np.full((2, 8, 8, 1), np.inf, np.float32))
    with pytest.raises(InputError, match=r"frame has 1 images, the state 2; use start\(1\)"):
        student.step(state, IMAGES[:1])
    with pytest.raises(InputError, match="frame have NaN"):
        student.step(state, np.full((2, 8, 8, 1), np.nan))
    with pytest.raises(InputError, match=r"num_steps=2, but images have 3 frames"):
        student.predict(np.stack([image] * 3, axis=1), 2)
    with pytest.raises(InputError, match="batch=-1"):
        student.start(-1)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), "0.5"])
def test_thresholds_out_of_range_are_refused(student, threshold):
    with pytest.raises(InputError, match=rf"threshold={threshold!r} must be a probability"):
        student.predict(IMAGES, threshold=threshold)


@pytest.mark.parametrize("num_steps", [0, -3, 1.5])
def test_numbers_of_steps_below_one_are_refused(student, num_steps):
    with pytest.raises(InputError, match=rf"num_steps={num_steps} must be a whole number of at least 1"):
        student.predict(IMAGES, num_steps)


def test_runs_that_hold_no_such_network_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="path is empty"):
        snnkd_jax.load("")
    with pytest.raises(InputError, match="is not a directory"):
        snnkd_jax.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="student_baseline that finished training; it has student"):
        snnkd_jax.load(run, "student_baseline")
    with pytest.raises(InputError, match=r"role 'students' is unknown \(did you mean student"):
        snnkd_jax.load(run, "students")  # pyright: ignore[reportArgumentType]
    assert snnkd_jax.load(run / "student").title == "convnet, width 0.1, T = 2"
    with pytest.raises(InputError, match="is the directory of one network"):
        snnkd_jax.load(run / "student", "teacher")
    shutil.copytree(run, tmp_path / "unfinished")
    manifest = read_manifest(tmp_path / "unfinished" / "student")
    assert manifest is not None
    dataclasses.replace(manifest, network=None).write(tmp_path / "unfinished" / "student")
    with pytest.raises(InputError, match="run the command that started the run to resume it"):
        snnkd_jax.load(tmp_path / "unfinished")


def written(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))


def changes(content: dict, others=(None, "x", -1, 7.5, [], {}, [None], True)):
    """Every way in which one entry, at any depth, is missing or one of the others."""
    for key, value in content.items():
        yield {k: v for k, v in content.items() if k != key}
        for other in others:
            if other != value:
                yield content | {key: other}
        if isinstance(value, dict):
            for changed in changes(value, others):
                yield content | {key: changed}


def test_a_description_that_was_changed_is_refused(run, tmp_path):
    """Each entry removed or replaced, a digit changed, another version; layout does not matter."""
    directory = tmp_path / "student"
    shutil.copytree(run / "student", directory)
    path = directory / "manifest.json"
    content, text = json.loads(path.read_text()), path.read_text()
    for changed in changes(content):
        written(path, changed)
        with pytest.raises(InputError, match=r"manifest\.json (is damaged|has no sha256)"):
            snnkd_jax.load(directory)
    path.write_text(text.replace('"tau": 2.0', '"tau": 3.0'))
    with pytest.raises(InputError, match=r"manifest\.json is damaged: .*copy it again"):
        snnkd_jax.load(directory)
    del content["sha256"]
    write_sealed(path, content | {"format": 3})
    with pytest.raises(InputError, match="format 3, and this version reads 2"):
        snnkd_jax.load(directory)
    write_sealed(path, content)
    for damage in ("", "[]", text[:-20], "\xff"):
        path.write_text(damage, encoding="latin-1")
        with pytest.raises(InputError, match=r"manifest\.json"):
            snnkd_jax.load(directory)
    written(path, dict(reversed(json.loads(text).items())))
    assert snnkd_jax.load(directory).class_names == tuple(content["network"]["class_names"])


@pytest.mark.slow
def test_descriptions_that_are_sealed_and_wrong_end_in_a_network_or_an_error(run, tmp_path, monkeypatch):
    """Such as those of another version."""
    directory = tmp_path / "student"
    shutil.copytree(run / "student", directory)
    manifest = read_manifest(directory)
    assert manifest is not None
    monkeypatch.setattr("snnkd_jax.inference.trained.load_network", lambda _, template, *__: template)
    refused = taken = 0
    for changed in changes(manifest.network or {}, (None, "x", -1, [])):
        dataclasses.replace(manifest, network=changed).write(directory)
        try:
            trained = snnkd_jax.load(tmp_path)
        except InputError:
            refused += 1
        else:
            pixels = trained.normalisation(np.zeros((1, *trained.image_shape)))
            logits, _ = jax.eval_shape(trained.network.apply, trained.variables, pixels)
            assert logits.shape[-1] == len(trained.class_names)
            taken += 1
    assert refused > taken > 0


def test_an_older_checkpoint_does_not_take_the_place_of_the_last(run, tmp_path):
    shutil.copytree(run / "student", tmp_path / "student")
    steps = sorted(int(path.name) for path in (tmp_path / "student").iterdir() if path.name.isdigit())
    assert len(steps) == 2
    shutil.rmtree(tmp_path / "student" / str(steps[-1]))
    with pytest.raises(InputError, match=f"{steps[-1]}.* is missing"):
        snnkd_jax.load(tmp_path)


def damaged(data: bytes, rng: random.Random) -> bytes | None:
    """The content of a file with a bit flipped, bytes overwritten, or its end cut off; None: without the file."""
    kind = rng.choice(("flip", "flip", "overwrite", "cut", "delete")) if data else "delete"
    if kind == "delete":
        return None
    if kind == "cut":
        return data[: rng.randrange(len(data))]
    content = bytearray(data)
    for _ in range(1 if kind == "flip" else 16):
        place = rng.randrange(len(data))
        content[place] = content[place] ^ (1 << rng.randrange(8)) if kind == "flip" else rng.randrange(256)
    return bytes(content)


@pytest.mark.slow
def test_randomly_damaged_directories(run, tmp_path):
    """Refused as `InputError`, or the same network bit for bit, where the damage hit what it is not made of.

    Nine of ten times a file is hit that the network is made of.
    """
    shutil.copytree(run / "student", tmp_path / "student")
    expected = snnkd_jax.load(run)
    description = tmp_path / "student" / "manifest.json"
    listed = [name for name in json.loads(description.read_text())["files"] if "/network/" in name]
    own = [description, *(tmp_path / "student" / name for name in listed)]
    paths = sorted(path for path in (tmp_path / "student").rglob("*") if path.is_file())
    rng = random.Random(0)
    refused = 0
    for path in [rng.choice(own if rng.random() < 0.9 else paths) for _ in range(100)]:
        original = path.read_bytes()
        content = damaged(original, rng)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        try:
            found = snnkd_jax.load(tmp_path)
        except InputError:
            refused += 1
        else:
            jax.tree.map(np.testing.assert_array_equal, found.variables, expected.variables)
            for name in ("normalisation", "image_shape", "class_names", "dataset"):
                assert getattr(found, name) == getattr(expected, name)
        path.write_bytes(original)
    assert 20 < refused < 100
