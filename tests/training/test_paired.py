"""Images that belong to recordings: the teacher sees them, as they are, and the student does not."""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from representative import slow

import snnkd_jax as kd
from snnkd_jax.data.digits import load_digits
from snnkd_jax.data.normalisation import as_stored
from snnkd_jax.errors import InputError
from snnkd_jax.runs.config import default_config

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 3, (16, 2, 8, 8, 2), np.uint8)
IMAGES = RNG.integers(0, 256, (16, 5, 5, 1), np.uint8)
LABELS: Any = np.arange(16) % 2


def paired() -> kd.data.Dataset:
    options: dict[str, Any] = {"class_names": ("a", "b"), "validation_fraction": 0.0}
    images = kd.data.Dataset("images", IMAGES, LABELS, IMAGES, LABELS, **options)
    return kd.data.Dataset("events", FRAMES, LABELS, FRAMES, LABELS, **options, counts=True, paired=images)


def brightness(_: Any, images: Any) -> Any:
    mean = images.mean(axis=(1, 2, 3))
    return jnp.stack([mean, -mean], axis=1)


@pytest.mark.parametrize("stored", [False, slow(True)])
def test_the_teacher_sees_the_images_and_the_student_the_augmented_frames(stored, tmp_path):
    """A term that is the teacher's first logit: its mean over an epoch is that of the images."""
    term = kd.Term("seen", lambda student, teacher, labels: teacher.logits[:, 0])  # noqa: ARG005
    network = kd.build("convnet", 2, neuron=kd.LIF(), num_steps=2, width=0.1)
    options: dict[str, Any] = {"store_teacher": tmp_path} if stored else {}
    student = kd.fit(
        network,
        paired(),
        teacher=kd.Teacher(brightness, normalisation=as_stored(1)),
        objective=kd.Objective((kd.Term("ce", kd.PRESETS["none"].terms[0].function), term)),
        augment=kd.EventAugmentation(crop_padding=2, drop_events=0.9),
        epochs=1,
        batch_size=8,
        **options,
    )
    assert student.history[0]["seen"] == pytest.approx(IMAGES.mean() / 255, rel=1e-5)
    assert student.image_shape == (8, 8, 2)


def test_what_does_not_belong_together_is_refused():
    data = paired()
    with pytest.raises(InputError, match=r"paired: images has other train labels than events"):
        kd.data.Dataset("events", FRAMES, LABELS[::-1], FRAMES, LABELS, ("a", "b"), paired=data.paired)
    with pytest.raises(InputError, match="paired=True: digits has no images"):
        kd.data.load("digits", paired=True)
    wrong = {"digits": "is for events, and digits has images", "cifar10_dvs": "cifar10_dvs has no images"}
    for dataset, told in wrong.items():
        with pytest.raises(InputError, match=told):
            default_config(dataset).replace(teacher_frames="images").checked()
    assert data.identity != kd.data.Dataset("events", FRAMES, LABELS, FRAMES, LABELS, ("a", "b")).identity


@pytest.mark.slow
def test_a_run_trains_its_teacher_on_the_digits_that_belong_to_the_events(tmp_path):
    options = {"width": 0.1, "teacher_width": 0.25, "num_steps": 2, "epochs": 1, "teacher_epochs": 3, "baseline": False}
    config = default_config("event_digits").replace(**options, teacher_frames="images", run_dir=str(tmp_path / "run"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = kd.run(config)
    digits = load_digits()
    teacher = kd.load(tmp_path / "run", "teacher")
    assert (teacher.image_shape, teacher.dataset) == ((8, 8, 1), "digits")
    accuracy = (teacher.predict(digits.test_images).classes == digits.test_labels).mean()
    assert result["test_accuracy"]["teacher"] == pytest.approx(accuracy)
    assert kd.load(tmp_path / "run").history[0]["kd"] > 0
    # The teacher of a run on the digits does as well, and is not trained anew.
    other = config.replace(run_dir=str(tmp_path / "other"), teacher_checkpoint=str(tmp_path / "run"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert kd.run(other)["test_accuracy"] == result["test_accuracy"]
