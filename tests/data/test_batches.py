"""Batches as functions of (seed, step), and the validation split."""

import itertools
from collections import Counter

import numpy as np
import pytest

from snnkd_jax.data import Dataset
from snnkd_jax.data.batches import MemorySource, eval_batches
from snnkd_jax.errors import InputError

N = 23


def examples(n: int) -> dict[str, np.ndarray]:
    """Image i has the value i everywhere and the label 100 + i, so an example is recognised in a batch."""
    images = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 2, 3, 1)).copy()
    return {"images": images, "labels": np.arange(100, 100 + n, dtype=np.int32)}


def dataset(n: int, fraction: float) -> Dataset:
    train, test = examples(n), examples(3)
    names = tuple(map(str, range(100 + max(n, 3))))
    return Dataset("toy", train["images"], train["labels"], test["images"], test["labels"], names, fraction)


def identities(batch) -> tuple[int, ...]:
    """Which examples a batch holds, having checked that images and labels belong together."""
    identity = batch["labels"] - 100
    np.testing.assert_array_equal(batch["images"], np.ones((1, 2, 3, 1), np.uint8) * identity[:, None, None, None])
    assert batch["images"].dtype == np.uint8
    assert batch["labels"].dtype == np.int32
    return tuple(identity.tolist())


def test_a_batch_larger_than_the_examples_is_refused():
    for batch_size in (N + 1, 0):
        with pytest.raises(InputError, match=f"batch_size={batch_size} must be in 1 to 23"):
            MemorySource(examples(N), batch_size, 0)


def epoch(seed: int, number: int, batch_size: int = 5) -> list[tuple[int, ...]]:
    source = MemorySource(examples(N), batch_size, seed)
    steps = source.steps_per_epoch
    assert steps == N // batch_size
    return [identities(source(number * steps + i)) for i in range(steps)]


@pytest.mark.parametrize("batch_size", [1, 5, 8, N])
def test_an_epoch_has_each_example_at_most_once_and_leaves_out_the_remainder(batch_size):
    for number in range(3):
        batches = epoch(0, number, batch_size)
        assert all(len(batch) == batch_size for batch in batches)
        assert max(Counter(sum(batches, ())).values()) == 1
        assert set(sum(batches, ())) <= set(range(N))


def test_no_batch_comes_twice():
    batches = [batch for number in range(6) for batch in epoch(0, number)]
    assert len({frozenset(batch) for batch in batches}) == len(batches) == 24


def test_another_remainder_is_left_out_in_another_epoch():
    left_out = {frozenset(range(N)) - set(sum(epoch(0, number), ())) for number in range(6)}
    assert len(left_out) > 1


def test_a_batch_is_a_function_of_seed_and_step_alone():
    # Steps in another order, and between them other seeds and sizes: a cache or a hidden generator would show.
    in_order = [MemorySource(examples(N), 5, 3)(step) for step in range(20)]
    for step in (19, 0, 7, 8, 7, 12, 3):
        MemorySource(examples(N), 4, 4)(step)
        again = MemorySource(examples(N), 5, 3)(step)
        assert identities(again) == identities(in_order[step])


def test_seeds_and_epochs_have_different_orders():
    orders = [tuple(sum(epoch(seed, number), ())) for seed in range(4) for number in range(4)]
    assert len(set(orders)) == 16
    assert tuple(range(20)) not in orders


@pytest.mark.parametrize(("n", "batch_size", "batches"), [(10, 5, 2), (11, 5, 3), (4, 7, 1), (1, 1, 1)])
def test_evaluation_has_every_example_once_in_order_and_masks_the_padding(n, batch_size, batches):
    found = list(eval_batches(examples(n), batch_size))
    assert len(found) == batches
    assert all(len(identities(batch)) == batch_size for batch in found)
    masks = np.concatenate([batch["mask"] for batch in found])
    assert masks.dtype == np.float32
    np.testing.assert_array_equal(masks, np.arange(batches * batch_size) < n)
    kept = np.concatenate([identities(batch) for batch in found])[masks == 1]
    np.testing.assert_array_equal(kept, np.arange(n))


