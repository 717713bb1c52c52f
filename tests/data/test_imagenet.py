"""Data sets on disk: batches as functions of the step, damaged directories, whole runs.

The data set is written here, by TFDS itself and without TensorFlow: JPEGs of several sizes.
"""

import io
import json
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from compilation import QUICKLY
from host_failures import arrays, logged
from PIL import Image
from synthetic_sets import write
from tiny_runs import start

from snnkd_jax.cli.train import main
from snnkd_jax.data import crops
from snnkd_jax.data.batches import Batch
from snnkd_jax.data.on_disk import Examples, open_dataset
from snnkd_jax.data.reader import DiskSource, centre_crops
from snnkd_jax.errors import InputError
from snnkd_jax.runs.config import default_config

SCRIPT = Path(__file__).parents[2] / "experiments" / "imagenet_distill.py"
TRAIN, TEST, SIZE = 44, 11, 16


# --- the data set ---


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=95)
    return file.getvalue()


def photographs(n: int, seed: int) -> list[dict[str, Any]]:
    """Bright and dark ones, whose label says which; of every shape from tall to wide, one of them grey."""
    rng = np.random.default_rng(seed)
    examples = []
    for i in range(n):
        shape = (int(rng.integers(20, 60)), int(rng.integers(20, 60)), 3)
        pixels = rng.integers(0, 128, shape, np.uint8) + np.uint8(127 * (i % 2))
        examples.append(
            {"image": jpeg(pixels if i else pixels[..., 0]), "label": i % 2, "file_name": f"{seed}-{i}.jpg"}
        )
    return examples


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write(folder, {"train": photographs(TRAIN, 0), "validation": photographs(TEST, 1)})
    return folder


@pytest.fixture(scope="module")
def train(data_dir) -> Examples:
    return open_dataset("photos", str(data_dir)).train


def stored(data_dir: Path, split: str) -> list[tuple[Image.Image, int, str]]:
    """The examples as another reader gives them, in their order on disk."""
    builder: Any = tfds.builder_from_directory(data_dir / "photos" / "1.0.0")
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return [
        (Image.open(io.BytesIO(e["image"])).convert("RGB"), int(e["label"]), e["file_name"].decode()) for e in source
    ]


# --- batches ---


def disk_source(train: Examples, index=None, seed: int = 3, batch_size: int = 8, threads: int = 4, flip: bool = True):
    return DiskSource(train, np.arange(TRAIN) if index is None else index, SIZE, flip, batch_size, seed, threads)


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def joined(parts: Sequence[Batch]) -> Batch:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_batches_against_a_loop(data_dir, train):
    """Three epochs of 5 steps: which images, in which order, which part of each."""
    index = np.arange(1, TRAIN, 1)
    source, images = disk_source(train, index), stored(data_dir, "train")
    assert source.steps_per_epoch == 5
    for step in range(15):
        epoch, i = step // 5, step % 5
        order = np.random.default_rng([3, 1, epoch]).permutation(len(index))
        chosen = index[order[8 * i : 8 * i + 8]]
        batch = source(step)
        assert batch["images"].dtype == np.uint8
        assert batch["labels"].dtype == np.int32
        for example, image, label in zip(chosen, batch["images"], batch["labels"], strict=True):
            rng = np.random.default_rng([3, 2, epoch, example])
            part = images[example][0].crop(crops.random_box(rng, *images[example][0].size))
            expected = np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
            np.testing.assert_array_equal(image, expected[:, ::-1] if rng.random() < 0.5 else expected)
            assert label == images[example][1]


def test_a_batch_is_a_function_of_the_step_alone(train):
    """So the step that a checkpoint holds is all that there is to the iterator's state, in the middle of an epoch too.

    Steps in order, in another order, from a source that begins there, with other numbers of threads.
    """
    in_order = [source(step) for source in [disk_source(train)] for step in range(12)]
    assert not same(in_order[0], in_order[5])
    shuffled = disk_source(train, threads=1)
    for step in (7, 8, 3, 11, 0, 1, 1):
        assert same(shuffled(step), in_order[step]), step
        assert same(disk_source(train, threads=9)(step), in_order[step]), step
    assert not same(disk_source(train, seed=4)(0), in_order[0])


