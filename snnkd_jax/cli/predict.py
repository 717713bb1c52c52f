"""`snnkd predict RUN image.png [image2.png ...] --threshold 0.9`."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from snnkd_jax.cli.arguments import one_or_more
from snnkd_jax.errors import InputError
from snnkd_jax.files import similar
from snnkd_jax.runs.roles import Role


def predict(
    run: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[Annotated[list[Path], one_or_more("IMAGE")]],
    num_steps: int | None = None,
    threshold: float | None = None,
    resize: bool = False,
    bin_by: Literal["time", "count"] = "time",
    role: Role | None = None,
) -> None:
    """Classify image files, or recordings of events, with a trained network.

    Prints class, confidence, time steps and firing rates of each.

    Args:
        run: Directory of a finished run, or of one network in it.
        images: Image files, of the size that the network was trained on unless --resize is given; or recordings of
            events (.npy, .npz, .bin), of which a network sees as many frames as in training.
        num_steps: Maximum number of time steps; None: as in training.
        threshold: Confidence threshold of early exit, in [0, 1]; None: no early exit.
        resize: Resize images of another size.
        bin_by: Division of a recording into frames, as in training.
        role: Network of the run; None: the student.
    """
    if not images:
        raise InputError("images are missing; give at least one file")
    from snnkd_jax.data.event_files import read_events
    from snnkd_jax.data.events import Binning
    from snnkd_jax.inference.trained import load

    network = load(run, role)
    if network.reads_events and network.num_frames is not None:
        height, width, _ = network.image_shape
        binning = Binning(network.num_frames, bin_by)
        pixels = np.stack([binning.frames(read_events(path, (height, width))) for path in images])
    else:
        pixels = np.stack([read(path, network.image_shape, resize) for path in images])
    prediction = network.predict(pixels, num_steps, threshold)
    for i, (path, name) in enumerate(zip(images, prediction.names, strict=True)):
        print(f"{path}: {name}, confidence {prediction.confidence[i]:.3f}, time steps {prediction.steps[i]}")
        if rates := [f"{layer} {rate[i]:.3f}" for layer, rate in prediction.firing_rates.items()]:
            print(f"  spikes per neuron and step: {', '.join(rates)}")


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
