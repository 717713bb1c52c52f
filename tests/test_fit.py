"""`fit`: each joint alone with everything else at its default, resumption, and what is refused before training."""

import dataclasses
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from representative import slow

import snnkd_jax as kd
from snnkd_jax.files import read_sealed, write_sealed

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 120)
IMAGES = RNG.integers(0, 60, (120, 8, 8, 1)).astype(np.uint8)
IMAGES[np.arange(120), 2 * LABELS + 1] = 255  # a bright row that tells the class
DATA = kd.data.from_arrays(train=(IMAGES[:90], LABELS[:90]), test=(IMAGES[90:], LABELS[90:]))
ATAN = kd.surrogate.atan(2.0)
SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 16}

pytestmark = pytest.mark.usefixtures("silent_layers")


class Net(nn.Module):
    """[B, T, H, W, C] to [B, T, K], stages, and dropout."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images, train):
        x = kd.Spike(kd.LIF())(nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(images)))
        y = nn.Dropout(0.1, deterministic=not train)(x.mean(axis=(2, 3)))
        return nn.Dense(self.num_classes)(y), {"stage1": x}


def spiking(**options) -> kd.Network:
    return kd.build("convnet", 3, neuron=kd.LIF(), num_steps=2, width=0.1, **options)


def arrays(trained: kd.Trained) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(trained.variables)]


def same(a: kd.Trained, b: kd.Trained) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


@pytest.fixture(scope="module")
def plain() -> kd.Trained:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of silent layers
        return kd.fit(spiking(), DATA, **SMALL)


@pytest.mark.slow
def test_own_data_alone(plain, tmp_path, monkeypatch):
    """Without run_dir no file is written; the result has a history and an accuracy."""
    monkeypatch.chdir(tmp_path)
    again = kd.fit(spiking(), DATA, **SMALL)
    assert same(plain, again)
    assert list(tmp_path.iterdir()) == []
    assert [entry["epoch"] for entry in plain.history] == [1]
    answers = plain.predict(IMAGES[90:]).classes
    assert plain.test_accuracy == pytest.approx((answers == LABELS[90:]).mean())


@pytest.mark.slow
def test_in_another_thread_and_without_streams(plain, tmp_path, monkeypatch):
    """Where Python allows no signal handler, as in the workers of services and notebooks."""
    found = []
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stderr", None)
    thread = threading.Thread(target=lambda: found.append(kd.fit(spiking(), DATA, **SMALL, run_dir=tmp_path)))
    thread.start()
    thread.join()
    (trained,) = found
    assert same(trained, plain)
    assert (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_floats_bytes_and_frames_are_one_kind_of_data(plain):
    floats = kd.data.from_arrays(train=(IMAGES[:90] / 255, LABELS[:90]), test=(IMAGES[90:] / 255, LABELS[90:]))
    mean, std = np.array(floats.normalisation.mean), np.array(floats.normalisation.std)
    np.testing.assert_allclose(mean, DATA.normalisation.mean, atol=2e-6)
    np.testing.assert_allclose(std, DATA.normalisation.std, atol=2e-6)
    frames = np.stack([IMAGES] * 2, axis=1)
    sequences = kd.data.from_arrays(train=(frames[:90], LABELS[:90]), test=(frames[90:], LABELS[90:]))
    assert sequences.frames == 2
    moving = kd.fit(spiking(), sequences, **SMALL)
    for a, b in zip(arrays(moving), arrays(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # the same image in every frame
    with pytest.raises(kd.InputError, match=r"2 frames.*num_steps=3"):
        kd.fit(kd.build("convnet", 3, neuron=kd.LIF(), num_steps=3, width=0.1), sequences, **SMALL)


@pytest.mark.slow
def test_own_network_alone():
    """Dropout draws in training; prediction, streams and pieces agree."""
    trained = kd.fit(kd.Network(Net(), num_steps=3), DATA, **SMALL)
    whole, _ = trained.network.apply(trained.variables, trained.normalisation(IMAGES[:4]))
    np.testing.assert_allclose(trained.predict(IMAGES[:4]).logits, whole.mean(axis=1), rtol=1e-4, atol=1e-5)
    state = trained.start(4)
    for _ in range(3):
        state, prediction = trained.step(state, IMAGES[:4])
    np.testing.assert_allclose(prediction.logits, whole.mean(axis=1), rtol=1e-4, atol=1e-5)
    assert "Conv_0" in trained.summary()


@pytest.mark.slow
def test_a_network_with_a_state_of_its_own_predicts_and_does_not_stream():
    class Loop(nn.Module):
        @nn.compact
        def __call__(self, images, train):  # noqa: ARG002
            x, v, sums = nn.Dense(4)(images.reshape(*images.shape[:2], -1)), 0, []
            for t in range(images.shape[1]):
                v = 0.5 * v + x[:, t]
                sums.append(v)
            return nn.Dense(3)(jnp.stack(sums, axis=1))

    trained = kd.fit(kd.Network(Loop(), num_steps=3), DATA, **SMALL)
    whole, _ = trained.network.apply(trained.variables, trained.normalisation(IMAGES))
    np.testing.assert_allclose(trained.predict(IMAGES).logits, whole.mean(axis=1), rtol=1e-4, atol=1e-4)
    for use in (lambda: trained.start(1), lambda: trained.predict(IMAGES, threshold=0.9)):
        with pytest.raises(kd.InputError, match=r"Loop.*Spike"):
            use()


@pytest.mark.slow
def test_own_optimizer_alone():
    """An optax chain, and a function of the number of steps; a rate of 0 leaves the weights."""
    asked = []

    def made(num_steps):
        asked.append(num_steps)
        return optax.sgd(0.0)

    found = [kd.fit(spiking(), DATA, optimizer=o, **SMALL) for o in (optax.chain(optax.sgd(0.0)), made)]
    assert asked == [5]  # 81 images in batches of 16
    for trained in found:
        kernels = [x for x in arrays(trained) if x.ndim > 1]
        fresh = jax.tree.leaves(spiking().init(jax.random.split(jax.random.key(0))[0], (8, 8, 1))["params"])
        for a, b in zip(kernels, [x for x in fresh if x.ndim > 1], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_own_augmentation_alone(plain):
    """It sees float images in [0, 1] and keys that differ from step to step; the identity changes nothing."""
    seen = []

    def augment(key, images):
        jax.debug.callback(lambda k, lo, hi: seen.append((int(k), float(lo), float(hi))), key[-1], *range_of(images))
        return images

    def range_of(images):
        return images.min(), images.max()

    def keyed(key, images):
        return augment(jax.random.key_data(key), images)

    same_images = kd.fit(spiking(), DATA, augment=keyed, **SMALL)
    assert len({key for key, _, _ in seen}) == 5
    assert all(lo >= 0 and hi == 1 for _, lo, hi in seen)
    for a, b in zip(arrays(same_images), arrays(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_own_callback_alone():
    entries = []
    trained = kd.fit(spiking(), DATA, callbacks=[entries.append], epochs=2, batch_size=16)
    assert [entry["epoch"] for entry in entries] == [1, 2]
    assert entries == list(trained.history)


def test_own_term_alone_without_a_teacher():
    def few_spikes(student, teacher, labels):
        del teacher, labels
        return sum(student.firing_rates.values())

    objective = kd.Objective((*kd.PRESETS["none"].terms, kd.Term("few_spikes", few_spikes, weight=0.5)))
    trained = kd.fit(spiking(), DATA, objective=objective, **SMALL)
    (entry,) = trained.history
    assert entry["loss"] == pytest.approx(entry["ce"] + 0.5 * entry["few_spikes"], rel=1e-5)


@dataclasses.dataclass(frozen=True)
class Leakless:
    """A neuron of one's own: v[t] = v[t-1] + g x[t] - s[t]."""

    surrogate: kd.surrogate.Surrogate = ATAN
    parameters = {"gain": 1.0}  # noqa: RUF012 read by the layer, never changed

    def init(self, shape):
        return jnp.zeros(shape)

    def step(self, state, current, parameters):
        h = state + parameters["gain"] * current
        spikes = self.surrogate(h - 1)
        return h - spikes, spikes


