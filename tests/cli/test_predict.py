"""`snnkd predict`, with a network that was not trained."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from snnkd_jax import data
from snnkd_jax.cli import main as snnkd
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.inference import trained as loading
from snnkd_jax.inference.trained import Trained
from snnkd_jax.models import build

IMAGES = data.load("digits").test_images


@pytest.fixture
def run(monkeypatch) -> Trained:
    """The student that is loaded from any run."""
    network = build("convnet", 10, neuron=LIF(v_threshold=0.1), num_steps=2, width=0.1)
    variables = network.init(jax.random.key(0), (8, 8, 1))
    names = tuple(f"digit {i}" for i in range(10))
    student = Trained(network, variables, Normalisation((0.3,), (0.2,)), (8, 8, 1), names, "digits")
    monkeypatch.setattr(loading, "load", lambda *_: student)
    return student


def saved(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def test_image_files_are_classified(run, tmp_path, capsys):
    """Grey ones as they are, others after what is said."""
    grey = saved(tmp_path / "grey.png", IMAGES[3, ..., 0])
    colour = saved(tmp_path / "colour.png", np.repeat(IMAGES[4], 3, axis=-1))
    assert snnkd(["predict", "run", str(grey), str(colour), "--num-steps", "3"]) == 0
    shown = capsys.readouterr()
    prediction = run.predict(IMAGES[3:5], 3)
    for i, path in enumerate((grey, colour)):
        confidence = f"{prediction.confidence[i]:.3f}"
        assert f"{path}: {prediction.names[i]}, confidence {confidence}, time steps 3" in shown.out
        assert f"act2 {prediction.firing_rates['act2'][i]:.3f}" in shown.out
    assert shown.err == f"{colour}: RGB converted to greyscale\n"
    large = saved(tmp_path / "large.png", np.full((16, 24), 200, np.uint8))
    assert snnkd(["predict", "run", str(large), "--resize"]) == 0
    assert "24 x 16 resized to 8 x 8" in capsys.readouterr().err


@pytest.mark.usefixtures("run")
def test_image_files_that_cannot_be_taken_are_told_in_one_line(tmp_path, capsys):
    cut = saved(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8))
    cut.write_bytes(cut.read_bytes()[:-30])
    wanted = {
        saved(tmp_path / "large.png", np.zeros((9, 8), np.uint8)): "8 x 9 pixels, the network takes 8 x 8; resize it",
        saved(tmp_path / "deep.png", np.zeros((8, 8), np.uint16)): "pixels of mode 'I;16'; save it with eight bits",
        cut: "cannot be read as an image",
        tmp_path / "missing.png": "cannot be read as an image",
    }
    for path, message in wanted.items():
        assert snnkd(["predict", "run", str(path)]) == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"error: {path} ")
        assert message in shown
        assert shown.count("\n") == 1
    assert snnkd(["predict", "run"]) == 2
    assert "images are missing" in capsys.readouterr().err
