"""Labels out of range, of every kind at every door: refused with value and row, before they reach a device."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

import snnkd_jax as kd
from snnkd_jax.analysis.robustness import evaluate_noise
from snnkd_jax.data.batches import Batch
from snnkd_jax.data.inputs import Inputs, open_inputs
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError
from snnkd_jax.inference.predict import accuracy_by_step, accuracy_with_exit, choose_threshold
from snnkd_jax.inference.trained import Trained

N, SHAPE, NAMES = 8, (4, 4, 1), ("a", "b", "c")
GREY = Normalisation((0.5,), (0.5,))
IMAGES = np.zeros((N, *SHAPE), np.uint8)
GOOD = np.arange(N, dtype=np.int32) % 3
LOGITS = np.random.default_rng(0).normal(size=(N, 2, 3))

WRONG = {
    "from 1": (GOOD + 1, 3, 2, "subtract 1"),
    "unlabelled": (np.where(np.arange(N) == 5, -1, GOOD), -1, 5, "leave out"),
    "ignored": (np.where(np.arange(N) == 6, 255, GOOD).astype(np.uint8), 255, 6, "labels are from 0"),
    "wrapped": (np.where(np.arange(N) == 7, np.int64(2**32), GOOD), 2**32, 7, "labels are from 0"),
    "unsigned": (np.where(np.arange(N) == 1, -1, GOOD).astype(np.uint64), 2**64 - 1, 1, "labels are from 0"),
}


@dataclasses.dataclass
class Stream:
    """A data set as a user would write one: batches from wherever, as they are."""

    training: Callable[[int], Any]
    test: Callable[[], Any]
    name: str = "stream"
    class_names: tuple[str, ...] = NAMES
    image_shape: tuple[int, int, int] = SHAPE
    frames: int | None = None
    metadata: Any = dataclasses.field(default_factory=dict)
    normalisation: Any = GREY
    identity: Any = b"stream"
    batch_size: int = N
    steps_per_epoch: int = 2

    def __call__(self, step: int) -> Batch:
        return self.training(step)

    def inputs(self, batch_size: int, seed: int) -> Inputs:
        del batch_size, seed
        return Inputs(self, self.test, self.test)


def batch(labels: Any = GOOD, **others: Any) -> dict[str, Any]:
    return {"images": IMAGES, "labels": labels, "mask": np.ones(N, np.float32)} | others


def stream(training: Any = None, test: Any = None) -> Stream:
    return Stream(lambda _: training or batch(), lambda: iter([test or batch()]))


def first_step(labels: Any) -> Any:
    return open_inputs(stream(batch(labels)), N, 0).training(0)


def evaluated(split: str, labels: Any) -> list[Batch]:
    return list(getattr(open_inputs(stream(test=batch(labels)), N, 0), split)())


def untrained() -> Trained:
    network = kd.build("convnet", 3, width=0.1)
    return Trained(network, {}, GREY, SHAPE, NAMES, "none")


DOORS: dict[str, Callable[[Any], Any]] = {
    "from_arrays, train": lambda y: kd.data.from_arrays((IMAGES, y), (IMAGES, GOOD), NAMES),
    "from_arrays, test": lambda y: kd.data.from_arrays((IMAGES, GOOD), (IMAGES, y), NAMES),
    "Dataset": lambda y: kd.data.Dataset("own", IMAGES, GOOD, IMAGES, y, NAMES),
    "Dataset, replaced": lambda y: dataclasses.replace(
        kd.data.from_arrays((IMAGES, GOOD), (IMAGES, GOOD)), train_labels=y
    ),
    "a source": first_step,
    "a validation pass": lambda y: evaluated("validation", y),
    "a test pass": lambda y: evaluated("test", y),
    "accuracy by step": lambda y: accuracy_by_step(LOGITS, y),
    "accuracy with exit": lambda y: accuracy_with_exit(LOGITS, y, 0.9),
    "threshold": lambda y: choose_threshold(LOGITS, y, 0.1),
    "noise": lambda y: evaluate_noise(untrained(), IMAGES, y, 0),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", WRONG)
def test_a_label_out_of_range_is_refused_with_value_and_row(door: str, kind: str) -> None:
    labels, value, row, advice = WRONG[kind]
    with pytest.raises(InputError, match=rf"labels.*: {value} in row {row}.*{advice}") as caught:
        DOORS[door](labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_label_is_refused(door: str) -> None:
    for labels, told in (
        (GOOD * 1.0, "float64"),
        (np.where(GOOD == 1, np.nan, 0), "float64"),
        (GOOD > 0, "bool"),
        (np.array(NAMES)[GOOD], "<U1"),
        (np.eye(3, dtype=int)[GOOD], r"\(8, 3\).*argmax"),
        (GOOD[:, None], r"\(8, 1\)"),
        (GOOD[:-1], r"\(7,\)"),
        ([[0], [1, 2]], "not an array"),
    ):
        with pytest.raises(InputError, match=told):
            DOORS[door](labels)


@pytest.mark.slow
def test_training_on_an_own_stream_refuses_what_it_gives() -> None:
    """Through `fit` itself: the first step, and the pass after the first epoch."""
    network = kd.build("convnet", 3, width=0.1)
    with pytest.raises(InputError, match="training batch of step 0: labels: 3 in row 2"):
        kd.fit(network, stream(batch(GOOD + 1)), epochs=1, batch_size=N)
    with pytest.raises(InputError, match="validation batch 0: labels: -1 in row 5"):
        kd.fit(network, stream(test=batch(WRONG["unlabelled"][0])), epochs=1, batch_size=N)


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"labels": GOOD}, "found labels; give a dictionary with images and labels"),
        ((IMAGES, GOOD), "found tuple"),
        (batch(images=IMAGES[..., 0]), r"shape \(8, 4, 4\); give \[B, 4, 4, 1\]"),
        (batch(images=IMAGES.astype(np.float32) + 2), r"\[0, 1\]"),
        (batch(images=IMAGES.astype(np.int64)), "int64"),
        (batch(GOOD[:4], images=IMAGES[:4], mask=np.ones(4)), "4 rows; give 8"),
    ],
    ids=["no images", "a pair", "no channels", "not in range", "integers", "too few"],
)
def test_a_batch_of_another_form_is_refused(found: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"stream, training batch of step 1: .*{told}"):
        open_inputs(stream(found), N, 0).training(1)


def test_a_pass_of_another_form_is_refused() -> None:
    def passes(batches: list[Any]) -> Iterator[Batch]:
        return iter(open_inputs(Stream(lambda _: batch(), lambda: batches), N, 0).test())

    with pytest.raises(InputError, match="stream has no test batch"):
        next(passes([]))
    for mask in (None, np.ones(3), 1.0):
        with pytest.raises(InputError, match="test batch 0: give mask"):
            next(passes([batch(mask=mask)]))


def test_labels_in_range_pass_as_int32() -> None:
    for labels in (GOOD.tolist(), GOOD.astype(np.uint8), GOOD.astype(np.int64), jax.numpy.asarray(GOOD)):
        found = open_inputs(stream(batch(labels)), N, 0).training(0)["labels"]
        np.testing.assert_array_equal(found, GOOD)
        assert found.dtype == np.int32
