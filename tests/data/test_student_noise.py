"""Noise on students' images: what each image gets, how often, and what is refused."""

import inspect
import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representative import slow

from snnkd_jax.data.corruptions import IMAGE_LEVELS
from snnkd_jax.data.student_noise import StudentNoise
from snnkd_jax.errors import InputError
from snnkd_jax.parallel.mesh import batch_sharding, data_mesh
from snnkd_jax.runs.data import DataConfig

KEY = jax.random.key(4)
B = 512
IMAGES = np.random.default_rng(0).random((B, 5, 4, 2)).astype(np.float32)


def noisy(choices, images=IMAGES, key=KEY):
    return np.asarray(jax.jit(StudentNoise(choices))(key, jnp.asarray(images)))


def which(images: np.ndarray, candidates: dict[str, np.ndarray]) -> list[str]:
    """The candidate that each image is, which must be one and only one."""
    found = []
    for i, image in enumerate(images):
        equal = [name for name, x in candidates.items() if np.abs(image - x[i]).max() < 1e-6]
        assert len(equal) == 1, (i, equal)
        found += equal
    return found


def test_each_image_is_one_of_the_choices_in_its_share():
    """Contrast and brightness in float64; a choice that is given twice is drawn twice as often."""
    x = IMAGES.astype(float)
    m = x.mean((1, 2), keepdims=True)
    candidates = {"contrast": m + 0.5 * (x - m), "brightness": np.minimum(x + 0.3, 1), "none": x}
    found = which(noisy(("contrast:2", "none", "brightness:3", "none")), candidates)
    for name, share in {"contrast": 1 / 4, "brightness": 1 / 4, "none": 1 / 2}.items():
        assert abs(found.count(name) - share * B) < 4 * np.sqrt(share * (1 - share) * B)  # standard deviations
    other = which(noisy(("contrast:2", "none", "brightness:3", "none"), key=jax.random.key(5)), candidates)
    assert Counter(zip(found, other, strict=True))["contrast", "brightness"] > 0, "another key, the same draw"


def test_the_frames_of_a_sequence_share_their_kind_and_not_their_draw():
    frames = np.repeat(IMAGES[:64, None], 3, axis=1)
    difference = noisy(("gaussian:3", "none"), frames) - frames
    changed = (difference != 0).any(axis=(2, 3, 4))
    assert (changed == changed[:, :1]).all()
    assert 20 < changed[:, 0].sum() < 44
    drawn = difference[changed[:, 0]]
    assert (drawn[:, 0] != drawn[:, 1]).any(axis=(1, 2, 3)).all()
    assert 0.09 < drawn.std() < 0.13  # 0.12, less what is clipped


@pytest.mark.parametrize(
    "choices",
    [
        ("gaussian:3", "occlusion:3", "none"),
        slow(("blur:2", "contrast:2", "brightness:3")),
        slow(("uniform:3", "speckle:3", "salt_and_pepper:3")),
        slow(("shot:3", "none")),
    ],
)
def test_eight_devices_draw_what_one_draws(choices):
    mesh = data_mesh()
    assert mesh.size == 8
    images = IMAGES[:16]
    found = noisy(choices, jax.device_put(images, batch_sharding(mesh)))
    np.testing.assert_allclose(found, noisy(choices, images), atol=1e-6)
    assert np.abs(found - images).max() > 0.05


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        (["gausian:3"], "student_noise='gausian:3': kind 'gausian' is unknown (did you mean gaussian?)"),
        (["gaussian:3", "jpeg:2"], "student_noise='jpeg:2': JPEG is encoded on the host"),
        (["gaussian:6"], "student_noise='gaussian:6': level '6' is unknown; give it as gaussian:3, 1 to 5"),
        (["blur:0"], "level '0' is unknown; give it as blur:3, 1 to 5, and none for clean images"),
        (["blur"], "student_noise='blur': level '' is unknown"),
        (["spike_deletion:1"], "kind 'spike_deletion' is unknown"),
        (["none", "none"], "student_noise=('none', 'none') has no noise"),
    ],
)
def test_what_is_no_noise_of_a_student_is_refused(choices, told):
    with pytest.raises(InputError, match=re.escape(told)):
        StudentNoise(choices)
    with pytest.raises(InputError, match=re.escape(told)):
        DataConfig(student_noise=tuple(choices)).noise()


def test_the_help_names_every_kind_that_can_be_given():
    found = re.search(r"student_noise: .*?\"\"\"(.*?)\"\"\"", inspect.getsource(DataConfig), re.DOTALL)
    assert found is not None
    for kind in IMAGE_LEVELS:
        assert (re.search(rf"\b{kind}\b", found[1]) is not None) == (kind != "jpeg"), kind
    noise = StudentNoise([f"{kind}:1" for kind in IMAGE_LEVELS if kind != "jpeg"])
    assert set(noise.kinds) == IMAGE_LEVELS.keys() - {"jpeg"}
