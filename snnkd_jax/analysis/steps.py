"""Test accuracy of a student after 1, 2, ... time steps, and with early exit."""

from snnkd_jax.data import Dataset
from snnkd_jax.data.batches import Batch
from snnkd_jax.inference.predict import accuracy_by_step, accuracy_with_exit, choose_threshold
from snnkd_jax.inference.trained import Trained

TOLERANCES = (0.0, 0.002, 0.005, 0.01, 0.02)
"""Losses of validation accuracy for which the threshold of early exit is chosen."""


def evaluate_steps(
    student: Trained, images: Dataset, validation: Batch, trained_steps: int, num_steps: int
) -> tuple[list[float], list[dict[str, float | None]]]:
    """Returns test accuracy after 1, 2, ..., `num_steps` steps, and with early exit for each of `TOLERANCES`.

    Early exit uses at most `trained_steps`; its thresholds are chosen on `validation`.
    """
    logits = student.logits_by_step(images.test_images, num_steps)
    held_out = student.logits_by_step(validation["images"], trained_steps)
    exits = []
    for tolerance in TOLERANCES:
        threshold, _ = choose_threshold(held_out, validation["labels"], tolerance)
        accuracy, steps = accuracy_with_exit(logits[:, :trained_steps], images.test_labels, threshold)
        exits.append({"tolerance": tolerance, "threshold": threshold, "accuracy": accuracy, "mean_steps": steps})
    return accuracy_by_step(logits, images.test_labels).tolist(), exits
