"""The teacher of a run: what is refused of one from a PyTorch file, and that a run keeps the one it began with."""

from pathlib import Path

import jax
import numpy as np
import pytest
from torch_files import save
from torch_nets import resnet_weights

from snnkd_jax.errors import InputError
from snnkd_jax.models import build
from snnkd_jax.models.torch_weights import Converted
from snnkd_jax.parallel.mesh import data_mesh
from snnkd_jax.runs import teacher as run_teacher
from snnkd_jax.runs.config import default_config
from snnkd_jax.runs.teacher import RunTeacher
from snnkd_jax.training.saved import read_network


@pytest.fixture
def of_file(monkeypatch):
    """A function that gives the teacher of a run on digits whose file holds a network with those changes.

    PyTorch, which would read the file, is not needed.
    """

    def made(normalisation: str = "dataset", **changes) -> RunTeacher:
        network = build("convnet", 10, width=0.1, pool="max")
        variables = network.init(jax.random.key(0), (8, 8, 1))
        found = {"num_classes": 10, "image_channels": 1, "variables": variables} | changes
        converted = Converted(model="convnet", width=0.1, pool="max", **found)
        monkeypatch.setattr(run_teacher, "read_weights", lambda *_: {})
        monkeypatch.setattr(run_teacher, "convert_weights", lambda _: converted)
        config = default_config("digits")
        config = config.replace(teacher="torch:net.pt", teacher_normalisation=normalisation)
        return RunTeacher(config, config.open_data(), data_mesh(), None)

    return made


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_classes": 100}, "for 100 classes and 1 image channels; digits has 10 and 1"),
        ({"image_channels": 3}, "for 10 classes and 3 image channels; digits has 10 and 1"),
        ({"normalisation": "imagenet"}, "teacher_normalisation='imagenet' has 3 channels; digits has 1"),
    ],
)
def test_a_network_for_other_images_is_refused(of_file, changes, told):
    with pytest.raises(InputError) as error:
        of_file(**changes).load()
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("resnet18", "its stem has stride 1 and no max pooling"),
        ("resnet18-imagenet", "its stem has stride 2 and max pooling"),
        ("vgg16", "max pooling of 2x2 after each stage"),
    ],
)
def test_near_chance_names_what_a_file_does_not_show(monkeypatch, model, told):
    """A network with another stem or pooling than is assumed knows nothing here, whatever its normalisation."""
    config = default_config("digits").replace(teacher="torch:net.pt")
    teacher = RunTeacher(config, config.open_data(), data_mesh(), None)
    monkeypatch.setattr(run_teacher, "read_weights", lambda *_: {})
    monkeypatch.setattr(run_teacher, "convert_weights", lambda _: Converted(model, 1.0, "max", 10, 1, {}))
    teacher.check_accuracy(0.5, "validation")
    with pytest.raises(InputError, match=f"near chance, 0.1000; .*teacher_normalisation.*{told}"):
        teacher.check_accuracy(0.1, "validation")


def test_what_cannot_be_converted_is_said_of_the_file(tmp_path):
    weights = {name: np.asarray(x) for name, x in resnet_weights("resnet20", 4).items()}
    del weights["layer1.1.bn1.running_mean"]
    file = save(tmp_path / "net.pt", {"a": weights, "b": weights | {"conv1.weight": weights["conv1.weight"] + 1}})
    config = default_config("digits").replace(teacher=f"torch:{file}", teacher_entry="b")
    with pytest.raises(InputError) as error:
        RunTeacher(config, config.open_data(), data_mesh(), None).build()
    assert f"teacher torch:{file}: resnet20: the entry layer1.1.bn1.running_mean is missing" in str(error.value)


def test_what_the_file_holds_is_loaded_and_described(of_file, tmp_path):
    teacher = of_file(normalisation="half")
    loaded = teacher.load()
    assert loaded.normalisation.mean == (0.5,)
    images = jax.random.uniform(jax.random.key(1), (4, 8, 8, 1))
    logits, _ = loaded.apply(loaded.variables, images)
    expected, _ = build("convnet", 10, width=0.1, pool="max").apply(of_file().load().variables, images)
    assert (logits == expected).all()
    teacher.keep(loaded.variables, tmp_path)
    described = read_network(tmp_path / "teacher")
    assert (described["model"], described["width"], described["pool"]) == ("convnet", 0.1, "max")
    assert described["normalisation"] == {"mean": [0.5], "std": [0.5]}
    assert described["spiking"] is None


def test_a_run_keeps_the_teacher_that_it_began_with(of_file, tmp_path: Path):
    teacher = of_file()
    variables = teacher.load().variables
    teacher.keep(variables, tmp_path)
    assert read_network(tmp_path / "teacher")["model"] == "convnet"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "teacher").rglob("*")}
    teacher.keep(variables, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "teacher").rglob("*")} == before
    with pytest.raises(InputError, match=r"torch:net\.pt: run_dir .* has other weights; name another"):
        teacher.keep(jax.tree.map(lambda x: x + 1, variables), tmp_path)
