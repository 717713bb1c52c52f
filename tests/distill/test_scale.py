"""The scale of feature terms: their gradient against the cross-entropy's, as in the codes that the weights are from.

The gradients of the codes are worked out by hand, with their reductions, on the maps and channels of their networks.
Those of the presets may differ by a factor of three, on other maps and other widths.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representative import representatives
from scipy.special import softmax

from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.runs.config import default_config

B, K = 8, 10
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, K, B)
TEACHER_LOGITS = RNG.normal(0, 2, (B, K))


def random_map(size, channels):
    """Activity of channels and pixels that is independent of their numbers, rectified as spikes and ReLU are."""
    parts = [RNG.normal(0, 1, shape) for shape in ((B, 1, 1, channels), (B, size, size, 1), (B, size, size, channels))]
    return np.maximum(parts[0] + parts[1] + 0.3 * parts[2], 0) / 2


def drawn(sizes, widths):
    """Maps of the student and of the teacher for each stage."""
    stages = [f"stage{i}" for i in range(len(sizes))]
    return [{n: random_map(s, c) for n, s, c in zip(stages, sizes, widths, strict=True)} for _ in range(2)]


def cross_entropy_gradient(feature):
    """Of a linear classifier on the mean of the map, with weights of variance 1 / C."""
    size, channels = feature.shape[1], feature.shape[-1]
    kernel = np.random.default_rng(channels).normal(0, channels**-0.5, (channels, K))
    q = softmax(feature.mean((1, 2)) @ kernel, axis=-1)
    return ((q - np.eye(K)[LABELS]) @ kernel.T / size**2 / B)[:, None, None]  # of each pixel


def kernel_of(maps):
    return np.random.default_rng(1).normal(0, 1, (list(maps.values())[-1].shape[-1], K))


# --- the codes, as gradients by the student's map for a batch


def attention_transfer(student, teacher, _):
    """beta * (at(x) - at(y)).pow(2).mean() for each of the groups, beta = 1000."""
    found = {}
    for name, f in student.items():
        unit = []
        for x in (f, teacher[name]):
            q = (x**2).mean(-1).reshape(B, -1)
            unit.append(q / np.linalg.norm(q, axis=1, keepdims=True))
        norm = np.linalg.norm((f**2).mean(-1).reshape(B, -1), axis=1, keepdims=True)
        by_unit = 1000 * 2 * (unit[0] - unit[1]) / unit[0].size
        by_q = (by_unit - unit[0] * (unit[0] * by_unit).sum(1, keepdims=True)) / norm
        found[name] = by_q.reshape(*f.shape[:3], 1) * 2 * f / f.shape[-1]
    return found


def sakd(student, teacher, _):
    """100 * F.mse_loss(f, a) for each of the stages."""
    return {name: 100 * 2 * (f - teacher[name]) / f.size for name, f in student.items()}


def pooled(weight):
    def gradient(student, teacher, _):
        """weight * MSELoss(reduction='sum') / N of pooled features, of the last stage."""
        name, f = list(student.items())[-1]
        difference = (f.mean((1, 2)) - teacher[name].mean((1, 2))) * weight * 2 / B
        return {name: np.broadcast_to(difference[:, None, None] / f.shape[1] ** 2, f.shape)}

    return gradient


def ckdsnn(student, teacher, kernel):
    """F.kl_div(softmax(map / 2).log(), softmax(cam / 2), reduction='batchmean'), of maps scaled over the batch."""
    name, f = list(student.items())[-1]
    weights = kernel.T[TEACHER_LOGITS.argmax(1)]
    cam = np.maximum((teacher[name] * weights[:, None, None]).sum(-1), 0)
    activity = f.sum(-1)
    low, scale = activity.min(), np.ptp(activity) + 1e-3
    p, s = (softmax((x - x.min()).reshape(B, -1) / (np.ptp(x) + 1e-3) / 2, axis=1) for x in (cam, activity))
    by_scaled = ((s - p) / 2 / B).reshape(activity.shape)
    gradient = by_scaled / scale
    shrinks = (by_scaled * (activity - low)).sum() / scale**2
    gradient[np.unravel_index(activity.argmin(), activity.shape)] += shrinks - by_scaled.sum() / scale
    gradient[np.unravel_index(activity.argmax(), activity.shape)] -= shrinks
    return {name: np.broadcast_to(gradient[..., None], f.shape)}


# preset: (gradients of the code, sizes of its maps and channels of its network)
CODES = {
    "lasnn": (attention_transfer, (32, 16, 8), (16, 32, 64)),  # WRN-16-1 on CIFAR-10
    "sakd": (sakd, (32, 16, 8, 4), (64, 128, 256, 512)),  # ResNet-18 on CIFAR-10
    "kdsnn-last": (pooled(7e-5), (7,), (512,)),  # SEW-ResNet-18 on ImageNet
    "bkdsnn": (pooled(2e-3), (8,), (384,)),  # Spikingformer-4-384 on CIFAR-10
    "ckdsnn": (ckdsnn, (8,), (512,)),  # ResNet-19 on CIFAR-10
}


def relative(gradients, student):
    """Norm over that of the cross-entropy's, by stage."""
    norms = {name: np.linalg.norm(np.broadcast_to(cross_entropy_gradient(x), x.shape)) for name, x in student.items()}
    return np.array([np.linalg.norm(g) / norms[name] for name, g in gradients.items()])


