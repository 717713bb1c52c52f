"""Outputs of a student and a teacher that losses are tried on, and two losses as loops in float64."""

import numpy as np
from comparison import agrees

B, T, K = 4, 3, 5

rng = np.random.default_rng(0)
LOGITS = rng.normal(0, 2, (B, T, K)).astype(np.float32)
TEACHER_LOGITS = rng.normal(0, 2, (B, K)).astype(np.float32)
LABELS = np.array([0, 4, 2, 2], np.int32)
FEATURES = [
    tuple(rng.normal(0, 3, shape).astype(np.float32) for _ in range(2))
    for shape in [(B, 4, 4, 2), (B, 2, 3, 3), (B, 1, 1, 6)]
]


def close(found, expected, name=None, rtol=1e-5):
    agrees(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max(), name=name)


def loop_margin_distance(student, teacher, margin):
    d = np.zeros(len(student))
    for (b, i, j, c), s in np.ndenumerate(student.astype(np.float64)):
        target = max(float(teacher[b, i, j, c]), float(margin[c]))
        if s > target or target > 0:
            d[b] += (s - target) ** 2
    return d


def loop_negative_mean(x):
    by_channel = x.astype(np.float64).reshape(-1, x.shape[-1]).T
    return np.array([values[values < 0].mean() if (values < 0).any() else 0.0 for values in by_channel])
