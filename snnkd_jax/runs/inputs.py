"""The images of a run, wherever they lie: held in memory, or read from disk as they are needed."""

import concurrent.futures
import dataclasses
import functools
import hashlib

import numpy as np
from numpy.typing import NDArray

from snnkd_jax import data
from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.batches import EvalBatches, InMemory, Source, eval_batches, split_indices, split_validation
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.data.on_disk import Examples, open_streamed
from snnkd_jax.data.reader import Stream, centres
from snnkd_jax.errors import InputError
from snnkd_jax.runs.config import Config

# Images of which the pixel statistics of a set on disk are measured.
MEASURED_IMAGES = 1000

# Of the training set in red, green and blue, as nearly all published weights assume. Source: torchvision.
_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A data set as a run sees it: batches of three parts, and what is to be done to their images on the device.

    `identity` is equal in processes whose copies of the data set are.
    """

    name: str
    identity: bytes
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    normalisation: Normalisation
    augmentation: Augmentation
    training: Source
    validation: EvalBatches
    test: EvalBatches

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def open_inputs(config: Config) -> Inputs:
    """The images of a run.

    Raises `InputError` if the data set is not there or damaged, or smaller than a batch.
    """
    return _in_memory(config) if config.dataset in data.NAMES else _streamed(config)


def dataset_of(config: Config) -> data.Dataset:
    """The data set of a run, from where the run had it.

    Raises `InputError` for one that is read from disk a batch at a time, and as `data.load`.
    """
    if config.dataset not in data.NAMES:
        raise InputError(
            f"dataset {config.dataset!r} is read from disk as a training goes; what is measured after it works with "
            f"{', '.join(data.NAMES)}"
        )
    return data.load(config.dataset, config.data_dir)


def _in_memory(config: Config) -> Inputs:
    dataset = dataset_of(config)
    training, validation = split_validation(dataset, config.validation_fraction, config.seed)
    _check_batch_size(config, len(training["labels"]))
    test = {"images": dataset.test_images, "labels": dataset.test_labels}
    return Inputs(
        dataset.name,
        identity_of(dataset),
        dataset.class_names,
        dataset.image_shape,
        pixel_statistics(dataset.train_images),
        config.augmentation(),
        InMemory(training, config.batch_size, config.seed),
        functools.partial(eval_batches, validation, config.batch_size),
        functools.partial(eval_batches, test, config.batch_size),
    )


def identity_of(dataset: data.Dataset) -> bytes:
    """What tells a data set in memory from others: digests of its training images and labels."""
    return b"".join(hashlib.sha256(x.tobytes()).digest() for x in (dataset.train_images, dataset.train_labels))


def _streamed(config: Config) -> Inputs:
    """Images are cropped by area and mirrored where they are decoded, so that the device need not mirror them again."""
    dataset, size = open_streamed(config.dataset, config.data_dir), config.image_size
    training, validation = split_indices(len(dataset.train), config.validation_fraction, config.seed)
    _check_batch_size(config, len(training))
    reading = {"image_size": size, "batch_size": config.batch_size, "threads": config.workers}
    return Inputs(
        dataset.name,
        dataset.identity,
        dataset.class_names,
        (size, size, 3),
        _IMAGENET if config.dataset.startswith("imagenet2012") else _measured(dataset.train, size, config.workers),
        dataclasses.replace(config.augmentation(), flip=False),
        Stream(dataset.train, training, flip=config.flip, seed=config.seed, **reading),
        functools.partial(centres, dataset.train, validation, **reading),
        functools.partial(centres, dataset.test, np.arange(len(dataset.test)), **reading),
    )


def _check_batch_size(config: Config, examples: int) -> None:
    if config.batch_size > examples:
        raise InputError(f"batch_size={config.batch_size!r} is above the {examples} training images")


def _measured(examples: Examples, size: int, threads: int) -> Normalisation:
    """Of the centres of `MEASURED_IMAGES` images, the same for every seed and in every process."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(examples))[:MEASURED_IMAGES])
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        images = pool.map(lambda i: examples.centre(i, size)[0], chosen)
        return pixel_statistics(np.stack(list(images)))


def pixel_statistics(images: NDArray[np.uint8]) -> Normalisation:
    """Of a whole training set `[N, H, W, C]`, so that they do not depend on the seed; from counts, hence exactly."""
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in np.moveaxis(images, -1, 0):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        mean.append(round(float(share @ values), 6))
        std.append(round(float(np.sqrt(share @ (values - share @ values) ** 2)), 6))
    return Normalisation(tuple(mean), tuple(std))
