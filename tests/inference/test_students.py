"""Trained students of the package: what is written is loaded, and nothing else."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from real_data import load_real

import snnkd_jax as kd
from snnkd_jax.cli import main
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError
from snnkd_jax.inference import students as module
from snnkd_jax.inference.students import half_precision, students, write_student
from snnkd_jax.training.saved import describe

RESULTS = Path(__file__).parents[2] / "experiments" / "results"
RESULT = {"accuracy": 0.5, "accuracy_by_step": [0.5, 0.5], "firing_rate": 0.1, "parameters": 3}


@pytest.fixture(scope="module")
def untrained():
    network = kd.build("convnet", 10, neuron=kd.LIF(), num_steps=2, width=0.25)
    variables = jax.device_get(jax.jit(lambda: network.init(jax.random.key(0), (8, 8, 1)))())
    class_names, normalisation = kd.data.load("digits").class_names, Normalisation((0.3,), (0.4,))
    return kd.Trained(network, variables, normalisation, (8, 8, 1), class_names, "digits", (), RESULT)


@pytest.fixture
def written(untrained, tmp_path, monkeypatch):
    """That student under the name "tiny", in a folder of its own."""
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    described = describe(untrained.network, kd.data.load("digits"), untrained.normalisation)
    write_student("tiny", untrained.variables, {"network": described, "result": RESULT})
    return untrained


def test_what_is_written_is_loaded(written):
    found = kd.load("tiny")
    jax.tree.map(np.testing.assert_array_equal, dict(found.variables), dict(written.variables))
    for field in dataclasses.fields(found):
        if field.name not in ("network", "variables"):
            assert getattr(found, field.name) == getattr(written, field.name)
    assert found.test_accuracy == 0.5
    images = kd.data.load("digits").test_images[:20]
    np.testing.assert_array_equal(found.predict(images).logits, written.predict(images).logits)


def test_an_image_file_is_classified_by_name(written, tmp_path, capsys):
    image = kd.data.load("digits").test_images[0]
    Image.fromarray(image[..., 0]).save(tmp_path / "image.png")
    assert main(["predict", "tiny", str(tmp_path / "image.png")]) == 0
    assert f"image.png: {written.predict(image[None]).names[0]}, confidence" in capsys.readouterr().out


def test_half_precision_rounds_to_eleven_bits_and_keeps_what_overflows():
    given = {"a": [1 + 2**-11, 1 + 3 * 2**-11, 65504], "b": [1e5, 1 + 2**-11]}
    found = half_precision({name: np.array(values, np.float32) for name, values in given.items()})
    np.testing.assert_array_equal(found["a"], np.array([1, 1 + 2**-9, 65504], np.float32))
    np.testing.assert_array_equal(found["b"], np.array(given["b"], np.float32))
    assert {x.dtype for x in found.values()} == {np.dtype(np.float32)}


def test_half_precision_takes_half_the_bytes(written, tmp_path):
    whole = (tmp_path / "tiny.npz").stat().st_size
    write_student("tiny", half_precision(written.variables), students()["tiny"])
    assert (tmp_path / "tiny.npz").stat().st_size < 0.7 * whole
    kernel = kd.load("tiny").variables["params"]["head"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, np.float16(written.variables["params"]["head"]["kernel"]).astype(np.float32))


def test_damaged_files_are_refused(written, tmp_path):
    del written
    weights, card = tmp_path / "tiny.npz", tmp_path / "tiny.json"
    data, text = weights.read_bytes(), card.read_text()
    for i in range(0, len(data), len(data) // 40):
        weights.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(InputError, match=r"tiny.npz has changed"):
            kd.load("tiny")
    weights.unlink()
    with pytest.raises(InputError, match=r"tiny.npz cannot be read"):
        kd.load("tiny")
    weights.write_bytes(data)
    card.write_text(text.replace('"accuracy": 0.5', '"accuracy": 0.9'))
    with pytest.raises(InputError, match=r"tiny.json is damaged"):
        kd.load("tiny")


@pytest.mark.usefixtures("written")
def test_names_and_roles_that_are_not_there_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"path='tinny' is not a directory.* trained student: tiny"):
        kd.load("tinny")
    with pytest.raises(InputError, match="not a directory"):
        kd.load("tiny", "teacher")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    with pytest.raises(InputError, match="has no student that finished training"):
        kd.load("tiny")


@pytest.mark.parametrize("name", students())
def test_students_of_the_package(name):
    """Small enough for the wheel, of the size and data of their cards, and as accurate as in their records.

    Where rounding changed classes, they are as accurate but for these.
    """
    card, student = students()[name], kd.load(name)
    assert (module.WEIGHTS / f"{name}.npz").stat().st_size < 4_000_000
    assert sum(x.size for x in jax.tree.leaves(student.variables["params"])) == card["result"]["parameters"]
    assert student.dataset == name
    record = json.loads((RESULTS / f"{card['record']}.json").read_text())
    changed = card["result"].get("classes_changed", 0.0)
    values = record["metrics"]["student/test_accuracy"]["values"]
    assert min(abs(card["result"]["accuracy"] - value) for value in values) <= changed


@pytest.mark.optimised
@pytest.mark.parametrize("name", students())
def test_a_student_of_the_package_answers_as_its_card_says(name):
    card, data = students()[name], load_real(name)
    classes = kd.load(name).predict(data.test_images).classes
    assert classes[:10].tolist() == card["first_test_classes"]
    assert np.mean(classes == data.test_labels) == pytest.approx(card["result"]["accuracy"])
