"""Checkpoints: what is read is bit for bit what was saved, or refused."""

import functools
import gc
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from representative import representatives
from tiny_training import SHAPE, adamw_trainer

from snnkd_jax.errors import InputError
from snnkd_jax.models import build
from snnkd_jax.parallel.mesh import data_mesh, put_batch, put_replicated
from snnkd_jax.training import checkpoint
from snnkd_jax.training.checkpoint import Checkpoints, load_network
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.loop import variables_of
from snnkd_jax.training.manifest import Manifest
from snnkd_jax.training.trainer import Trainer, TrainState

LAST = 6


@functools.cache
def trainer() -> Trainer:
    """With connectors as well."""
    return adamw_trainer("kdsnn", width=0.1, teacher=build("convnet", 4, width=0.1))


def template() -> TrainState:
    return jax.eval_shape(trainer().init)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, dict[int, TrainState]]:
    """A training that saves at every step and goes on at once, in donated memory; and what it should have saved."""
    directory = tmp_path_factory.mktemp("run") / "student"
    mesh = data_mesh()
    teacher = trainer().teacher
    assert teacher is not None
    variables = put_replicated(mesh, teacher.init(jax.random.key(1), SHAPE))
    steps = compile_steps(trainer(), mesh)
    state = put_replicated(mesh, jax.jit(trainer().init)())
    rng = np.random.default_rng(0)
    expected = {}
    checkpoints = Checkpoints(directory, data_mesh(), keep=4)
    for step in range(1, LAST + 1):
        images = rng.integers(0, 256, (16, *SHAPE), dtype=np.uint8)
        labels = rng.integers(0, 4, 16, dtype=np.int32)
        state, _ = steps.train(state, variables, put_batch(mesh, {"images": images, "labels": labels}))
        expected[step] = jax.tree.map(lambda x: np.array(x, copy=True), state)
        checkpoints.save(state)
    checkpoints.close()
    return directory, expected


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    shutil.copytree(saved[0], tmp_path / "student")
    return tmp_path / "student"


def restore(directory: Path) -> TrainState | None:
    checkpoints = Checkpoints(directory, data_mesh(), keep=4)
    try:
        return checkpoints.restore(template())
    finally:
        checkpoints.close()


def assert_is(state: TrainState | None, expected: TrainState) -> None:
    assert state is not None
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), expected)


def test_newest_is_restored_bit_for_bit(saved):
    directory, expected = saved
    assert_is(restore(directory), expected[LAST])


@pytest.mark.parametrize("fsdp", [None, 4])
def test_typed_keys_in_the_optimiser_state_are_restored_bit_for_bit(tmp_path, fsdp):
    """Such as those of `optax.add_noise`: one key, many, and of another generator than the default."""
    keys = {
        "one": jax.random.key(1),
        "many": jax.random.split(jax.random.key(2), 4),
        "rbg": jax.random.key(3, impl="rbg"),
    }
    state = TrainState(jnp.int32(7), {"network": {"w": jnp.ones(3)}}, {"network": {}}, keys)
    checkpoints = Checkpoints(tmp_path / "student", data_mesh())
    checkpoints.save(put_replicated(data_mesh(), state))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "student", data_mesh(fsdp))
    found = checkpoints.restore(jax.eval_shape(lambda: state))
    checkpoints.close()
    assert found is not None
    restored: Any = found.opt_state
    for name, key in keys.items():
        assert restored[name].dtype == key.dtype
        np.testing.assert_array_equal(jax.random.key_data(restored[name]), jax.random.key_data(key))


def test_keeps_the_newest_four(saved):
    assert sorted(int(path.name) for path in saved[0].iterdir() if path.name.isdigit()) == [3, 4, 5, 6]


def test_nothing_saved_is_none(tmp_path):
    assert restore(tmp_path / "student") is None


def arrays(part: Path) -> list[Path]:
    """The files with the arrays of one part; TensorStore keeps small ones in several places."""
    return [path for path in part.rglob("*") if path.parent.name == "d"]


