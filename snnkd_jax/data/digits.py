"""The 8x8 handwritten digits that ship with scikit-learn: the data set that needs no download.

Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (1998); the
1,797 images of its test set. scikit-learn gives no split, so the one here is part of this library: the last 360 of
the permutation that `np.random.default_rng(0)` draws are the test set.
"""

from typing import Any

import numpy as np

from snnkd_jax.data.dataset import Dataset

_TEST_SIZE = 360
_WHITE = 16  # the stored values are counts of ink in 4x4 pixels


def load_digits() -> Dataset:
    """Returns 1,437 training and 360 test images of shape `[8, 8, 1]`, scaled from 0..16 to 0..255."""
    from sklearn import datasets  # takes a second, and no other data set needs it

    raw: Any = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    images = np.rint(raw.images[order, :, :, None] * 255 / _WHITE).astype(np.uint8)
    labels = raw.target[order].astype(np.int32)
    (train_images, test_images), (train_labels, test_labels) = (np.split(x, [-_TEST_SIZE]) for x in (images, labels))
    return Dataset("digits", train_images, train_labels, test_images, test_labels, tuple(map(str, raw.target_names)))
