"""ANNs that read sequences: each reading against the ANN of the same weights on images made in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representative import slow

from snnkd_jax.analysis.energy import count
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.errors import InputError
from snnkd_jax.models import Frames, build
from snnkd_jax.models.description import describe_network, network_from

B, T, SHAPE = 3, 4, (8, 8, 2)
SEQUENCES = np.random.default_rng(0).integers(0, 3, (B, T, *SHAPE)).astype(np.float32)


def read(reading: str, width: float = 0.1):
    network = build("convnet", 3, width=width, frames=Frames(reading, T))  # pyright: ignore[reportArgumentType]
    return network, network.init(jax.random.key(0), SHAPE)


def by_hand(reading: str, variables):
    """Logits and stages of the ANN of images, called image by image."""
    plain = build("convnet", 3, width=0.1)
    apply = jax.jit(lambda image: plain.apply(variables, image[None]))
    found = []
    for frames in SEQUENCES:
        if reading == "mean":
            images = [sum(frames) / T]
        elif reading == "channels":
            images = [np.concatenate(list(frames), axis=-1)]
        else:
            images = list(frames)
        found.append(jax.tree.map(lambda *x: sum(x) / len(x), *map(apply, images)))
    return jax.tree.map(lambda *x: np.concatenate(x), *[(logits, features["stages"]) for logits, features in found])


@pytest.mark.parametrize("reading", ["each", slow("mean"), slow("channels")])
def test_a_sequence_is_read_as_by_hand(reading):
    network, variables = read(reading)
    logits, features = jax.jit(network.apply)(variables, jnp.asarray(SEQUENCES))
    expected, stages = by_hand(reading, variables)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert list(features["stages"]) == ["stage1", "stage2"]
    for name, x in features["stages"].items():
        np.testing.assert_allclose(x, stages[name], rtol=1e-4, atol=1e-5)


def test_channels_are_frame_after_frame_and_a_static_image_is_equal_frames():
    images = np.asarray(Frames("channels", T).images(jnp.asarray(SEQUENCES)))
    assert images.shape == (B, 8, 8, 2 * T)
    np.testing.assert_array_equal(images[..., 5], SEQUENCES[:, 2, :, :, 1])
    image = jnp.asarray(SEQUENCES[:, 0])
    for reading in ("mean", "channels", "each"):
        frames = Frames(reading, T)  # pyright: ignore[reportArgumentType]
        repeated = frames.images(jnp.repeat(image[:, None], T, axis=1))
        np.testing.assert_array_equal(frames.outputs(B, repeated), frames.images(image))


def test_a_spiking_network_may_see_the_mean_at_every_step_and_is_no_stream_then():
    network = build("convnet", 3, neuron=LIF(v_threshold=0.3), num_steps=5, width=0.1, frames=Frames("mean", T))
    variables = network.init(jax.random.key(0), SHAPE)
    plain = build("convnet", 3, neuron=LIF(v_threshold=0.3), num_steps=5, width=0.1)
    expected, _ = plain.apply(variables, jnp.asarray(sum(SEQUENCES.swapaxes(0, 1)) / T))
    logits, features = network.apply(variables, jnp.asarray(SEQUENCES))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert logits.shape == (B, 5, 3)
    assert max(float(rate.max()) for rate in features["firing_rates"].values()) > 0
    assert (plain.streams(variables, SHAPE), network.streams(variables, SHAPE)) == (True, False)
    again = network_from(describe_network(network, SHAPE) | {"num_classes": 3})
    assert (again.frames, again.num_steps) == (network.frames, 5)


def test_a_network_is_built_again_from_its_description():
    """And one of images is described as before there were frames."""
    network, _ = read("each")
    described = describe_network(network, SHAPE) | {"num_classes": 3}
    assert described["frames"] == {"reading": "each", "num_frames": T}
    assert network_from(described).frames == network.frames
    assert "frames" not in describe_network(build("convnet", 3), SHAPE)


def test_operations_of_an_ann_of_each_frame_are_those_of_all_frames():
    network, variables = read("each")
    whole = count(network, variables, jnp.asarray(SEQUENCES))
    single = count(build("convnet", 3, width=0.1), variables, jnp.asarray(SEQUENCES.reshape(-1, *SHAPE)))
    assert whole.dense == T * single.dense
    assert [x.effective for x in whole.layers.values()] == [x.effective for x in single.layers.values()]
    assert [x.input_rate for x in whole.layers.values()] == [x.input_rate for x in single.layers.values()]
    assert whole.activations == single.activations


def test_other_sequences_and_readings_are_refused():
    network, variables = read("mean")
    with pytest.raises(InputError, match=rf"\(3, 2, 8, 8, 2\); this network takes \[B, {T}, H, W, C\]"):
        network.apply(variables, jnp.asarray(SEQUENCES[:, :2]))
    plain = build("convnet", 3, width=0.1)
    with pytest.raises(InputError, match="build it with frames"):
        plain.apply(plain.init(jax.random.key(0), SHAPE), jnp.asarray(SEQUENCES))
    with pytest.raises(InputError, match=r"'channels'.*is for ANNs; give 'mean'"):
        build("convnet", 3, neuron=LIF(), frames=Frames("channels", T))
    with pytest.raises(InputError, match="frames 'all'"):
        Frames("all", T)  # pyright: ignore[reportArgumentType]
