"""Whitening filters against NumPy's eigendecomposition, and the network whose first layer they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from network_checks import moved
from numpy.lib.stride_tricks import sliding_window_view

from snnkd_jax.analysis import energy
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.errors import InputError
from snnkd_jax.inference.convert import convert
from snnkd_jax.inference.trained import Trained
from snnkd_jax.interop.nir import read_nir, write_nir
from snnkd_jax.models import Pool, build, whitening
from snnkd_jax.models.folding import fold_norms
from snnkd_jax.models.layers import dirac

NAME = "airbench94-whitened"
SHAPE = (18, 18, 3)


def correlated(n: int = 40, size: int = 12) -> np.ndarray:
    """Smooth images `[n, size, size, 3]`, whose channels and neighbouring pixels are correlated."""
    x = np.random.default_rng(0).normal(size=(n, size + 2, size + 2, 3)).cumsum(axis=-1)
    return x[:, :-2, :-2] + x[:, 1:-1, 1:-1] + 0.5 * x[:, 2:, 1:-1]


def patches(images: np.ndarray) -> np.ndarray:
    """All 2x2 patches, `[N, 12]`, in the order row, column, channel."""
    found = sliding_window_view(images, (2, 2), axis=(1, 2))  # [n, h, w, C, 2, 2]
    return found.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)


def whitened(images: np.ndarray, network=None) -> tuple[Any, Any]:
    network = build(NAME, 10, width=0.1, pool="max") if network is None else network
    variables = network.init(jax.random.key(0), (32, 32, 3))
    return network, whitening.with_filters(variables, whitening.patch_moments(jnp.asarray(images, jnp.float32)))


def test_moments_of_patches_are_numpys():
    images, p = correlated(), patches(correlated())
    agrees(
        whitening.patch_moments(jnp.asarray(images, jnp.float32)),
        p.T @ p / len(p),
        rtol=1e-5,
        atol=1e-5,
        name="patch moments",
    )


def test_filters_are_the_eigenvectors_by_the_root_of_their_eigenvalue():
    """Up to the sign, which an eigenvector has not, and in descending order; the second half is the first, negated."""
    p = patches(correlated())
    sigma = p.T @ p / len(p)
    eigenvalues, eigenvectors = np.linalg.eig(sigma)  # not the symmetric solver, which the library uses
    order = np.argsort(-eigenvalues)
    expected = (eigenvectors / np.sqrt(eigenvalues + 5e-4))[:, order]
    found = whitening.filters(sigma)
    assert found.shape == (2, 2, 3, 24)
    half = found.reshape(12, 24)[:, :12]
    signs = np.sign((half * expected).sum(axis=0))
    agrees(half, signs * expected, rtol=1e-5, atol=1e-5, name="whitening filters")
    np.testing.assert_array_equal(found[..., 12:], -found[..., :12])


def test_patches_after_the_layer_are_white():
    """Second moments of the outputs on the images that the filters are made of: lambda / (lambda + eps), else 0."""
    images = correlated()
    _, variables = whitened(images)
    layer = whitening.WhiteningConv()
    outputs: Any = layer.apply({"params": variables["params"]["whitening"]}, jnp.asarray(images, jnp.float32))
    y = np.asarray(outputs, np.float64)[..., :12].reshape(-1, 12)
    assert outputs.shape == (40, 11, 11, 24)  # no padding
    p = patches(images)
    eigenvalues = np.linalg.eigvalsh(p.T @ p / len(p))[::-1]
    assert eigenvalues[0] > 50 * eigenvalues[-1]  # far from white before
    agrees(y.T @ y / len(y), np.diag(eigenvalues / (eigenvalues + 5e-4)), atol=2e-4, name="whitened patches")


@pytest.mark.parametrize("shape", [(3, 3, 4, 10), (3, 3, 6, 6), (3, 3, 5, 2)])
def test_dirac_kernels_pass_their_first_channels_on(shape):
    kernel = dirac(jax.random.key(0), shape)
    *_, c_in, c_out = shape
    x = jax.random.normal(jax.random.key(1), (1, 7, 7, c_in))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    n = min(c_in, c_out)
    np.testing.assert_allclose(y[..., :n], x[..., :n], rtol=1e-6)
    others, bound = np.asarray(kernel[..., n:]), (9 * c_in) ** -0.5
    assert np.all(np.abs(others) <= bound)
    assert not others.size or others.std() == pytest.approx(bound / 3**0.5, rel=0.1)


def test_the_whitened_network_against_numpy():
    """All of it in evaluation, in float64, but for the convolutions: norms, pools, the logits' factor."""
    network = build(NAME, 4, width=0.1, pool="max")
    variables = moved(network.init(jax.random.key(0), (32, 32, 3)))
    image = np.random.default_rng(3).normal(size=(1, 32, 32, 3)).astype(np.float32)

    def conv(x, kernel, padding):
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
        return np.einsum("nhwcij,ijco->nhwo", windows, kernel)

    def pool(x, n):
        h, w = x.shape[1] // n, x.shape[2] // n
        return x[:, : h * n, : w * n].reshape(1, h, n, w, n, -1).max((2, 4))

    def norm(x, name):
        stats = variables["batch_stats"][name]
        assert variables["params"][name].keys() == {"bias"}
        return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) + variables["params"][name]["bias"]

    params = variables["params"]
    stem = params["whitening"]["conv"]
    x = np.maximum(conv(image.astype(np.float64), stem["kernel"], 0) + stem["bias"], 0)
    assert x.shape == (1, 31, 31, 24)
    for i in (1, 2, 3):
        x = np.maximum(norm(pool(conv(x, params[f"conv{i}_1"]["conv"]["kernel"], 1), 2), f"norm{i}_1"), 0)
        x = np.maximum(norm(conv(x, params[f"conv{i}_2"]["conv"]["kernel"], 1), f"norm{i}_2"), 0)
    assert x.shape[1:3] == (3, 3)
    assert params["head"].keys() == {"kernel"}
    expected = pool(x, 3)[:, 0, 0] @ params["head"]["kernel"] / 9
    logits, _ = jax.jit(network.apply)(variables, image)
    agrees(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(), name="a whitened airbench")


