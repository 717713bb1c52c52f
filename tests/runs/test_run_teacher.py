"""The teacher of a run: what is refused of one from a PyTorch file, and that a run keeps the one it began with."""

from pathlib import Path

import jax
import pytest

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
        monkeypatch.setattr(run_teacher, "read_weights", lambda _: {})
        monkeypatch.setattr(run_teacher, "convert_weights", lambda _: converted)
        config = default_config("digits")
        config = config.replace(teacher="torch:net.pt", teacher_normalisation=normalisation)
        return RunTeacher(config, config.data.open(), data_mesh(), None)

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