def processes(monkeypatch, n: int, make) -> list:
    """What each of n processes makes."""
    monkeypatch.setattr("jax.process_count", lambda: n)
    made = []
    for i in range(n):
        monkeypatch.setattr("jax.process_index", lambda i=i: i)
        made.append(make())
    return made


def test_processes_make_one_global_batch_between_them(train, monkeypatch):
    """Two and four of them, the latter from the middle of an epoch on, as after a restart with more hosts."""
    whole = [source(step) for source in [disk_source(train)] for step in range(11)]
    halves = processes(monkeypatch, 2, lambda: [s(step) for s in [disk_source(train)] for step in range(11)])
    quarters = processes(monkeypatch, 4, lambda: [s(step) for s in [disk_source(train)] for step in range(7, 11)])
    for shares, first in ((halves, 0), (quarters, 7)):
        for i, parts in enumerate(zip(*shares, strict=True)):
            assert {len(part["labels"]) for part in parts} == {8 // len(shares)}
            assert same(joined(parts), whole[first + i])


@pytest.mark.parametrize("n", [1, 2])
def test_evaluation_has_every_centre_once_in_order(data_dir, monkeypatch, n):
    test = open_dataset("photos", str(data_dir)).test
    shares = processes(monkeypatch, n, lambda: list(centre_crops(test, np.arange(TEST), SIZE, 4, 3)))
    batches = [
        {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} for parts in zip(*shares, strict=True)
    ]
    assert [len(batch["mask"]) for batch in batches] == [4, 4, 4]
    masks = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(masks, np.arange(12) < TEST)
    images = stored(data_dir, "validation")
    for name, expected in (
        ("images", [crops.centre_crop(image, SIZE) for image, _, _ in images]),
        ("labels", [label for _, label, _ in images]),
    ):
        np.testing.assert_array_equal(np.concatenate([b[name] for b in batches])[masks == 1], np.array(expected))


def test_a_run_sees_three_disjoint_parts(data_dir, train):
    """Held-out examples are those of the seed; its test set is the data set's validation split."""
    config = default_config("photos").replace(
        data_dir=str(data_dir), image_size=SIZE, batch_size=8, validation_fraction=0.25
    )
    dataset = config.open_data()
    inputs = dataset.inputs(8, config.run.seed)
    training = inputs.training
    assert isinstance(training, DiskSource)
    held_out = np.random.default_rng([config.run.seed, 0]).permutation(TRAIN)[:11]
    assert set(training.index) == set(range(TRAIN)) - set(held_out)
    validation = np.concatenate([b["images"][b["mask"] == 1] for b in inputs.validation()])
    np.testing.assert_array_equal(validation, [crops.centre_crop(train[i][0], SIZE) for i in sorted(held_out)])
    test = np.concatenate([b["labels"][b["mask"] == 1] for b in inputs.test()])
    np.testing.assert_array_equal(test, [label for _, label, _ in stored(data_dir, "validation")])
    pixels = np.stack([crops.centre_crop(train[i][0], SIZE) for i in range(TRAIN)]) / 255  # fewer than are measured
    np.testing.assert_allclose(dataset.normalisation.mean, pixels.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(dataset.normalisation.std, pixels.std((0, 1, 2)), atol=1e-6)
    assert (dataset.image_shape, dataset.class_names) == ((SIZE, SIZE, 3), ("dark", "bright"))
    assert not config.data.augmentation().flip  # they are mirrored where they are decoded
    assert training.flip


# --- damaged directories ---


def test_a_truncated_image_is_named(tmp_path, capfd):
    examples = photographs(TRAIN, 0)
    examples[5]["image"] = examples[5]["image"][: len(examples[5]["image"]) // 2]
    write(tmp_path, {"train": examples, "validation": photographs(TEST, 1)})
    broken = open_dataset("photos", str(tmp_path)).train
    (broken_one,) = (i for i, (_, _, name) in enumerate(names(broken)) if name == "0-5.jpg")
    with pytest.raises(InputError, match=rf"example {broken_one} \(0-5\.jpg\) of .*split train.*truncated"):
        [source(step) for source in [disk_source(broken)] for step in range(5)]
    arguments = ["--data-dir", str(tmp_path), "--dataset", "photos", "--image-size", "16", "--batch-size", "8"]
    assert main([*arguments, "--run-dir", str(tmp_path / "run")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: example {broken_one} (0-5.jpg) of {tmp_path}")


def names(examples: Examples) -> list[tuple[None, int, str]]:
    return [(None, int(e["label"]), e["file_name"].decode()) for e in examples.source]


def test_the_first_split_with_labels_is_the_test_set(tmp_path):
    """As in imagenet2012, the labels of whose test set are -1; and the latest version counts."""
    unlabelled = [example | {"label": -1} for example in photographs(3, 2)]
    splits = {"train": photographs(4, 0), "validation": photographs(5, 1)}
    write(tmp_path, splits, "2.9.0")
    write(tmp_path, splits | {"test": unlabelled}, "2.10.0")
    opened = open_dataset("photos", str(tmp_path))
    assert (len(opened.train), len(opened.test)) == (4, 5)
    assert (opened.test.directory, opened.test.split) == (tmp_path / "photos" / "2.10.0", "validation")
    write(tmp_path, splits | {"test": photographs(3, 2)}, "3.0.0")
    assert len(open_dataset("photos", str(tmp_path)).test) == 3


def test_a_missing_label_is_named(tmp_path):
    examples = photographs(4, 0)
    examples[2]["label"] = -1
    write(tmp_path, {"train": examples, "validation": photographs(2, 1)})
    train = open_dataset("photos", str(tmp_path)).train
    with pytest.raises(InputError, match=r"\(0-2\.jpg\) .* has label -1, which is none of the 2 classes"):
        [train[i] for i in range(4)]


def test_other_data_sets_are_refused(tmp_path):
    text = tfds.features.Text()
    directory = write(tmp_path, {"train": [{"text": "a"}]}, text=text)
    with pytest.raises(
        InputError, match=r"1\.0\.0: has no feature that is one image .* only text \(Text object \(\)\)$"
    ):
        open_dataset("photos", str(tmp_path))
    (directory / "dataset_info.json").unlink()
    with pytest.raises(InputError, match="not a complete TFDS directory"):
        open_dataset("photos", str(tmp_path))
    write(tmp_path, {"train": photographs(2, 0)}, "1.0.1")
    with pytest.raises(
        InputError, match=r"no split test or validation or .*, only train; name one with test_split; a part"
    ):
        open_dataset("photos", str(tmp_path))
    with pytest.raises(InputError, match=r"dataset 'imagenet2012' is unknown; .* have TFDS prepare it in"):
        open_dataset("imagenet2012", str(tmp_path))


# --- whole runs ---


def begin(data_dir: Path, run_dir: Path) -> subprocess.Popen:
    """Six steps an epoch, a checkpoint every four."""
    arguments = ["--data-dir", str(data_dir), "--dataset", "photos", "--image-size", "32", "--workers", "3"]
    arguments += ["--teacher", "convnet", "--student", "convnet", "--width", "0.1", "--num-steps", "2"]
    arguments += ["--teacher-epochs", "1", "--epochs", "6", "--warmup-epochs", "0", "--preset", "kdsnn-response"]
    arguments += ["--batch-size", "6", "--validation-fraction", "0.1", "--checkpoint-every", "4"]
    return start([*arguments, "--run-dir", str(run_dir)], SCRIPT, XLA_FLAGS=QUICKLY)


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch_and_resumed_is_bit_identical(data_dir, tmp_path):
    """The script, from JPEGs to the table, once to its end and once with SIGKILL between."""
    outputs = []
    for kill in (False, True, False):
        run_dir = tmp_path / ("whole" if not outputs else "killed")
        process = begin(data_dir, run_dir)
        assert process.stdout is not None
        if kill:
            for line in process.stdout:
                if "student: epoch 2/6" in line:
                    break
            process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
        assert process.returncode == (-signal.SIGKILL if kill else 0), output
        outputs.append(output)
    resumed = int(outputs[-1].split("student: resumed at step ")[1].split()[0])
    assert resumed % 4 == 0
    assert 0 < resumed < 36
    for phase in ("teacher", "student"):
        for a, b in zip(arrays(tmp_path / "whole", phase), arrays(tmp_path / "killed", phase), strict=True):
            np.testing.assert_array_equal(a, b)
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed")]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    assert logged(tmp_path / "whole")[-1] == logged(tmp_path / "killed")[-1]
    assert results[0]["config"]["validation_fraction"] == 0.1
    assert "teacher (convnet)" in outputs[-1]
