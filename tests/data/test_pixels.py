"""Arrays of pixels: what is taken is kept exactly, rounding is clipped, everything else is refused."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from snnkd_jax.data import from_arrays
from snnkd_jax.data.corruptions import corrupt
from snnkd_jax.data.pixels import as_pixels, check_pixels
from snnkd_jax.errors import InputError

UNIT = np.random.default_rng(0).random((4, 3, 3, 1))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("module", [np, jnp])
def test_rounding_beyond_the_range_is_clipped(dtype: Any, module: Any) -> None:
    """A few units in the last place of the dtype, or of float32 where a float64 was computed in it."""
    eps = max(float(ml_dtypes.finfo(dtype).eps), float(np.finfo(np.float32).eps))
    images = UNIT.astype(dtype)
    images[1, 0, 0, 0], images[2, 1, 1, 0] = 1 + 4 * eps, -4 * eps
    found = np.asarray(check_pixels("images", module.asarray(images)))
    assert found.dtype == np.float32
    expected = images.astype(np.float32)
    expected[1, 0, 0, 0], expected[2, 1, 1, 0] = 1, 0
    np.testing.assert_array_equal(found, expected)


def test_what_a_resize_leaves_is_taken_everywhere() -> None:
    resized = np.ones((6, 4, 4, 1), np.float32)
    resized[3, 2, 2], resized[4, 1, 1] = np.float32(1.0000001), np.float32(-1e-7)
    data = from_arrays((resized, np.arange(6) % 2), (resized, np.arange(6) % 2))
    assert (data.train_images.max(), data.train_images.min()) == (1, 0)
    assert np.asarray(as_pixels("images", resized, (4, 4, 1))).max() == 1
    assert np.isfinite(corrupt("contrast", 1, jax.random.key(0), resized)).all()
    white = Image.fromarray(np.ones((7, 7), np.float32)).resize((5, 5), Image.Resampling.LANCZOS)
    check_pixels("images", np.asarray(white)[None])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("spoiled", "told"),
    [
        (1.25, r"to 1\.25, first in image 2"),
        (-0.125, r"from -0\.125 to"),
        (255.0, "to 25"),
        (np.nan, "NaN or infinite pixels in 1 of 4 images, first in 2"),
        (-np.inf, "NaN or infinite pixels in 1 of 4 images, first in 2"),
    ],
)
def test_floats_out_of_range_are_refused(spoiled: float, told: str, dtype: Any) -> None:
    images = UNIT.astype(dtype)
    images[2, 1, 1, 0] = spoiled
    with pytest.raises(InputError, match=told):  # and no warning of NumPy's
        check_pixels("images", images)


def test_floats_out_of_range_by_more_than_rounding_are_refused() -> None:
    for spoiled, told in (
        (1.00001, r"to 1\.00001, first in image 2"),
        (-0.00001, "from -1e-05 to"),
        (1e300, r"to 1e\+300"),
    ):
        images = UNIT.copy()
        images[2, 1, 1, 0] = spoiled
        with pytest.raises(InputError, match=told):
            check_pixels("images", images)


def test_booleans_are_black_and_white() -> None:
    mask = UNIT > 0.5
    for images in (mask, jnp.asarray(mask)):
        np.testing.assert_array_equal(check_pixels("images", images), 255 * mask)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.complex64, object, "U3", "M8[s]"])
def test_other_dtypes_are_refused(dtype: Any) -> None:
    images = np.zeros((2, 3, 3, 1), np.uint8).astype(dtype)
    with pytest.raises(InputError, match=f"images have dtype {re.escape(str(np.dtype(dtype)))}; give bytes"):
        check_pixels("images", images)


def test_what_is_no_array_is_refused() -> None:
    class Tensor:
        """As one of PyTorch on a GPU, or that requires a gradient."""

        def __init__(self, error: type[Exception]):
            self.error = error

        def __array__(self, *_: Any, **__: Any) -> Any:
            raise self.error("cannot convert:\nuse .detach().cpu()")

    for images in (Tensor(TypeError), Tensor(RuntimeError), [[1, 2], [3]]):
        with pytest.raises(InputError, match="images are not an array") as caught:
            check_pixels("images", images)
        assert "\n" not in str(caught.value)
