"""The directory of a network: what is read is what its manifest lists, unchanged, or nothing."""

import hashlib
import json
import random
import shutil
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from representative import slow
from tiny_training import three_classes

from snnkd_jax import LIF, build, data, fit, load
from snnkd_jax.errors import InputError
from snnkd_jax.training.manifest import is_trained, list_files

pytestmark = pytest.mark.usefixtures("silent_layers")


@pytest.fixture(scope="module")
def images() -> data.Dataset:
    return three_classes()


def train(images: data.Dataset, run_dir: Path, seed: int):
    network = build("convnet", 3, width=0.1, neuron=LIF(), num_steps=2)
    return fit(network, images, epochs=3, batch_size=8, seed=seed, run_dir=run_dir)


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory) -> dict[str, Path]:
    """Two finished runs that differ in their seed."""
    folder = tmp_path_factory.mktemp("runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, seed in (("a", 0), ("b", 1)):
            train(images, folder / name, seed)
    return {name: folder / name for name in ("a", "b")}


@pytest.fixture
def copy(runs, tmp_path) -> Path:
    return Path(shutil.copytree(runs["a"], tmp_path / "a"))


def weights(path: Path) -> list[np.ndarray]:
    return jax.tree.leaves(jax.device_get(load(path).variables))


def unfinished(run_dir: Path) -> Path:
    """The run as it was before its last epoch's end: resumable."""
    (run_dir / "result.json").unlink()
    return run_dir


def test_the_manifest_lists_each_file_with_size_and_sha256(runs):
    directory = runs["a"] / "student"
    content = json.loads((directory / "manifest.json").read_text())
    found = {p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file()}
    assert content["files"].keys() == found - {"manifest.json", "observation.npz"}
    for name, (size, digest) in content["files"].items():
        data = (directory / name).read_bytes()
        assert (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    assert content["step"] == max(int(name.split("/")[0]) for name in content["files"]) == 9
    assert content["versions"]["jax"] == jax.__version__
    assert content["run"] == json.loads((runs["a"] / "config.json").read_text())["id"]
    assert content["network"]["class_names"] == ["0", "1", "2"]


@pytest.mark.slow
def test_a_copied_checkpoint_with_a_larger_number_is_never_read(images, runs, copy):
    """keras#22266: a folder's name was taken for its step, and ended the training."""
    student = unfinished(copy) / "student"
    shutil.copytree(student / "3", student / "1000")
    with pytest.warns(UserWarning, match="1000"):
        assert all(map(np.array_equal, weights(copy), weights(runs["a"])))
    with pytest.warns(UserWarning, match="1000"):
        resumed = train(images, copy, 0)
    assert all(map(np.array_equal, jax.tree.leaves(jax.device_get(resumed.variables)), weights(runs["a"])))
    assert not (student / "1000").exists()  # moved, since a save may need the place
    assert (copy / "student-damaged" / "1000").is_dir()


def test_strangers_are_named_and_not_read(runs, copy):
    (copy / "student" / "._notes").write_text("of a file manager")
    (copy / "student" / "9" / "network" / "extra").write_text("added")
    with pytest.warns(UserWarning, match=r"\._notes, 9/network/extra"):
        assert all(map(np.array_equal, weights(copy), weights(runs["a"])))


def swap_students(copy, other):
    shutil.rmtree(copy / "student")
    shutil.copytree(other / "student", copy / "student")


def swap_result(copy, other):
    shutil.copy(other / "result.json", copy / "result.json")


def swap_config(copy, other):
    shutil.copy(other / "config.json", copy / "config.json")


def swap_manifest(copy, other):
    shutil.copy(other / "student" / "manifest.json", copy / "student" / "manifest.json")


def rename_role(copy, _):
    (copy / "student").rename(copy / "teacher")


def remove_manifest(copy, _):
    (copy / "student" / "manifest.json").unlink()


def change_a_number(copy, _):
    path = copy / "result.json"
    path.write_text(path.read_text().replace("0.", "1.", 1))


def earlier_version(copy, _):
    (copy / "student" / "manifest.json").rename(copy / "student" / "network.json")


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (swap_students, "another run"),
        (swap_result, "result.json is of another run"),
        (swap_config, "another run"),
        (swap_manifest, "another run"),
        (rename_role, "rename it back"),
        (remove_manifest, "no manifest.json"),
        (change_a_number, "result.json is damaged"),
        (earlier_version, "earlier version"),
    ],
)
def test_what_is_of_another_run_or_role_or_version_is_refused(runs, copy, damage, fact):
    damage(copy, runs["b"])
    with pytest.raises(InputError, match=fact):
        load(copy, "teacher" if damage is rename_role else None)


