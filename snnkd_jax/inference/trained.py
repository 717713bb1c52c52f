"""Trained networks, loaded from the files of their run directory alone.

student = load("runs/mnist")
prediction = student.predict(images)
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from numpy.typing import NDArray

from snnkd_jax.data.normalisation import Normalisation, event_counts
from snnkd_jax.data.pixels import as_pixels
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.dynamics.neurons import most_spikes
from snnkd_jax.errors import InputError, check_choice, check_count
from snnkd_jax.files import as_path, read_sealed, similar
from snnkd_jax.inference.predict import (
    at_once,
    check_threshold,
    from_state,
    logits_by_step,
    predict_at_once,
    predict_by_step,
    steps_of_call,
)
from snnkd_jax.inference.stepper import Prediction, State, Stepper
from snnkd_jax.inference.students import read_weights, students
from snnkd_jax.inference.summary import summary
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.converted import check_thresholds
from snnkd_jax.models.description import can_be_built, check_same_network, network_from
from snnkd_jax.models.folding import fold_norms
from snnkd_jax.models.recorder import spiking_layers
from snnkd_jax.parallel.mesh import data_mesh
from snnkd_jax.runs.models import time_steps
from snnkd_jax.runs.result import read_result, result_in
from snnkd_jax.runs.roles import Role
from snnkd_jax.training.checkpoint import load_network
from snnkd_jax.training.manifest import is_trained
from snnkd_jax.training.metrics import read_log
from snnkd_jax.training.saved import read_network, shapes_of


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network with its variables and the normalisation of its input images.

    `class_names` are in the order of the logits. `history` has a dictionary per training epoch, and `result` is the
    evaluation on the test set; both are empty if unknown.
    """

    network: Network
    variables: Variables
    normalisation: Normalisation
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    dataset: str
    history: tuple[dict[str, Any], ...] = ()
    result: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """The fields, for `pickle` and `copy`: without compiled programs."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def test_accuracy(self) -> float:
        """Test accuracy after the last epoch, in [0, 1]; raises `InputError` if unknown."""
        if "accuracy" not in self.result:
            raise InputError("test_accuracy is unknown: the network was not tested in its run, or it is converted")
        return self.result["accuracy"]

    @property
    def title(self) -> str:
        """Architecture, width, and the number of time steps or "an ANN", in words; see `time_steps` for T x D."""
        return f"{self.network.title}, {time_steps(self.network.num_steps, self.levels)}"

    @functools.cached_property
    def levels(self) -> int:
        """D, the largest number of spikes per neuron and step: 1 for an ANN, and but for integer neurons (`ILIF`)."""
        if self.network.num_steps is None:
            return 1
        if self.network.arguments is not None and self.network.arguments.neuron is not None:
            return most_spikes(self.network.arguments.neuron)
        neurons = spiking_layers(self.network, self.variables, self.image_shape).values()
        return max(map(most_spikes, neurons), default=1)

    @property
    def reads_events(self) -> bool:
        """Whether the network takes numbers of events, as they are."""
        return self.normalisation == event_counts(self.image_shape[-1])

    @property
    def num_frames(self) -> int | None:
        """T of the sequences that the network was trained on; None for an ANN of images."""
        frames = self.network.frames
        return self.network.num_steps if frames is None else frames.num_frames

    @functools.cached_property
    def streams(self) -> bool:
        """Whether the network can compute one time step per call, with a state between calls."""
        return self.network.num_steps is not None and self.network.streams(self.variables, self.image_shape)

    def as_teacher(self) -> Teacher:
        """The network as a teacher; logits and features of a spiking one are means over its steps."""

        check_thresholds(self.network, self.variables)

        def function(variables: Variables, images: Array) -> Any:
            logits, features = self.network.apply(variables, images)
            features = {kind: features.get(kind, {}) for kind in ("stages", "pre_activations")}
            outputs = logits, features
            return outputs if self.network.num_steps is None else jax.tree.map(lambda x: x.mean(axis=1), outputs)

        return Teacher(function, self.variables, self.normalisation, self.title)

    def with_steps(self, num_steps: int) -> Network:
        """The spiking network at another number of time steps; raises `InputError` for an ANN."""
        return self.network.with_steps(num_steps)

    def logits_by_step(self, images: NDArray, num_steps: int) -> NDArray:
        """Logits float32 `[N, num_steps, K]` of each time step, at any T.

        Images are `[N, H, W, C]`, N >= 1, or greyscale `[N, H, W]`, bytes or floats in [0, 1]. Raises `InputError` for
        an ANN, a number of steps below 1, or images that do not fit the network.
        """
        pixels = jax.device_get(as_pixels("images", images, self.image_shape))
        if not len(pixels):
            raise InputError(f"images have shape {pixels.shape}; at least one is needed")
        check_count("num_steps", num_steps)
        steps = steps_of_call(self.network, num_steps)
        if steps not in self._programs_from_state:
            self._programs_from_state[steps] = from_state(self.with_steps(steps), self.normalisation)
        return logits_by_step(self._programs_from_state[steps], self.variables, pixels, num_steps // steps)

    def folded(self) -> "Trained":
        """The same function with its batch norms folded into the layers before them (`models.folding`)."""
        network, variables = fold_norms(self.network, self.variables, self.image_shape)
        return dataclasses.replace(self, network=network, variables=variables)

    def expanded(self) -> "Trained":
        """The same network of integer neurons in T x D binary sub-steps (`models.expanded`).

        Every convolution and dense layer that reads neurons reads 0 or 1. Each step is computed in D sub-steps, over
        which its logits are summed, so that time steps, predictions and streams are those of the integer network.
        Raises `InputError` if it has no integer neurons, or a layer that reads anything but counts of their spikes.
        """
        return dataclasses.replace(self, network=self.network.expand(self.variables, self.image_shape))

    def predict(self, images: Any, num_steps: int | None = None, threshold: float | None = None) -> Prediction:
        """Classifies images.

        Args:
            images: any number, `[B, H, W, C]`, or greyscale `[B, H, W]`, bytes or floats in [0, 1]; or with one frame
                per step, `[B, T, H, W, C]`, which an ANN takes if it was built with `frames`. If the network codes
                static images, frames are spikes, 0.0 or 1.0.
            num_steps: the maximum number of time steps; None: as in training, or one per frame.
            threshold: confidence threshold of the early exit, in [0, 1], such as from `predict.choose_threshold`;
                None: no early exit.

        Returns NumPy arrays. Up to 128 images without a threshold give, bit for bit, the same as `step` frame by frame.
        Raises `InputError` for images that do not fit or have values out of range, a number of steps below 1 or
        different from that of the frames, a threshold out of range, or either of the two for an ANN.
        """
        spiking = self.network.num_steps is not None
        sequences = spiking or self.network.frames is not None
        pixels = jax.device_get(as_pixels("images", images, self.image_shape, sequences))
        if self.network.coding != "direct":
            pixels = self._spikes(pixels, num_steps)
        frames = pixels if pixels.ndim == 5 else pixels[:, None]
        if not spiking and not (num_steps is None and threshold is None):
            raise InputError(f"num_steps={num_steps!r}, threshold={threshold!r}: an ANN has no time steps; omit them")
        if not spiking and pixels.ndim == 5:
            return self._predict_at_once(pixels, None)
        default: int = frames.shape[1] if pixels.ndim == 5 else self.network.num_steps or 1
        steps = default if num_steps is None else num_steps
        check_count("num_steps", steps)
        if pixels.ndim == 5 and steps != frames.shape[1]:
            raise InputError(f"num_steps={num_steps!r}, but images have {frames.shape[1]} frames; leave num_steps out")
        check_threshold(threshold)
        if not spiking or self.streams or threshold is not None:
            return predict_by_step(self._stepper, frames, steps, threshold)
        return self._predict_at_once(pixels, steps)

    def start(self, batch: int) -> State:
        """The state of `batch` streams before their first frames; raises `InputError` below 0, and for an ANN."""
        if self.network.num_steps is None:
            raise InputError("an ANN has no time steps and takes no streams; use predict")
        check_count("batch", batch, least=0)
        return self._stepper.start(int(batch))

    def step(self, state: State, frame: Any) -> tuple[State, Prediction]:
        """Computes one time step of each stream; compiled once per batch size, and traceable by `jax.jit`.

        Args:
            state: from `start`, or from the step before.
            frame: the input of each stream at this step, `[B, H, W, C]`, or greyscale `[B, H, W]`, as in `predict`: if
                the network codes static images, spikes such as `network.encode(images)[:, t]`.

        Returns the state for the next step, and the prediction from all frames so far, as JAX arrays. Raises
        `InputError` for a frame that does not fit the network or the state's batch, or has values out of range.
        """
        pixels = as_pixels("frame", frame, self.image_shape)
        if len(pixels) != state.batch:
            raise InputError(f"frame has {len(pixels)} images, the state {state.batch}; use start({len(pixels)})")
        if self.network.coding != "direct":
            _check_spikes("frame", self.network, pixels)
        return self._stepper(state, pixels)

    def _spikes(self, pixels: NDArray, num_steps: int | None) -> NDArray:
        """What a network that codes static images reads of them; spikes as they are."""
        if pixels.ndim == 5:
            _check_spikes("images", self.network, pixels)
            return pixels
        network = self.network if num_steps is None else self.with_steps(num_steps)
        return np.asarray(network.encode(self.normalisation(pixels)))

    def summary(self) -> str:
        """A text summary: layers, shapes, parameters, neurons, time steps and classes."""
        shape = " x ".join(map(str, self.image_shape))
        about = f"{self.title}, trained on {self.dataset}: images {shape}, classes {', '.join(self.class_names)}"
        return f"{about}\n{summary(self.network, self.variables, self.image_shape)}"

    def _predict_at_once(self, pixels: NDArray, num_steps: int | None) -> Prediction:
        if num_steps not in self._programs:
            network = self.network if num_steps is None else self.with_steps(num_steps)
            self._programs[num_steps] = at_once(network, self.normalisation)
        return predict_at_once(self._programs[num_steps], self.variables, self.class_names, pixels, num_steps or 1)

    @functools.cached_property
    def _programs(self) -> dict[int | None, Callable]:
        """What is compiled for whole sequences, by the number of steps."""
        return {}

    @functools.cached_property
    def _programs_from_state(self) -> dict[int, Callable]:
        """What is compiled for some steps after others, by their number."""
        return {}

    @functools.cached_property
    def _stepper(self) -> Stepper:
        """The stepper of the folded network; raises `InputError` if it has a state outside `Spike` layers."""
        if self.network.num_steps is not None and not self.streams:
            advice = "its steps depend on each other outside `Spike` layers; predict without a threshold"
            raise InputError(f"{self.network.title} cannot compute one time step per call: {advice}")
        with jax.ensure_compile_time_eval():  # cached, so not a tracer of the user's jit that makes the first call
            folded = self.folded()
            variables = jax.device_put(folded.variables, jax.local_devices()[0])
        network = folded.network if self.network.num_steps is None else folded.with_steps(1)
        network = dataclasses.replace(network, coding="direct")  # of spikes that are coded already
        return Stepper(network, variables, self.normalisation, self.image_shape, self.class_names)


def _check_spikes(name: str, network: Network, frames: NDArray | Array) -> None:
    """Raises `InputError` unless frames are floats 0 or 1, if they are not traced."""
    if isinstance(frames, Tracer):
        return
    values = np.asarray(frames)
    if values.dtype == np.uint8 or not np.isin(values, (0, 1)).all():
        advice = "give the spikes of network.encode(images in [0, 1]), or static images to predict"
        raise InputError(f"{name} are no spikes, floats 0 or 1, but the network codes by {network.coding!r}; {advice}")


def load(path: str | Path, role: Role | None = None, *, network: Network | None = None) -> Trained:
    """Loads a trained network, as it was after its last epoch.

    Args:
        path: a run directory, or the directory of a network in one; or the name of a student that comes with the
            package, see `students`, where there is no directory of that name.
        role: which network of the run; None: the student, or the only one, or that of `path`.
        network: the network that was trained, if it has a module or neurons of your own, which no file holds.

    Raises:
        InputError: if there is no such network, its training is not finished, its files are damaged or of another
            version, or `network` is another one.
    """
    if role is not None:
        check_choice("role", role, get_args(Role))
    place = as_path("path", path)
    if not place.is_dir():
        if (card := students().get(name := str(path))) is not None and role in (None, "student") and network is None:
            found = _described(card["network"], f"the student {name}")
            variables = read_weights(name, shapes_of(found.network, found.image_shape))
            return dataclasses.replace(found, variables=variables, result=card["result"])
        advice = f"give a run directory, such as runs/mnist, or a trained student: {', '.join(students())}"
        raise InputError(f"path={str(path)!r} is not a directory{similar(place)}; {advice}")
    directory = _directory(place, role)
    description = read_network(directory)
    if network is not None:
        check_same_network(network, description, directory)
    elif not can_be_built(description):
        advice = "network=snnkd_jax.Network(module, num_steps=4) or network=snnkd_jax.build(..., neuron=...)"
        raise InputError(f"{directory} has a module or neurons of your own, which no file holds; give {advice}")
    found = _described(description, str(directory / "manifest.json"), network)
    variables = load_network(directory, shapes_of(found.network, found.image_shape), data_mesh())
    run, name = directory.parent, directory.name
    history = tuple(entry for entry in read_log(run) if entry["phase"] == name)
    result = result_in(read_result(run) or {}, name)
    return dataclasses.replace(found, variables=variables, history=history, result=result)


def _described(description: dict[str, Any], where: str, network: Network | None = None) -> Trained:
    """The network of a description, which is found in `where`, without its variables."""
    try:
        network = network_from(description) if network is None else network
        normalisation = Normalisation(**{name: tuple(v) for name, v in description["normalisation"].items()})
        image_shape, classes = tuple(description["image_shape"]), tuple(description["class_names"])
        shapes_of(network, image_shape)
        pixels = jax.eval_shape(normalisation, jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8))
        if pixels.shape != (1, *image_shape) or len(classes) != description["num_classes"]:
            raise ValueError("the number of channels or classes does not match the normalisation or the class names")
        return Trained(network, {}, normalisation, image_shape, classes, description["dataset"])
    except Exception as error:  # wrong types and sizes raise whatever they raise
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise InputError(f"{where} is of another version ({reason})") from error


def _directory(path: Path, role: Role | None) -> Path:
    """The directory of a network: `path`, or that of a role in the run `path`."""
    if is_trained(path):
        if role is not None:
            raise InputError(f"role={role!r}: {path} is the directory of one network; leave role out, or give the run")
        return path
    found = [name for name in get_args(Role) if is_trained(path / name)]
    # A run of `fit` has one network; in any other, a missing student must not be replaced by another network.
    fitted = (path / "config.json").is_file() and "fit" in read_sealed(path / "config.json")
    name = role or (found[0] if fitted and found else "student")
    if name not in found:
        hint = f"; it has {', '.join(found)}" if found else ""
        if (path / name).is_dir():
            hint = "; run the command that started the run to resume it"
        raise InputError(f"{path} has no {name} that finished training{hint}")
    return path / name