def test_filters_have_no_gradient_and_their_bias_has():
    network, variables = whitened(correlated())
    images = jax.random.normal(jax.random.key(1), (3, 32, 32, 3))

    def loss(params):
        return jnp.square(network.apply_train(variables | {"params": params}, images)[0][0]).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])["whitening"]["conv"]
    assert not np.any(gradient["kernel"])
    assert np.any(gradient["bias"])


@pytest.mark.slow
def test_running_statistics_move_by_four_tenths():
    network, variables = whitened(correlated())
    images = jax.random.normal(jax.random.key(1), (5, 32, 32, 3))
    _, stats = jax.jit(network.apply_train)(variables, images)
    before = variables["batch_stats"]["norm1_1"]
    again = variables | {"batch_stats": variables["batch_stats"] | {"norm1_1": jax.tree.map(lambda x: x + 1, before)}}
    _, moved_stats = jax.jit(network.apply_train)(again, images)
    for name in ("mean", "var"):
        np.testing.assert_allclose(moved_stats["norm1_1"][name] - stats["norm1_1"][name], 0.6, rtol=1e-4)


def test_a_student_takes_its_teachers_filters():
    teacher, student = (build(NAME, 5, width=0.1, pool="max", neuron=neuron) for neuron in (None, LIF()))
    shapes = [jax.eval_shape(lambda n=n: n.init(jax.random.key(0), (32, 32, 3))) for n in (teacher, student)]
    assert shapes[0] == shapes[1]