def test_a_network_moved_out_of_its_run_is_loaded(runs, tmp_path):
    """A directory of its own has all that is needed."""
    shutil.copytree(runs["a"] / "student", tmp_path / "mine")
    assert all(map(np.array_equal, weights(tmp_path / "mine"), weights(runs["a"])))
    assert is_trained(tmp_path / "mine")
    assert not is_trained(tmp_path)


def test_a_resumed_run_of_another_run_is_refused_and_nothing_is_lost(images, runs, copy):
    swap_students(unfinished(copy), runs["b"])
    before = list_files(copy, "student")
    with pytest.raises(InputError, match="another run"):
        train(images, copy, 0)
    assert list_files(copy, "student") == before


DAMAGES = ("swap", "rename", "add", "remove", "truncate", "flip", "remove folder", "copy folder")


def damage_at_random(rng: random.Random, run_dir: Path, other: Path) -> str:
    """One to three damages, of files and folders of the network or the run."""
    done = []
    for _ in range(rng.randint(1, 3)):
        files = sorted(p for p in run_dir.rglob("*") if p.is_file() and "compilation-cache" not in p.parts)
        folders = sorted(p for p in (run_dir / "student").rglob("*") if p.is_dir()) if files else []
        kind, path = rng.choice(DAMAGES), rng.choice(files)
        name = path.relative_to(run_dir)
        if kind == "swap" and (other / name).is_file():
            shutil.copy(other / name, path)
        elif kind == "rename":
            path.rename(path.with_name(rng.choice(["1000", "x.json", path.name + "~"])))
        elif kind == "add":
            (path.parent / rng.choice(["7", "d.1", "manifest.ocdbt.1", "stranger"])).write_bytes(rng.randbytes(9))
        elif kind == "remove":
            path.unlink()
        elif kind == "truncate":
            path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])
        elif kind == "flip" and path.stat().st_size:
            content = bytearray(path.read_bytes())
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
        elif kind == "remove folder" and folders:
            shutil.rmtree(rng.choice(folders))
        elif kind == "copy folder" and folders:
            source = rng.choice(folders)
            target = source.with_name(rng.choice(["1000", "12", "teacher"]))
            if not target.exists():
                shutil.copytree(source, target)
        done.append(f"{kind} {name}")
    return ", ".join(done)


@pytest.mark.parametrize("seeds", [range(20), slow(range(20, 50))], ids=str)
def test_a_damaged_run_directory_gives_the_same_network_or_an_error(runs, tmp_path, seeds):
    expected, other = weights(runs["a"]), runs["b"]
    loaded = 0
    for seed in seeds:
        run_dir = Path(shutil.copytree(runs["a"], tmp_path / str(seed), ignore=shutil.ignore_patterns("compilation-*")))
        what = damage_at_random(random.Random(seed), run_dir, other)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = weights(run_dir)
            except InputError:
                pass
            else:
                loaded += 1
                assert len(found) == len(expected), what
                assert all(map(np.array_equal, found, expected)), what
        shutil.rmtree(run_dir)
    assert 0 < loaded < len(seeds)


@pytest.mark.parametrize("seeds", [slow(range(4))], ids=str)
def test_a_damaged_run_resumes_to_the_same_network_or_is_refused(images, runs, tmp_path, seeds):
    expected, other = weights(runs["a"]), runs["b"]
    for seed in seeds:
        run_dir = unfinished(Path(shutil.copytree(runs["a"], tmp_path / str(seed))))
        what = damage_at_random(random.Random(seed), run_dir, other)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                trained = train(images, run_dir, 0)
            except InputError:
                continue
            found = jax.tree.leaves(jax.device_get(trained.variables))
            assert all(map(np.array_equal, found, expected)), what
            assert all(map(np.array_equal, weights(run_dir), expected)), what
        shutil.rmtree(run_dir)