def cut(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(paths: list[Path]) -> None:
    for path in paths:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0x55
        path.write_bytes(data)


def empty(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(b"")


def delete(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


DAMAGE = {
    "arrays cut": lambda step: cut(arrays(step / "network")),
    "arrays flipped": lambda step: flip(arrays(step / "network")),
    "arrays empty": lambda step: empty(arrays(step / "training")),
    "arrays gone": lambda step: delete(arrays(step / "training")),
    "metadata cut": lambda step: cut([step / "network" / "_METADATA"]),
    "manifest empty": lambda step: empty([step / "training" / "manifest.ocdbt"]),
    "half of it gone": lambda step: shutil.rmtree(step / "training"),
}


@pytest.mark.parametrize("damage", representatives(DAMAGE, lambda damage: damage == "arrays flipped"))
def test_damaged_newest_is_set_aside_and_the_one_before_used(saved, copy, damage):
    DAMAGE[damage](copy / str(LAST))
    with pytest.warns(UserWarning, match=f"checkpoint {LAST} .* is damaged"):
        state = restore(copy)
    assert_is(state, saved[1][LAST - 1])
    assert not (copy / str(LAST)).exists()
    assert (copy.parent / "student-damaged" / str(LAST)).is_dir()


@pytest.mark.slow
def test_none_left_is_said(copy):
    for step in copy.iterdir():
        if step.name.isdigit():
            cut(arrays(step / "network"))
    with (
        pytest.warns(UserWarning, match="damaged") as warned,
        pytest.raises(InputError, match="none of the 4") as error,
    ):
        restore(copy)
    assert f"delete {copy}" in str(error.value)
    messages = [str(w.message) for w in warned if w.category is UserWarning]
    assert [m.split(" in ")[0] for m in messages] == [f"checkpoint {step}" for step in (6, 5, 4, 3)]


def test_half_written_directory_is_ignored(saved, copy):
    """What a process leaves behind that dies while it saves."""
    unfinished = copy / f"{LAST + 1}{checkpoint._UNFINISHED}-0123"
    shutil.copytree(copy / str(LAST), unfinished)
    assert_is(restore(copy), saved[1][LAST])
    assert not unfinished.exists()


@pytest.mark.slow
def test_a_set_aside_step_can_be_saved_again(saved, copy):
    cut(arrays(copy / str(LAST) / "network"))
    checkpoints = Checkpoints(copy, data_mesh(), keep=4)
    with pytest.warns(UserWarning, match="damaged"):
        checkpoints.restore(template())
    checkpoints.save(put_replicated(data_mesh(), saved[1][LAST]))
    checkpoints.close()
    assert_is(restore(copy), saved[1][LAST])


@pytest.mark.slow
def test_reads_that_were_not_begun_are_no_warning(tmp_path, monkeypatch):
    """Orbax leaves coroutines behind when one of them fails; Python warns where they are collected."""

    async def read(): ...

    def fails(*_):
        pending = read()
        raise ValueError(f"cut short before {pending}")

    monkeypatch.setattr(checkpoint, "_read_own_shards", fails)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(checkpoint.DamagedCheckpoint, match="cut short"):
            checkpoint._read(tmp_path, Manifest(None, "student"), "1/network", {}, data_mesh())
        gc.collect()
    assert not seen


def test_network_alone(saved):
    """The student's own variables, without connectors and optimiser."""
    directory, expected = saved
    variables = load_network(directory, variables_of(template()), data_mesh())
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(variables), variables_of(expected[LAST]))


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"width": 0.2}, {"name": "resnet20"}], ids=str)
def test_checkpoint_of_another_network_is_refused(saved, change):
    from snnkd_jax.models import MODELS
    from snnkd_jax.models.activation import ReLU
    from snnkd_jax.models.network import Network

    arguments = {"name": "convnet", "num_classes": 4, "activation": ReLU, "width": 0.1} | change
    network = Network(MODELS[arguments.pop("name")](**arguments), None)
    other = jax.eval_shape(lambda: network.init(jax.random.key(0), SHAPE))
    with pytest.raises(InputError, match="damaged or of another network"):
        load_network(saved[0], other, data_mesh())


def test_directory_without_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_network(tmp_path / "nowhere", {}, data_mesh())