def student(pool: Pool):
    """With running statistics of random images, so that its neurons fire."""
    network = build(NAME, 5, neuron=LIF(v_threshold=0.5), num_steps=3, width=0.2, pool=pool)
    variables, train = network.init(jax.random.key(0), SHAPE), jax.jit(network.apply_train)
    for _ in range(6):
        variables |= {"batch_stats": train(variables, jax.random.normal(jax.random.key(2), (8, *SHAPE)))[1]}
    return network, variables


@pytest.mark.slow
def test_the_factor_of_the_logits_is_folded_into_the_classifier():
    network, variables = student("avg")
    folded, folded_variables = fold_norms(network, variables, SHAPE)
    images = jax.random.normal(jax.random.key(1), (3, *SHAPE))
    expected, found = jax.jit(network.apply)(variables, images)[0], jax.jit(folded.apply)(folded_variables, images)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    kernels = (v["params"]["head"]["kernel"] for v in (folded_variables, variables))
    np.testing.assert_allclose(next(kernels) * 9, next(kernels), rtol=1e-6)
    assert fold_norms(folded, folded_variables, SHAPE)[0] == folded


@pytest.mark.slow
def test_a_file_of_nir_has_the_network_with_mean_pooling(tmp_path):
    network, variables = student("avg")
    write_nir(tmp_path / "net.nir", network, variables, SHAPE)
    read = read_nir(tmp_path / "net.nir")
    images = jax.random.normal(jax.random.key(1), (3, *SHAPE))
    (expected, _), (found, _) = (
        jax.jit(n.apply)(v, images) for n, v in ((network, variables), (read.network, read.variables))
    )
    assert np.all(expected.std(axis=0) > 1e-4)  # spikes of the last layer differ from image to image
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(InputError, match="max pooling"):
        write_nir(tmp_path / "max.nir", *student("max"), SHAPE)


@pytest.mark.slow
def test_the_converted_network_comes_close_to_its_ann_in_many_steps():
    ann = build(NAME, 5, width=0.05, pool="max")
    variables = moved(ann.init(jax.random.key(0), SHAPE))
    images = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    trained = Trained(ann, variables, Normalisation((0.5,) * 3, (0.25,) * 3), SHAPE, tuple("abcde"), "cifar10")
    expected = jax.jit(ann.apply)(variables, trained.normalisation(images))[0]
    errors = []
    for num_steps in (8, 256):
        converted = convert(trained, images, num_steps, percentile=100.0)
        found = jax.jit(converted.network.apply)(converted.variables, trained.normalisation(images))[0].mean(axis=1)
        errors.append(np.abs(found - expected).max() / np.abs(expected).max())
    assert errors[1] < min(0.05, errors[0] / 5), errors


@pytest.mark.slow
def test_operations_of_the_stem_by_hand():
    """24 filters of 12 weights at 17 x 17 positions, read once by an analogue image, and by spikes from there on."""
    network, variables = student("max")
    cost = energy.count(network, variables, jax.random.normal(jax.random.key(1), (2, *SHAPE)))
    layers = list(cost.layers.values())
    assert (layers[0].name, layers[0].operations, layers[0].dense) == ("whitening", "MAC", 24 * 12 * 17 * 17)
    assert [layer.operations for layer in layers[1:]] == ["AC"] * 7


@pytest.mark.slow
def test_silent_neurons_do_not_blow_gradients_up():
    """Behind a stem that never fires, every channel is 0 and has no variance; the biases of norms still learn."""
    network = build(NAME, 5, neuron=LIF(), num_steps=2, width=0.1, pool="max")
    variables = network.init(jax.random.key(0), SHAPE)
    variables["params"]["whitening"]["conv"]["bias"] -= 100

    def loss(params):
        images = jax.random.normal(jax.random.key(1), (4, *SHAPE))
        return jnp.square(network.apply_train(variables | {"params": params}, images)[0][0] - 1).sum()

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    assert np.any(gradient["norm3_2"]["bias"])
    assert max(np.abs(x).max() for x in jax.tree.leaves(gradient)) < 1e5  # 6e21 with eps = 1e-12
