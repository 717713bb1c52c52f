"""Data sets from arrays: what is taken as it is, and what is refused with the row."""

import numpy as np
import pytest

from snnkd_jax.data import from_arrays
from snnkd_jax.errors import InputError

IMAGES = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def test_names_shapes_and_defaults():
    data = from_arrays(train=(IMAGES, LABELS), test=(IMAGES[:2], LABELS[:2]))
    assert (data.num_classes, data.class_names, data.image_shape, data.frames) == (3, ("0", "1", "2"), (4, 4, 3), None)
    grey = from_arrays(train=(IMAGES[..., 0], LABELS), test=(IMAGES[..., 0], LABELS))
    assert grey.image_shape == (4, 4, 1)
    named = from_arrays(train=(IMAGES, LABELS), test=(IMAGES, LABELS), class_names=["a", "b", "c", "d"])
    assert named.class_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(named.train_images, IMAGES)
    many = from_arrays(train=(np.zeros((6, 2, 2, 5)), LABELS), test=(np.zeros((6, 2, 2, 5)), LABELS))
    assert many.image_shape == (2, 2, 5)
    assert len(many.normalisation.mean) == 5


def test_statistics_of_floats_are_those_of_numpy():
    floats = np.random.default_rng(0).random((50, 3, 3, 2))
    data = from_arrays(train=(floats, np.arange(50) % 2), test=(floats, np.arange(50) % 2))
    np.testing.assert_allclose(data.normalisation.mean, floats.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(data.normalisation.std, floats.std((0, 1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ((IMAGES, LABELS + 1), "from 1 to 3.* no train label is 0; subtract 1"),
        ((IMAGES, np.array([0, 1, 255, 0, 1, 255], np.uint8)), "no train label is 2; give class_names"),
        ((IMAGES, np.array([0, 1, 2**31 - 1, 0, 1, 2])), "no train label is 3"),
        ((IMAGES, np.array([0, 1, 2, 0, -1, 2])), r"-1 in row 4"),
        ((IMAGES, LABELS[:5]), r"\(5,\)"),
        ((IMAGES, np.eye(3)[LABELS]), r"\(6, 3\)"),
        ((IMAGES, LABELS * 1.0), "float64"),
        ((IMAGES, LABELS * 0), "2 classes"),
        ((IMAGES.astype(np.int32), LABELS), "int32"),
        ((IMAGES * 1.0, LABELS), r"\[0, 1\]"),
        ((np.full((6, 4, 4, 3), np.nan), LABELS), "NaN"),
        ((IMAGES[0], LABELS), "shape"),
        ((IMAGES[:0], LABELS[:0]), "shape"),
        (IMAGES, "pair"),
        (([[1, 2], [3]], LABELS), "array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_data_set_is_refused(train, told):
    labels = np.zeros(6, int) if told == "2 classes" else LABELS
    with pytest.raises(InputError, match=told):
        from_arrays(train=train, test=(IMAGES, labels))


def test_a_class_of_the_test_set_alone_needs_a_name():
    """As labels that count from 1 in the test set only have."""
    with pytest.raises(InputError, match="test labels up to 3, and no train label is 3; give class_names"):
        from_arrays(train=(IMAGES, LABELS), test=(IMAGES, LABELS + 1))
    named = from_arrays(train=(IMAGES, LABELS), test=(IMAGES, LABELS + 1), class_names=list("abcd"))
    assert named.test_labels.tolist() == [1, 2, 3, 1, 2, 3]


def test_labels_beyond_the_names_and_other_images_for_the_test_are_refused():
    with pytest.raises(InputError, match=r"train labels.*: 2 in row 2.*from 0 to 1, those of 2 classes"):
        from_arrays(train=(IMAGES, LABELS), test=(IMAGES, LABELS), class_names=["a", "b"])
    with pytest.raises(InputError, match="test images"):
        from_arrays(train=(IMAGES, LABELS), test=(IMAGES[:, :3], LABELS))
    with pytest.raises(InputError, match="test images"):
        from_arrays(train=(IMAGES, LABELS), test=(IMAGES / 255, LABELS))
