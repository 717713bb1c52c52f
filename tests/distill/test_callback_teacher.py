"""Teachers of other frameworks: called back with NumPy arrays; what is no logit or no JAX function is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import snnkd_jax as kd
from snnkd_jax.distill.callback import callback_teacher
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError

SHAPE, K = (8, 8, 1), 5
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((64, K)).astype(np.float32)
IMAGES, LABELS = RNG.integers(0, 256, (64, *SHAPE), np.uint8), np.arange(64) % K
CLASSIFIER = LinearDiscriminantAnalysis().fit(IMAGES.reshape(64, -1) / 255.0, LABELS)


def linear(images):
    return images.reshape(len(images), -1) @ WEIGHTS


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(silent|saturated) layers.*")
def test_a_student_learns_from_a_callback_as_from_the_same_function_in_jax():
    """On all devices of the tests."""
    data = kd.data.from_arrays(train=(IMAGES, LABELS), test=(IMAGES[:8], LABELS[:8]))
    network = kd.build("convnet", K, neuron=kd.LIF(), num_steps=1, width=0.1)
    teachers = {
        "jax": Teacher(lambda w, x: x.reshape(len(x), -1) @ w, WEIGHTS),
        "numpy": callback_teacher(linear, num_classes=K, name="linear"),
    }
    found = {}
    for name, teacher in teachers.items():
        found[name] = kd.fit(network, data, teacher=teacher, epochs=1, batch_size=16)
    losses = [entry["kd"] for name in teachers for entry in found[name].history]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert losses[0] > 0


def test_scikit_learn_on_images_on_several_devices():
    teacher = callback_teacher(lambda x: CLASSIFIER.decision_function(x.reshape(len(x), -1)), num_classes=K)
    images = RNG.random((16, *SHAPE)).astype(np.float32)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    parts = jax.device_put(images, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    logits, features = jax.jit(teacher.apply)((), parts)
    np.testing.assert_allclose(logits, CLASSIFIER.decision_function(images.reshape(16, -1)), rtol=1e-5, atol=1e-5)
    assert logits.dtype == jnp.float32
    assert features["stages"] == {}
    assert teacher.title == "callback"


class Norm:
    """A batch norm that was left in training mode."""

    def __call__(self, images):
        return linear(images - images.mean(0) + 0.1)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda x: CLASSIFIER.predict_proba(x.reshape(len(x), -1)), "returns probabilities; return logits"),
        (lambda x: CLASSIFIER.predict(x.reshape(len(x), -1)), r"int64 \(2,\), not logits \[B, K\] = \(2, 5\)"),
        (lambda x: linear(x)[:, :3], r"float32 \(2, 3\), not logits"),
        (lambda x: linear(x) * np.nan, "not finite"),
        (lambda x: np.log(np.maximum(linear(x), 0)), "not finite"),
        (lambda x: linear(x) + RNG.standard_normal((len(x), K)) * 9, r"when called again; use evaluation mode"),
        (Norm(), r"when alone; use evaluation mode, net\.eval\(\)"),
        (lambda x: linear(x.transpose(0, 3, 1, 2)[:, :, 0]), r"function raised ValueError: matmul.*give one such as"),
        (CLASSIFIER.decision_function, r"function raised ValueError: Found array with dim 4"),
        (lambda x: [["a"] * K] * len(x), "returned <U1"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_gives_no_logits_is_told(function, told):
    teacher = callback_teacher(function, num_classes=K, name="mine")
    with pytest.raises(InputError, match=f"teacher 'mine': .*{told}"):
        jax.eval_shape(teacher.apply, (), jnp.zeros((1, *SHAPE)))


class TorchLike:
    """Its class says that it is of PyTorch, as a module's bases do."""

    __module__ = "torch.nn.modules.module"

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (CLASSIFIER, "its function is LinearDiscriminantAnalysis, not a JAX function"),
        (CLASSIFIER.predict_proba, "its function is of sklearn"),
        (TorchLike(), "its function is of torch"),
        (lambda _, x: CLASSIFIER.decision_function(x.reshape(len(x), -1)), "TracerArrayConversionError"),
        (lambda _, x: linear(np.asarray(x)), "TracerArrayConversionError"),
        (lambda _, x: linear(x.detach().numpy()), "AttributeError"),
        (lambda _, x: linear(x) if x.sum() > 0 else x, "TracerBoolConversionError"),
    ],
)
def test_a_teacher_of_another_framework_is_pointed_to_the_callback(function, told):
    with pytest.raises(InputError) as error:
        jax.eval_shape(Teacher(function, name="mine").apply, (), jnp.zeros((1, *SHAPE)))
    message = str(error.value)
    assert all(part in message for part in ("teacher 'mine'", told, "callback_teacher(function, num_classes=")), message
    assert "\n" not in message


def test_arguments_of_a_callback(monkeypatch):
    with pytest.raises(InputError, match="num_classes=1 must be"):
        callback_teacher(linear, num_classes=1)
    with pytest.raises(InputError, match="LinearDiscriminantAnalysis, which cannot be called"):
        callback_teacher(CLASSIFIER, num_classes=K)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="there are 2; start one alone"):
        callback_teacher(linear, num_classes=K)
