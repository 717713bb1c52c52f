"""Prepares a TFDS directory from the official archives, without TensorFlow.

The stock builders unpack, read and encode with TensorFlow. Here the archives are unpacked with the standard library,
the images are encoded with Pillow, and a subclass of the stock builder writes the directory that the stock builder
would have written in the ArrayRecord format. TFDS writes under a temporary name and renames at the end, so an
interrupted preparation cannot be taken for a complete one.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

from snnkd_jax.data.archives import Splits, read_archives
from snnkd_jax.data.download import download
from snnkd_jax.data.official import OFFICIAL
from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError


def prepare(name: str, data_dir: Path) -> None:
    """Writes `<data_dir>/<name>/<version>` from the archives in `<data_dir>/downloads/manual/<name>`.

    Missing archives are downloaded to that folder first. One with another checksum than the official is used with a
    warning if its structure is right, since people recompress archives. Raises `InputError` for an archive that is
    damaged, or missing and cannot be downloaded, and if `data_dir` is not writable.
    """
    folder = data_dir / "downloads" / "manual" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=data_dir).close()
    except OSError as error:
        raise InputError(f"cannot write to {data_dir} ({error}): set TFDS_DATA_DIR to a writable folder") from error
    files = _find_archives(name, folder)
    splits, class_names = read_archives(name, files)
    for file, (_, info) in _official_files(name).items():
        if (found := sha256(files[file].read_bytes())) != info.checksum:
            warnings.warn(f"{files[file]} has SHA-256 {found}, the official file {info.checksum}", stacklevel=3)
    print(f"preparing {name} in {data_dir} ...")
    try:
        _write(name, splits, class_names, data_dir)
    except OSError as error:
        raise InputError(f"cannot write {name} to {data_dir} ({error}): make room or set TFDS_DATA_DIR") from error


def _find_archives(name: str, folder: Path) -> dict[str, Path]:
    """The path of every archive by its official file name; downloads those that are missing."""
    urls = _official_files(name)
    # The archives of mnist and fashion_mnist have the same names, so they need folders of their own.
    places = [folder, folder.parent] if name.startswith("cifar") else [folder]
    found = {file: place / file for place in reversed(places) for file in urls if (place / file).exists()}
    missing = sorted(urls.keys() - found.keys())
    for file in missing:
        url, info = urls[file]
        try:
            download(url, folder / file, info.size, info.checksum)
        except OSError as error:
            still_missing = ", ".join(file for file in missing if not (folder / file).exists())
            raise InputError(
                f"--dataset {name}: {folder.parents[2] / name} is not there, and downloading failed ({error}); put "
                f"{still_missing} (from {urljoin(url, '.')}) into {folder}, or use --dataset digits"
            ) from error
        found[file] = folder / file
    return found


def _official_files(name: str) -> dict[str, tuple[str, Any]]:
    """The address and TFDS's `UrlInfo` (`size`, `checksum`) of every archive by its file name."""
    url_infos = OFFICIAL[name].stock_builder().url_infos
    return {url.rsplit("/", 1)[1]: (url, info) for url, info in url_infos.items()}


def _write(name: str, splits: Splits, class_names: dict[str, list[str]], data_dir: Path) -> None:
    import tensorflow_datasets as tfds

    stock = OFFICIAL[name].stock_builder()

    class Builder(stock, skip_registration=True):  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
        """The stock builder with examples from memory."""

        name = stock.name

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
            del dl_manager  # nothing to download
            for feature, names in class_names.items():
                self.info.features[feature].names = names
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
            features = splits[split]
            for i in range(len(features["label"])):
                example: dict[str, Any] = {key: int(values[i]) for key, values in features.items() if key != "image"}
                example["image"] = _png(features["image"][i])
                if "id" in self.info.features:
                    example["id"] = f"{split}_{i:05d}"
                yield i, example

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        builder: Any = Builder(data_dir=data_dir, file_format="array_record")
        try:
            builder.download_and_prepare()
        except OSError:
            if not builder.is_prepared():  # otherwise another process was faster, and the final renaming failed
                raise


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format="PNG")
    return file.getvalue()