@pytest.mark.slow
def test_own_neuron_alone(tmp_path):
    """It trains, is saved, and is loaded with the network alone."""
    network = kd.build("convnet", 3, neuron=Leakless(), num_steps=2, width=0.1)
    run = tmp_path / "run"
    trained = kd.fit(network, DATA, run_dir=run, **SMALL)
    assert trained.variables["params"]["act1"]["gain"].shape == ()
    with pytest.raises(kd.InputError, match="network="):
        kd.load(run)
    assert same(kd.load(run, network=network), trained)
    with pytest.raises(kd.InputError, match="neuron"):
        kd.load(run, network=spiking())


@pytest.mark.slow
def test_own_neuron_through_rates():
    rates = kd.build("convnet", 3, neuron=Leakless(), num_steps=2, width=0.1, backprop="rate")
    assert len(kd.fit(rates, DATA, epochs=2, batch_size=16, bptt_epochs=1).history) == 2


def test_a_trained_ann_teaches_logits_and_features(plain):
    ann = kd.fit(kd.build("convnet", 3, width=0.1), DATA, **SMALL)
    trained = kd.fit(spiking(), DATA, teacher=ann, objective=kd.PRESETS["kdsnn"], **SMALL)
    assert trained.history[0]["kd"] > 0
    assert trained.history[0]["feature"] > 0
    assert not same(trained, plain)