def of_preset(preset, student, teacher, kernel):
    """The gradients of the preset's feature term. Connectors are the identity."""
    (term,) = (term for term in PRESETS[preset].terms if term.name == "feature")
    head = (jnp.asarray(kernel, jnp.float32), jnp.zeros(K))
    targets = TeacherOutputs(jnp.asarray(TEACHER_LOGITS), {n: jnp.asarray(x) for n, x in teacher.items()}, head=head)

    def loss(maps):
        outputs = StudentOutputs.of(jnp.zeros((B, 1, K)), {"stages": maps})
        values = term(dataclasses.replace(outputs, connected=maps), targets, jnp.asarray(LABELS))
        return term.weight * values.mean()

    return jax.jit(jax.grad(loss))({n: jnp.asarray(x, jnp.float32) for n, x in student.items()})


@pytest.mark.parametrize("preset", CODES)
def test_the_scale_is_that_of_the_code_on_its_own_maps(preset):
    gradient, sizes, widths = CODES[preset]
    student, teacher = drawn(sizes[:2], widths[:2]) if preset == "sakd" else drawn(sizes, widths)
    kernel = kernel_of(student)
    expected, found = gradient(student, teacher, kernel), of_preset(preset, student, teacher, kernel)
    for name in expected:
        atol = 1e-6 * np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, atol=atol)


OTHERS = list(itertools.product(CODES, (4, 8), (0.5, 2)))


@pytest.mark.parametrize(
    ("preset", "size", "width"), representatives(OTHERS, lambda x: x[0] != "ckdsnn" and x[1:] in ((4, 0.5), (8, 2)))
)
def test_the_scale_holds_on_other_maps_and_widths(preset, size, width):
    gradient, sizes, widths = CODES[preset]
    stages = len(sizes[:2])
    student, teacher = drawn(sizes[:2], widths[:2])
    published = relative(gradient(student, teacher, kernel_of(student)), student)
    student, teacher = drawn([size // 2**i for i in range(stages)], [int(width * c) for c in widths[:2]])
    found = of_preset(preset, student, teacher, kernel_of(student))
    found = relative({name: found[name] for name in list(student)[-len(published) :]}, student)
    assert np.all(np.abs(np.log(found / published)) < np.log(3)), found / published


CONNECTED = [n for n, x in PRESETS.items() if any(t.connector and t.name == "feature" for t in x.terms)]
WIDTHS = list(itertools.product(CONNECTED, [(1, 2), (16, 32), (64, 3), (3, 512)]))


@pytest.mark.parametrize(("preset", "widths"), representatives(WIDTHS, lambda x: x[0] == "sakd" and x[1][0] in (1, 64)))
def test_connectors_are_stable_at_the_default_learning_rate(preset, widths):
    """Nesterov's momentum of 0.9 is stable below 1.36 = 2 (1 + 0.9) / (1 + 2 * 0.9).

    The curvature is that by the bias of a norm, which is added to every pixel of a channel.
    """
    (term,) = (term for term in PRESETS[preset].terms if term.name == "feature")
    student, teacher = drawn((8, 4), widths)
    assert term.connector is not None
    last = list(student)[-1:] if term.connector.last else list(student)
    student, teacher = ({n: jnp.asarray(maps[n], jnp.float32) for n in last} for maps in (student, teacher))
    targets = TeacherOutputs(jnp.asarray(TEACHER_LOGITS), teacher, teacher)

    def loss(biases):
        outputs = StudentOutputs.of(jnp.zeros((B, 1, K)), {"stages": student})
        connected = {name: 5 + x + biases[name] for name, x in student.items()}  # above every target
        return (
            term.weight * term(dataclasses.replace(outputs, connected=connected), targets, jnp.asarray(LABELS)).mean()
        )

    biases = {name: jnp.zeros(x.shape[-1]) for name, x in student.items()}
    hessian = jax.jit(jax.hessian(loss))(biases)
    curvature = max(np.linalg.eigvalsh(hessian[name][name])[-1] for name in biases)
    assert curvature > 0
    assert default_config("cifar10").flat()["learning_rate"] * curvature < 1.36 / 2
