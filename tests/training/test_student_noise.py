"""Training on noise: what student and teacher see, in which networks of a run, resumed, and with a teacher's store."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from representative import slow
from tiny_training import assert_close, batch, make, one_device, run

import snnkd_jax as kd
from snnkd_jax import experiment
from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.batches import MemorySource
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.data.student_noise import StudentNoise
from snnkd_jax.parallel.mesh import data_mesh
from snnkd_jax.training import teacher_store
from snnkd_jax.training.teacher_store import TeacherStore, open_teacher_store
from snnkd_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("silent_layers")

SIDE, K = 4, 16
NOISE = StudentNoise(("contrast:2", "brightness:3"))


class Pixels(nn.Module):
    """A student whose logits `[B, T, K]` are its pixels, plus a bias to train."""

    @nn.compact
    def __call__(self, images, train):
        del train
        return images.reshape(*images.shape[:2], K) + self.param("bias", nn.initializers.zeros, (K,))


def spied(**options) -> list[tuple[np.ndarray, np.ndarray]]:
    """The images `[B, K]` that student and teacher see in each part of two steps, in [0, 1]."""
    seen = []

    def spy(student, teacher, labels):
        jax.debug.callback(lambda *x: seen.append(tuple(map(np.asarray, x))), student.logits[:, 0], teacher.logits)
        return jnp.zeros(len(labels))

    objective = kd.Objective((*kd.PRESETS["none"].terms, kd.Term("spy", spy)))
    about: dict[str, Any] = {"augment": Augmentation(1, True), "image_shape": (SIDE, SIDE, 1), "seed": 3}
    about |= {"teacher": kd.Teacher(lambda _, x: x.reshape(-1, K)), "normalisation": Normalisation((0.0,), (1.0,))}
    trainer = Trainer(kd.Network(Pixels(), num_steps=1), objective, optax.sgd(0.0), **about, **options)
    state, rng = jax.jit(trainer.init)(), np.random.default_rng(0)
    images = rng.integers(0, 256, (16, SIDE, SIDE, 1), np.uint8)
    step = jax.jit(trainer.step)
    for _ in range(2):
        state, _ = step(state, (), {"images": images, "labels": np.arange(16, dtype=np.int32)})
    jax.effects_barrier()
    return seen


@pytest.mark.parametrize("accumulate", [1, slow(2)])
def test_the_student_sees_noise_on_the_images_that_the_teacher_sees(accumulate):
    """The teacher's are bit for bit those without noise, and the student's the formulas of contrast and brightness."""
    clean = spied(accumulate=accumulate)
    found = spied(accumulate=accumulate, student_noise=NOISE)
    assert len(clean) == len(found) == 2 * accumulate
    kinds = []
    for (student, teacher), (plain, plain_teacher) in zip(found, clean, strict=True):
        np.testing.assert_array_equal(teacher, plain_teacher)
        np.testing.assert_array_equal(plain, plain_teacher)
        for image, x in zip(student, teacher.astype(float), strict=True):
            expected = {"contrast": x.mean() + 0.5 * (x - x.mean()), "brightness": np.minimum(x + 0.3, 1)}
            equal = [name for name, y in expected.items() if np.abs(image - y).max() < 1e-6]
            assert len(equal) == 1
            kinds += equal
    first, second = kinds[:16], kinds[16:]
    assert set(first) == {"contrast", "brightness"}
    assert first != second, "both steps draw the same"


@pytest.mark.slow
def test_eight_devices_give_the_update_of_one():
    noise = StudentNoise(("gaussian:3", "occlusion:2", "none"))
    trainer = dataclasses.replace(make("temporal", augmentation=Augmentation(1, True, 3)), student_noise=noise)
    found, expected = (run(trainer, mesh, 2) for mesh in (data_mesh(), one_device()))
    assert_close(found[0], expected[0], 1e-4)
    clean = run(dataclasses.replace(trainer, student_noise=None), one_device(), 2)
    with pytest.raises(AssertionError):
        assert_close(clean[0], expected[0], 1e-2)


def test_the_store_of_a_teacher_serves_students_with_and_without_noise(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_store, "STEPS_PER_FILE", 2)
    teacher = kd.Teacher(lambda w, x: x.reshape(len(x), -1) @ w, np.ones((64, 5), np.float32))
    trainer = dataclasses.replace(make("kdsnn-response"), teacher=teacher)
    source = MemorySource(batch(16), 8, 3)

    def outputs(trainer):
        store = open_teacher_store(source, tmp_path, trainer, teacher.variables, 2, one_device(), {})
        return store.outputs(1)["logits"]

    stored = np.array(outputs(trainer))
    monkeypatch.setattr(TeacherStore, "_write", None)
    np.testing.assert_array_equal(outputs(dataclasses.replace(trainer, student_noise=NOISE)), stored)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_students_of_a_run_are_trained_on_noise_and_its_teacher_is_not(tmp_path, monkeypatch):
    seen = {}

    class Enough(Exception):
        pass

    def fit(network, data, *, run_dir, student_noise, **options):
        del network, data, options
        seen[run_dir.role] = student_noise
        if run_dir.role == "student":
            raise Enough
        return SimpleNamespace(result={}, variables=None)

    monkeypatch.setattr(experiment, "fit", fit)
    monkeypatch.setattr(experiment._Run, "check", lambda *_: None)  # traces the networks
    config = kd.default_config("digits").replace(width=0.1, teacher_width=0.1, num_steps=1, run_dir=tmp_path / "run")
    with pytest.raises(Enough):
        kd.run(config.replace(student_noise=["blur:2", "none"]))
    noise = StudentNoise(("blur:2", "none"))
    assert seen == {"teacher": None, "student_baseline": noise, "student": noise}


@pytest.mark.slow
def test_a_training_on_noise_is_resumed_bit_for_bit(tmp_path):
    data = batch(40)
    data = kd.data.from_arrays(train=(data["images"], data["labels"]), test=(data["images"], data["labels"]))
    network = kd.build("convnet", 5, neuron=kd.LIF(), num_steps=2, width=0.1)

    def fitted(noise=("gaussian:3", "blur:2"), **options):
        noise = StudentNoise(noise)
        return kd.fit(network, data, student_noise=noise, epochs=2, batch_size=8, **options)

    def stop(_):
        raise KeyboardInterrupt

    def arrays(trained):
        return jax.tree.leaves(trained.variables)

    with pytest.raises(KeyboardInterrupt):
        fitted(run_dir=tmp_path / "run", checkpoint_every=2, callbacks=[stop])
    with pytest.raises(kd.InputError, match="student_noise"):
        fitted(("gaussian:3",), run_dir=tmp_path / "run", checkpoint_every=2)
    resumed, whole = (fitted(run_dir=tmp_path / name, checkpoint_every=2) for name in ("run", "whole"))
    for a, b in zip(arrays(resumed), arrays(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    plain = kd.fit(network, data, epochs=2, batch_size=8)
    assert any(np.any(a != b) for a, b in zip(arrays(plain), arrays(whole), strict=True))