@pytest.mark.slow
def test_a_spiking_network_and_a_function_teach(plain):
    function = kd.Teacher(lambda w, x: x.mean(axis=(1, 2)) @ w, np.ones((1, 3), np.float32))
    found = [kd.fit(spiking(), DATA, teacher=teacher, **SMALL) for teacher in (plain, function)]
    assert all({"ce", "kd", "steps"} <= trained.history[0].keys() for trained in found)
    assert not same(*found)


def test_a_run_directory_is_resumed_loaded_and_reported(tmp_path):
    """Two epochs and four in one directory are refused; the finished one is loaded without training."""
    run, calls = tmp_path / "run", []
    first = kd.fit(spiking(), DATA, run_dir=run, callbacks=[calls.append], **SMALL)
    again = kd.fit(spiking(), DATA, run_dir=run, callbacks=[calls.append], **SMALL)
    assert len(calls) == 1
    loaded = kd.load(run)
    for found in (again, loaded):
        assert same(first, found)
        assert found.test_accuracy == first.test_accuracy
        assert [e["loss"] for e in found.history] == [e["loss"] for e in first.history]
    assert f"{100 * first.test_accuracy:.2f} %" in (run / "report.html").read_text()
    refused = {
        "epochs": {"epochs": 2},
        "augment": {"augment": kd.Augmentation(1)},
        "student_noise": {"student_noise": kd.data.StudentNoise(["blur:2"])},
        "optimizer": {"optimizer": optax.sgd(0.3)},
        "objective": {"objective": kd.PRESETS["tet"]},
    }
    for name, change in refused.items():
        with pytest.raises(kd.InputError, match=name):
            kd.fit(spiking(), DATA, run_dir=run, **SMALL | change)
    other = kd.data.from_arrays(train=(255 - IMAGES[:90], LABELS[:90]), test=(IMAGES[90:], LABELS[90:]))
    with pytest.raises(kd.InputError, match="other images"):
        kd.fit(spiking(), other, run_dir=run, **SMALL)
    started = read_sealed(run / "config.json")  # of a version without noise of students
    del started["fit"]["student_noise"], started["digests"]["student_noise"]
    write_sealed(run / "config.json", started)
    assert same(kd.fit(spiking(), DATA, run_dir=run, **SMALL), first)


@pytest.mark.slow
def test_an_optimiser_with_a_typed_key_is_resumed_bit_for_bit(tmp_path):
    """Its noise goes on where it was; another key is another optimiser."""

    def fitted(seed=0, **options):
        noise = optax.add_noise(0.1, 0.5, jax.random.key(seed))
        return kd.fit(spiking(), DATA, optimizer=optax.chain(noise, optax.sgd(0.1)), epochs=2, batch_size=16, **options)

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(run_dir=tmp_path / "run", checkpoint_every=2, callbacks=[stop])
    assert same(fitted(run_dir=tmp_path / "run", checkpoint_every=2), fitted())
    with pytest.raises(kd.InputError, match="optimizer"):
        fitted(seed=1, run_dir=tmp_path / "run")


@pytest.mark.slow
def test_a_function_of_the_same_name_that_computes_something_else_is_refused(tmp_path):
    def made(factor):
        def term(student, teacher, labels):
            del teacher
            return factor * jnp.ones(len(labels)) * student.logits.mean(axis=(1, 2))

        return kd.Objective((*kd.PRESETS["none"].terms, kd.Term("mine", term)))

    kd.fit(spiking(), DATA, objective=made(0.1), run_dir=tmp_path / "run", **SMALL)
    kd.fit(spiking(), DATA, objective=made(0.1), run_dir=tmp_path / "run", **SMALL)
    with pytest.raises(kd.InputError, match="objective"):
        kd.fit(spiking(), DATA, objective=made(0.2), run_dir=tmp_path / "run", **SMALL)


class Sharp(nn.Module):
    """Nothing but the surrogate derivative tells one from another."""

    alpha: float

    @nn.compact
    def __call__(self, images, train):
        del train
        x = kd.Spike(kd.LIF(surrogate=kd.surrogate.atan(self.alpha)))(nn.Dense(4)(images))
        return nn.Dense(3)(x.mean(axis=(2, 3)))


def taught_by(scale):
    return kd.Teacher(lambda _, x: scale * x.mean(axis=(1, 2)) * jnp.arange(3.0), name="same")


