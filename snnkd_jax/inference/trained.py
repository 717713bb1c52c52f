"""Networks of finished runs, loaded with all that is needed to use them.

    student = load("runs/mnist")
    prediction = student.predict(images)

Nothing but the files of the run directory is needed, not the data that the network was trained on.
"""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.data.pixels import as_pixels
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError, check_choice, check_count
from snnkd_jax.files import read_json
from snnkd_jax.inference.predict import at_once, classify, logits_by_step
from snnkd_jax.inference.stepper import Prediction, State, Stepper
from snnkd_jax.inference.summary import summary
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.description import can_be_built, check_same_network, network_from
from snnkd_jax.models.folding import fold_norms
from snnkd_jax.parallel.mesh import data_mesh
from snnkd_jax.runs.result import result_in
from snnkd_jax.runs.roles import Role
from snnkd_jax.training.checkpoint import load_network
from snnkd_jax.training.metrics import read_log
from snnkd_jax.training.saved import read_network, shapes_of


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, its variables, and how images are to be normalised for it.

    `class_names` are in the order of the logits. `history` has a dictionary per training epoch, and `result` is that on
    the test set; both are empty where they are not known.
    """

    network: Network
    variables: Variables
    normalisation: Normalisation
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    dataset: str
    history: tuple[dict[str, Any], ...] = ()
    result: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def test_accuracy(self) -> float:
        """The accuracy on the test set after the last epoch, in [0, 1]; raises `InputError` if it is not known."""
        if "accuracy" not in self.result:
            raise InputError("test_accuracy is not known: the network was not tested in its run, or it is converted")
        return self.result["accuracy"]

    @property
    def title(self) -> str:
        """Architecture, width and kind in words."""
        steps = "an ANN" if self.network.num_steps is None else f"T = {self.network.num_steps}"
        return f"{self.network.title}, {steps}"

    @functools.cached_property
    def streams(self) -> bool:
        """Whether the network can make one time step at a call, with its state in between."""
        return self.network.num_steps is not None and self.network.streams(self.variables, self.image_shape)

    def as_teacher(self) -> Teacher:
        """The network as a teacher of others; of a spiking one, logits and features are means over its steps."""

        def function(variables: Variables, images: Array) -> Any:
            logits, features = self.network.apply(variables, images)
            features = {kind: features.get(kind, {}) for kind in ("stages", "pre_activations")}
            outputs = logits, features
            return outputs if self.network.num_steps is None else jax.tree.map(lambda x: x.mean(axis=1), outputs)

        return Teacher(function, self.variables, self.normalisation, self.title)

    def with_steps(self, num_steps: int) -> Network:
        """The spiking network with another number of time steps; raises `InputError` for an ANN."""
        return self.network.with_steps(num_steps)

    def logits_by_step(self, images: NDArray, num_steps: int) -> NDArray:
        """Logits float32 `[N, num_steps, K]` of each time step, whatever T the network was trained with.

        Images are `[N, H, W, C]`, N >= 1, or `[N, H, W]` if grey, as bytes or as floats in [0, 1]. Raises `InputError`
        for an ANN, a number of steps below 1, or images that do not fit the network.
        """
        pixels = jax.device_get(as_pixels("images", images, self.image_shape))
        at_a_time = self.with_steps(math.gcd(num_steps, self.network.num_steps or 1))
        return logits_by_step(at_a_time, self.variables, self.normalisation, pixels, num_steps)

    def folded(self) -> "Trained":
        """The same function, with the batch norms in the layers before them (`models.folding`)."""
        network, variables = fold_norms(self.network, self.variables, self.image_shape)
        return dataclasses.replace(self, network=network, variables=variables)

    def predict(self, images: Any, num_steps: int | None = None, threshold: float | None = None) -> Prediction:
        """Classifies images.

        Args:
            images: any number of them, `[B, H, W, C]`, or `[B, H, W]` if grey, as bytes or as floats in [0, 1]; or one
                frame per step, `[B, T, H, W, C]`.
            num_steps: the most time steps that are made; None: as many as in training, or one for each frame.
            threshold: confidence threshold of the early exit, in [0, 1], such as `predict.choose_threshold` finds;
                None: all steps.

        Returns:
            Arrays of NumPy. Up to 128 images without a threshold get, bit for bit, what `step` gives their frames.

        Raises:
            InputError: for images that do not fit or have values out of range, a number of steps below 1 or other than
                that of the frames, another threshold, and the last two for an ANN.
        """
        spiking = self.network.num_steps is not None
        pixels = as_pixels("images", images, self.image_shape, sequences=spiking)
        if spiking and num_steps is None and pixels.ndim == 4:
            num_steps = self.network.num_steps
        pixels = jax.device_get(pixels)
        if not spiking or self.streams or threshold is not None:
            return classify(self._stepper, pixels, num_steps, threshold)
        if pixels.ndim == 5 and num_steps not in (None, pixels.shape[1]):
            raise InputError(f"num_steps={num_steps!r}, but images have {pixels.shape[1]} frames; leave num_steps out")
        network = self.with_steps(pixels.shape[1] if num_steps is None else num_steps)
        return at_once(network, self.variables, self.normalisation, self.class_names, pixels)

    def start(self, batch: int) -> State:
        """The state of `batch` streams before their first frames; raises `InputError` below 0, and for an ANN."""
        if self.network.num_steps is None:
            raise InputError("an ordinary network has no time steps and takes no streams; use predict")
        check_count("batch", batch, least=0)
        return self._stepper.start(int(batch))

    def step(self, state: State, frame: Any) -> tuple[State, Prediction]:
        """One time step of a stream; compiled once for each size of batch, and traceable by `jax.jit`.

        Args:
            state: from `start`, or from the step before.
            frame: what each stream sees in this step, `[B, H, W, C]`, or `[B, H, W]` if grey, as in `predict`.

        Returns the state for the next step, and the prediction by all frames so far, in arrays of JAX. Raises
        `InputError` for a frame that does not fit the network or the state's batch, or has values out of range.
        """
        pixels = as_pixels("frame", frame, self.image_shape)
        if len(pixels) != state.batch:
            raise InputError(f"frame has {len(pixels)} images, but the state is of {state.batch}; start({len(pixels)})")
        return self._stepper(state, pixels)

    def summary(self) -> str:
        """The network in text: its layers, shapes, parameters, neurons, time steps and classes."""
        shape = " x ".join(map(str, self.image_shape))
        about = f"{self.title}, trained on {self.dataset}: images {shape}, classes {', '.join(self.class_names)}"
        return f"{about}\n{summary(self.network, self.variables, self.image_shape)}"

    @functools.cached_property
    def _stepper(self) -> Stepper:
        """Of the folded network; raises `InputError` if it keeps a state that is not handed on."""
        if self.network.num_steps is not None and not self.streams:
            raise InputError(
                f"{self.network.title} cannot make one time step at a call: its steps depend on each other otherwise "
                "than through `Spike` layers; predict without a threshold"
            )
        with jax.ensure_compile_time_eval():  # it is kept, also where a user's jit traces the first call
            folded = self.folded()
            variables = jax.device_put(folded.variables, jax.local_devices()[0])
        network = folded.network if self.network.num_steps is None else folded.with_steps(1)
        return Stepper(network, variables, self.normalisation, self.image_shape, self.class_names)


def load(path: str | Path, role: Role | None = None, *, network: Network | None = None) -> Trained:
    """A trained network, as it was after its last epoch.

    Args:
        path: a run directory, or the directory of a network in one.
        role: which network of the run; None: the student, or the only one, or that of `path`.
        network: with a module or neurons of your own, which no file holds: the network that was trained.

    Raises:
        InputError: if there is no such network, it is not trained to its end, its files are damaged or of another
            version, or `network` is another one.
    """
    if role is not None:
        check_choice("role", role, get_args(Role))
    if not str(path) or not Path(path).is_dir():
        what = "is not a directory" if str(path) else "is empty"
        raise InputError(f"path={str(path)!r} {what}; name a run directory, such as runs/mnist")
    directory = _directory(Path(path), role)
    description = read_network(directory)
    if network is not None:
        check_same_network(network, description, directory)
    elif not can_be_built(description):
        raise InputError(
            f"{directory} is of a module or of neurons that no file holds; give the network that was trained, such as "
            "load(path, network=snnkd_jax.Network(module, num_steps=4)) or network=snnkd_jax.build(..., neuron=...)"
        )
    try:
        network = network_from(description) if network is None else network
        normalisation = Normalisation(**{name: tuple(v) for name, v in description["normalisation"].items()})
        image_shape, classes = tuple(description["image_shape"]), tuple(description["class_names"])
        dataset = description["dataset"]
        template = shapes_of(network, image_shape)
        pixels = jax.eval_shape(normalisation, jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8))
        if pixels.shape != (1, *image_shape) or len(classes) != description["num_classes"]:
            raise ValueError("the channels' statistics or the names of the classes are not as many as these")
    except Exception as error:  # a wrong type or size is noticed by whoever comes upon it first
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise InputError(f"{directory / 'network.json'} is damaged ({reason})") from error
    variables = load_network(directory, template, data_mesh())
    run, name = directory.parent, directory.name
    history = tuple(entry for entry in read_log(run) if entry["phase"] == name)
    result = result_in(read_json(run / "result.json"), name) if (run / "result.json").is_file() else {}
    return Trained(network, variables, normalisation, image_shape, classes, dataset, history, result)


def _directory(path: Path, role: Role | None) -> Path:
    """The directory of a network: `path`, or that of a role in it."""
    if (path / "network.json").is_file():
        if role is not None:
            raise InputError(f"role={role!r}: {path} is the directory of one network; leave role out, or name the run")
        return path
    found = [name for name in get_args(Role) if (path / name / "network.json").is_file()]
    # A training by `fit` has one network; of a run with several, one that is missing is not to be taken for another.
    fitted = (path / "config.json").is_file() and "fit" in read_json(path / "config.json")
    name = role or (found[0] if fitted and found else "student")
    if name not in found:
        hint = f"; it has {', '.join(found)}" if found else ""
        if (path / name).is_dir():
            hint = "; run the command that started the run to resume it"
        raise InputError(f"{path} has no {name} that was trained to its end (no {name}/network.json){hint}")
    return path / name
