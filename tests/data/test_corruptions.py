"""Noise on images: each kind against its own definition, its draws, and that level 0 is none."""

import io
import re

import jax
import numpy as np
import pytest
import scipy.ndimage
from comparison import agrees
from PIL import Image
from representative import representatives

from snnkd_jax.analysis.disturbance import LAYER_LEVELS
from snnkd_jax.analysis.robustness import LEVELS
from snnkd_jax.data.corruptions import IMAGE_LEVELS, corrupt, noise_key
from snnkd_jax.errors import InputError
from snnkd_jax.parallel.mesh import batch_sharding

KEY = jax.random.key(0)
MESH = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
N = 12
GREY = np.full((N, 28, 28, 3), 0.5, np.float32)
SMOOTH = scipy.ndimage.gaussian_filter(np.random.default_rng(0).random((N, 28, 28, 3)), (0, 2, 2, 0))
SMOOTH = ((SMOOTH - SMOOTH.min()) / np.ptp(SMOOTH)).astype(np.float32)


def noisy(kind, level, images, index=None):
    return np.asarray(corrupt(kind, level, KEY, images, index))


def test_there_are_fourteen_kinds_of_five_levels_that_grow():
    assert len(IMAGE_LEVELS) == 10
    assert tuple(LAYER_LEVELS) == ("spike_deletion", "spike_insertion", "threshold_mismatch", "weight_noise")
    for kind, strengths in LEVELS.items():
        assert len(strengths) == 5
        falling = kind in ("shot", "contrast", "jpeg")
        assert sorted(set(strengths), reverse=falling) == list(strengths)


@pytest.mark.parametrize("kind", representatives(IMAGE_LEVELS, lambda kind: kind == "gaussian"))
def test_no_noise_at_level_0_more_at_each_next_and_pixels_in_range(kind):
    unclipped = SMOOTH * 1.5
    assert noisy(kind, 0, unclipped).tobytes() == unclipped.tobytes()
    disturbance = [np.abs(noisy(kind, level, SMOOTH) - SMOOTH).mean() for level in range(6)]
    assert disturbance == sorted(set(disturbance))
    images = noisy(kind, 5, SMOOTH)
    assert images.dtype == np.float32
    assert images.shape == SMOOTH.shape
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("kind", representatives(IMAGE_LEVELS, lambda kind: kind == "gaussian"))
def test_the_draw_of_an_image_depends_on_its_index_and_not_on_its_batch(kind):
    whole = noisy(kind, 3, SMOOTH)
    order = np.array([7, 2, 9])
    np.testing.assert_array_equal(noisy(kind, 3, SMOOTH[order], order), whole[order])
    if kind in ("gaussian", "shot"):
        np.testing.assert_array_equal(noisy(kind, 3, jax.device_put(SMOOTH, batch_sharding(MESH))), whole)


def test_images_levels_kinds_and_seeds_differ_in_their_draws():
    draws = [noisy("gaussian", 1, GREY)[i] for i in (0, 1)]
    draws += [
        (noisy("gaussian", 2, GREY)[0] - 0.5) / 2 + 0.5,
        np.asarray(corrupt("gaussian", 1, jax.random.key(1), GREY))[0],
    ]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.1
    assert (
        jax.random.key_data(noise_key(KEY, "gaussian", 1)).tolist()
        != jax.random.key_data(noise_key(KEY, "shot", 1)).tolist()
    )


def test_gaussian_uniform_speckle_and_shot_have_their_moments_and_independent_channels():
    """On mid-grey, 28,224 values: a standard deviation is known to 0.4 %, a mean to 0.006 of it."""
    c = IMAGE_LEVELS["shot"][1]
    expected = {
        ("gaussian", 2): 0.08,
        ("uniform", 3): 0.21 / 3**0.5,
        ("speckle", 3): 0.3 * 0.5,
        ("shot", 2): (0.5 / c) ** 0.5,
    }
    for (kind, level), std in expected.items():
        difference = noisy(kind, level, GREY) - 0.5
        agrees(difference.std(), std, rtol=0.03, name=kind)
        assert abs(difference.mean()) < 0.03 * std, kind
        assert abs(np.corrcoef(difference[..., 0].ravel(), difference[..., 1].ravel())[0, 1]) < 0.05, kind
    uniform = noisy("uniform", 3, GREY) - 0.5
    assert 0.2 < np.abs(uniform).max() <= 0.21 + 1e-6
    quanta = noisy("shot", 2, GREY) * c
    np.testing.assert_allclose(quanta, quanta.round(), atol=1e-4)
    for kind in ("speckle", "shot"):
        assert not noisy(kind, 5, np.zeros_like(GREY)).any(), f"{kind} on black"