def split_at(fraction):
    return dataclasses.replace(DATA, validation_fraction=fraction)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        slow({"teacher": taught_by(1.0)}, {"teacher": taught_by(2.0)}, "teacher"),
        slow({"network": kd.Network(Sharp(2.0), 2)}, {"network": kd.Network(Sharp(9.0), 2)}, "network"),
        slow({"data": split_at(0.1)}, {"data": split_at(0.2)}, "validation_fraction"),
        slow(
            {"optimizer": optax.inject_hyperparams(optax.sgd)(0.1)},
            {"optimizer": optax.inject_hyperparams(optax.sgd)(0.01)},
            "optimizer",
        ),
    ],
    ids=["teacher", "surrogate", "split", "optimizer"],
)
def test_a_directory_is_of_what_began_it(tmp_path, first, second, told):
    """What differs only in a function's inside, in a gradient of its own, in a state or in the split."""

    def fitted(network=None, data=DATA, **options):
        return kd.fit(network or spiking(), data, run_dir=tmp_path / "run", **SMALL | options)

    trained = fitted(**first)
    assert same(fitted(**first), trained)
    with pytest.raises(kd.InputError, match=told):
        fitted(**second)


class NoTrain(nn.Module):
    def __call__(self, images):
        return images


class Wrong(nn.Module):
    @nn.compact
    def __call__(self, images, train):  # noqa: ARG002
        return nn.Dense(3)(images.mean(axis=(1, 2, 3)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"network": lambda: Net()}, r"Net.*Network\(module"),
        ({"network": lambda: kd.Network(Net)}, "instance"),  # pyright: ignore[reportArgumentType]
        ({"network": lambda: kd.Network(NoTrain())}, r"NoTrain.*\(images, train\)"),
        ({"network": lambda: kd.Network(Wrong(), num_steps=2)}, r"Wrong.*\[B, T, K\]"),
        ({"network": lambda: kd.build("convnet", 4, width=0.1)}, "4 logits.*3"),
        ({"optimizer": 0.1}, "optimizer=0.1"),
        ({"augment": lambda _, x: x[:, :4]}, "augment"),
        ({"augment": lambda x: x}, "augment"),
        ({"student_noise": lambda _, x: x[:, :4]}, "student_noise returns"),
        ({"student_noise": "blur:2"}, "student_noise of images"),
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 1000}, "batch_size=1000"),
        ({"bptt_epochs": 1}, "bptt_epochs=1.*rate"),
        ({"objective": kd.PRESETS["kdsnn-response"]}, "teacher"),
        ({"objective": "temporal"}, "objective='temporal'"),
        ({"teacher": lambda x: x}, "teacher is a function"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"seed": -1}, "seed=-1"),
        ({"callbacks": print}, "callbacks"),
        ({"initial": kd.build("convnet", 3, width=0.2).init(jax.random.key(0), (8, 8, 1))}, "initial: .*width"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, options, told):
    options = SMALL | options
    with pytest.raises(kd.InputError, match=told):
        kd.fit(options.pop("network", spiking)(), DATA, run_dir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_importing_has_no_side_effect_and_takes_no_jax():
    """Loggers and hooks are as they were; `from snnkd_jax import fit` needs neither orbax nor tfds nor matplotlib."""
    program = """
import logging, sys, warnings
before = (logging.getLogger("absl").level, sys.excepthook, warnings.showwarning)
import snnkd_jax
assert "jax" not in sys.modules
snnkd_jax.fit, snnkd_jax.build, snnkd_jax.load, snnkd_jax.run
late = {"orbax.checkpoint", "tensorflow_datasets", "grain", "matplotlib", "sklearn"} & sys.modules.keys()
assert not late, late
assert before == (logging.getLogger("absl").level, sys.excepthook, warnings.showwarning)
assert set(snnkd_jax.__all__) <= set(dir(snnkd_jax)) and all(hasattr(snnkd_jax, name) for name in snnkd_jax.__all__)
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(kd.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_warnings_are_restored_by_a_fit():
    before = warnings.showwarning, sys.excepthook
    kd.fit(spiking(), DATA, **SMALL)
    assert (warnings.showwarning, sys.excepthook) == before


def test_a_student_learns_digits_from_its_teacher():
    """Above 90 % where chance is 10 %, and nearer to the teacher's logits than at first."""
    data = kd.data.load("digits")
    teacher = kd.fit(kd.build("convnet", 10, width=0.25), data, epochs=3, batch_size=64)
    network = kd.build("convnet", 10, neuron=kd.LIF(), num_steps=2, width=0.25)
    student = kd.fit(network, data, teacher=teacher, objective=kd.PRESETS["kdsnn-response"], epochs=5, batch_size=32)
    assert student.test_accuracy > 0.9
    assert student.history[-1]["kd"] < 0.5 * student.history[0]["kd"]