@pytest.mark.parametrize(("n", "fraction", "held_out"), [(100, 0.1, 10), (23, 0.1, 2), (2, 0.5, 1), (20, 0.9, 18)])
def test_validation_split_is_disjoint_complete_and_of_the_size_asked_for(n, fraction, held_out):
    training, validation = (identities(part) for part in dataset(n, fraction).split(0))
    assert len(validation) == held_out
    assert sorted(training + validation) == list(range(n))
    assert list(training) == sorted(training)
    assert list(validation) == sorted(validation)


def test_validation_split_is_random_and_a_function_of_the_seed():
    def held_out(seed: int) -> tuple[int, ...]:
        return identities(dataset(100, 0.1).split(seed)[1])

    assert held_out(5) == held_out(5)
    assert len({held_out(seed) for seed in range(10)}) == 10
    # Every example can be held out: the 150 draws miss a given one with probability 0.9^150 = 1.4e-7.
    assert set().union(*(held_out(seed) for seed in range(150))) == set(range(100))


@pytest.mark.parametrize("fraction", [1e-9, 0.04, 0.96, 1.0, 1.5, -0.1, float("nan"), float("inf")])
def test_validation_split_without_examples_on_both_sides_is_refused(fraction):
    with pytest.raises(InputError, match="validation_fraction"):
        dataset(10, fraction).split(0)


def test_without_validation_every_example_is_trained_on():
    whole = dataset(10, 0)
    training, validation = whole.split(3)
    assert identities(training) == tuple(range(10))
    assert identities(validation) == ()
    inputs = whole.inputs(5, 3)
    assert inputs.validation is None
    assert sorted(identities(inputs.training(0)) + identities(inputs.training(1))) == list(range(10))
    (sample, rest) = inputs.training_sample()  # fewer than it takes at most
    assert identities(sample) == identities(inputs.training(0))
    assert rest["mask"].tolist() == [1.0] * 5


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_make_one_global_batch_between_them(monkeypatch, processes):
    """Their rows, in the order of the processes, are the rows that one process makes."""
    source = MemorySource(examples(N), 8, 3)
    whole, evaluated = [identities(source(step)) for step in range(5)], list(eval_batches(examples(N), 8))
    monkeypatch.setattr("jax.process_count", lambda: processes)
    shares, eval_shares = [], []
    for i in range(processes):
        monkeypatch.setattr("jax.process_index", lambda i=i: i)
        shares.append([identities(source(step)) for step in range(5)])
        eval_shares.append(list(eval_batches(examples(N), 8)))
    assert [sum(parts, ()) for parts in zip(*shares, strict=True)] == whole
    for parts, batch in zip(zip(*eval_shares, strict=True), evaluated, strict=True):
        assert {len(part["mask"]) for part in parts} == {8 // processes}
        for name, x in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), x)


def mirrored(seed: int, number: int, order: int = 0) -> dict[int, bool]:
    """Whether each example of an epoch is mirrored; example i has a ramp from left to right, from i on."""
    images = np.arange(N)[:, None, None, None] + np.arange(4)[None, None, :, None] + np.zeros((N, 3, 4, 2))
    given = {"images": images.astype(np.uint8), "labels": np.arange(N, dtype=np.int32)}
    source = MemorySource(given, 5, seed, alternate_flip=True)
    found = {}
    for i in sorted(range(source.steps_per_epoch), reverse=bool(order)):
        for image, label in zip(*source(number * source.steps_per_epoch + i).values(), strict=True):
            expected = given["images"][label]
            is_mirrored = not np.array_equal(image, expected)
            np.testing.assert_array_equal(image, expected[:, ::-1] if is_mirrored else expected)
            found[int(label)] = is_mirrored
    np.testing.assert_array_equal(given["images"], images)  # the data set itself is not mirrored
    return found


def test_flips_alternate_from_epoch_to_epoch():
    """In both directions about as often, and in every epoch the mirror image of the last one."""
    epochs = [mirrored(0, number) for number in range(4)]
    for first, second in itertools.pairwise(epochs):
        both = first.keys() & second.keys()
        assert len(both) > N / 2
        assert all(first[i] != second[i] for i in both)
    assert 0.2 < np.mean(list(epochs[0].values())) < 0.8
    assert mirrored(1, 0) != epochs[0]


def test_alternating_flips_are_a_function_of_the_step():
    """A resumed training begins anywhere, with a source of its own."""
    assert mirrored(0, 3, order=1) == mirrored(0, 3)