def test_salt_and_pepper_changes_its_share():
    images = noisy("salt_and_pepper", 4, GREY)
    for value in (0, 1):
        agrees((images == value).mean(), 0.17 / 2, rtol=0.1, name="salt_and_pepper")
    assert set(np.unique(images)) == {0, 0.5, 1}


@pytest.mark.parametrize("level", range(1, 6))
def test_blur_is_scipys_and_keeps_the_mean(level):
    sigma = IMAGE_LEVELS["blur"][level - 1]
    images = np.random.default_rng(1).random(SMOOTH.shape, np.float32)
    expected = scipy.ndimage.gaussian_filter(images.astype(float), (0, sigma, sigma, 0), mode="reflect", truncate=4)
    found = noisy("blur", level, images)
    agrees(found, expected, atol=2e-6, name="blur")
    np.testing.assert_allclose(found.mean((1, 2), float), images.mean((1, 2), float), atol=1e-6)


@pytest.mark.parametrize("level", range(1, 6))
def test_occlusion_is_one_grey_square_anywhere(level):
    side = (6, 8, 11, 14, 17)[level - 1]  # 0.2, 0.3, 0.4, 0.5 and 0.6 of 28, rounded
    images = noisy("occlusion", level, np.ones((60, 28, 32, 3), np.float32))
    places = set()
    for image in images:
        rows, columns = np.nonzero((image == 0.5).all(-1))
        agrees((len(rows), (image != 1).any(-1).sum()), (side**2, side**2), name="occlusion")
        assert np.ptp(rows) == np.ptp(columns) == side - 1
        places.add((rows.min(), columns.min()))
    assert len(places) > 20
    assert max(top for top, _ in places) > 0.7 * (28 - side)
    assert max(left for _, left in places) > 0.7 * (32 - side)


def test_contrast_and_brightness_are_their_formulas():
    x = SMOOTH.astype(float)
    m = x.mean((1, 2), keepdims=True)
    agrees(noisy("contrast", 2, SMOOTH), m + 0.5 * (x - m), atol=1e-6, name="contrast")
    agrees(noisy("brightness", 3, SMOOTH), np.minimum(x + 0.3, 1), atol=1e-6, name="brightness")


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(channels):
    image = SMOOTH[0, ..., :channels]
    pixels = np.round(image * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(), "L" if channels == 1 else "RGB").save(file, format="JPEG", quality=18)
    expected = np.array(Image.open(file)).reshape(pixels.shape)
    agrees(np.round(255 * noisy("jpeg", 3, image[None])[0]), expected, name="jpeg")
    assert (expected != pixels).any()


def test_wrong_noise_on_images_is_refused():
    with pytest.raises(InputError, match=r"'gausian' is unknown \(did you mean gaussian\?\)"):
        corrupt("gausian", 1, KEY, GREY)
    for level in (6, -1, 1.0, True):
        with pytest.raises(InputError, match=re.escape(f"level={level!r}")):
            corrupt("gaussian", level, KEY, GREY)  # pyright: ignore[reportArgumentType]
    for images, named in (
        (255 * GREY, "from 127.5 to 127.5, first in image 0; floats must be in"),
        (GREY - 1, "-0.5"),
        (np.full_like(GREY, np.inf), "NaN or infinite"),
    ):
        with pytest.raises(InputError, match=named):
            corrupt("gaussian", 1, KEY, images)
    with pytest.raises(InputError, match="uint8"):
        corrupt("gaussian", 1, KEY, np.zeros((1, 8, 8, 1), np.uint8))
    with pytest.raises(InputError, match=r"index has shape \(3,\)"):
        corrupt("gaussian", 1, KEY, GREY, np.arange(3))
    with pytest.raises(InputError, match="2 channels"):
        corrupt("jpeg", 1, KEY, GREY[..., :2])
