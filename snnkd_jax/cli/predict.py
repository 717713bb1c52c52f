"""`snnkd predict RUN image.png [image2.png ...] --threshold 0.9`."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from snnkd_jax.cli.arguments import one_or_more
from snnkd_jax.errors import InputError, parse_size
from snnkd_jax.files import similar
from snnkd_jax.runs.roles import Role

if TYPE_CHECKING:
    from snnkd_jax.data.events import Binning
    from snnkd_jax.inference.stepper import Prediction
    from snnkd_jax.inference.trained import Trained


def predict(
    run: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[Annotated[list[Path], one_or_more("IMAGE")]],
    num_steps: int | None = None,
    threshold: float | None = None,
    resize: bool = False,
    bin_by: Literal["time", "count"] | None = None,
    saturate: bool | None = None,
    sensor_size: str | None = None,
    role: Role | None = None,
) -> None:
    """Classify image files, or recordings of events, with a trained network.

    Prints class, confidence, time steps and firing rates of each, and for a recording the class after each frame.

    Args:
        run: Directory of a finished run, or of one network in it.
        images: Image files, of the size that the network was trained on unless --resize is given; or recordings of
            events (.npy, .npz, .bin, .aedat, .aedat4), of which a network sees as many frames as in training.
        num_steps: Maximum number of time steps; None: as in training.
        threshold: Confidence threshold of early exit, in [0, 1]; None: no early exit.
        resize: Resize images of another size.
        bin_by: Division of a recording into frames; None: as in training, or time if the run does not say it.
        saturate: Count more than 255 events in one pixel and frame as 255; None: as in training.
        sensor_size: Size of the event camera in pixels, HEIGHTxWIDTH; None: the file says it, or as in training, or
            that of the frames.
        role: Network of the run; None: the student.
    """
    if not images:
        raise InputError("images are missing; give at least one file")
    from snnkd_jax.inference.trained import load

    network = load(run, role)
    if network.reads_events and network.num_frames is not None:
        binning, camera = _as_in_training(run, network, bin_by, saturate)
        camera = camera if sensor_size is None else parse_size("sensor_size", sensor_size)
        for path in images:
            frames = read_frames(path, binning, camera)
            if network.streams and num_steps is None:
                _tell(path, _streamed(network, path, frames, threshold), 0)
            else:
                _tell(path, network.predict(frames[None], num_steps, threshold), 0)
        return
    pixels = np.stack([read(path, network.image_shape, resize) for path in images])
    prediction = network.predict(pixels, num_steps, threshold)
    for i, path in enumerate(images):
        _tell(path, prediction, i)


def _streamed(network: "Trained", path: Path, frames: NDArray[np.uint8], threshold: float | None) -> "Prediction":
    """The prediction from frames `[T, H, W, 2]`, one by one; prints each, and stops at the threshold."""
    from snnkd_jax.inference.predict import check_threshold

    check_threshold(threshold)
    state = network.start(1)
    for t, frame in enumerate(frames, 1):
        state, prediction = network.step(state, frame[None])
        confidence = float(prediction.confidence[0])
        print(f"{path}, frame {t} of {len(frames)}: {prediction.names[0]}, confidence {confidence:.3f}")
        if threshold is not None and confidence >= threshold:
            break
    return prediction


def _tell(path: Path, prediction: "Prediction", i: int) -> None:
    found = f"{prediction.names[i]}, confidence {prediction.confidence[i]:.3f}, time steps {prediction.steps[i]}"
    print(f"{path}: {found}")
    if rates := [f"{layer} {rate[i]:.3f}" for layer, rate in prediction.firing_rates.items()]:
        print(f"  spikes per neuron and step: {', '.join(rates)}")


def _as_in_training(
    run: Path, network: "Trained", bin_by: Literal["time", "count"] | None, saturate: bool | None
) -> tuple["Binning", tuple[int, int] | None]:
    """The division into frames, that of training where it is not given, and the size (H, W) of training's camera."""
    from snnkd_jax.data.event_sets import EVENT_SETS
    from snnkd_jax.data.events import Binning
    from snnkd_jax.runs.data import DataConfig
    from snnkd_jax.runs.recipe import config_of_network

    config = config_of_network(run)
    data = DataConfig() if config is None else config.data
    by: Any = data.bin_by if bin_by is None else bin_by
    camera = None
    if data.sensor_size is not None:
        camera = parse_size("sensor_size", data.sensor_size)
    elif data.dataset in EVENT_SETS:
        camera = EVENT_SETS[data.dataset].sensor_size
    assert network.num_frames is not None
    size = network.image_shape[:2]
    return Binning(network.num_frames, by, size, data.saturate if saturate is None else saturate), camera


def read_frames(path: Path, binning: "Binning", camera: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The frames `[T, H, W, 2]` of a recording by a camera of (H, W) pixels; None: as the file says, or as the frames.

    Raises `InputError` if the recording is wrong.
    """
    from snnkd_jax.data.event_files import read_events

    if camera is None and path.suffix not in (".aedat", ".aedat4"):
        camera = binning.size
    return binning.frames(read_events(path, camera))


def read(path: Path, image_shape: tuple[int, int, int], resize: bool) -> NDArray[np.uint8]:
    """The pixels `[H, W, C]` of an image file in the network's format; prints changes, raises `InputError` if unfit."""
    from PIL import Image

    from snnkd_jax.data.images import decode

    if not path.exists():
        raise InputError(f"{path} cannot be read as an image: there is no such file{similar(path)}")
    height, width, channels = image_shape
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image, changes = decode(str(path), path, channels)
    if image.size != (width, height):
        if not resize:
            found = f"{image.width} x {image.height} pixels, the network takes {width} x {height}"
            raise InputError(f"{path} has {found}; resize it, or give --resize")
        changes.append(f"{image.width} x {image.height} resized to {width} x {height}")
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    if changes:
        print(f"{path}: {', '.join(changes)}", file=sys.stderr)
    return np.asarray(image).reshape(image_shape)
