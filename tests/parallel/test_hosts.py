"""Several processes: they train what one does, stop together, and resume when one of them is lost.

Processes and signals are real. What takes minutes is in the group `multihost`; `experiments/host_failures.py` does the
same more often, and records it.
"""

import functools
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import host_failures as failures
import jax
import numpy as np
import pytest
from compilation import QUICKLY
from representative import slow
from tiny_training import SHAPE, adamw_trainer

from snnkd_jax.errors import InputError
from snnkd_jax.parallel import hosts
from snnkd_jax.parallel.mesh import data_mesh, put_batch, state_sharding
from snnkd_jax.runs.optimisation import OptimisationConfig
from snnkd_jax.runs.run_dir import report_disk_full
from snnkd_jax.training.checkpoint import Checkpoints
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.trainer import TrainState


@pytest.mark.slow
def test_two_processes_with_two_devices_train_what_one_does(tmp_path, monkeypatch):
    """Fifty steps, each process on its own rows; one log, one result, each line printed once."""
    monkeypatch.setenv("XLA_FLAGS", QUICKLY)
    one = failures.start(tmp_path / "one", failures.FIFTY, hosts=1, devices=1)
    two = failures.start(tmp_path / "two", failures.FIFTY)
    assert failures.ends(one + two) == [0, 0, 0], [host.output()[-500:] for host in one + two]
    assert failures.steps_of(tmp_path / "two", "student")[-1] == 50
    assert failures.difference(tmp_path / "two", tmp_path / "one") < 1e-5
    for found, expected in zip(*(failures.logged(tmp_path / name) for name in ("two", "one")), strict=True):
        assert found["validation"]["accuracy"] == expected["validation"]["accuracy"]
        for name in ("loss", "ce", "accuracy", "grad_norm", "firing_rate"):
            assert found[name] == pytest.approx(expected[name], rel=1e-4), name
    assert "4 cpu device(s) in 2 process(es); batch 128, 32 per device" in two[0].output()
    assert two[0].output().count("student: epoch 5/5") == 1
    assert "student" not in two[1].output()


@functools.cache
def trained(fsdp: int | None) -> TrainState:
    """After two steps on eight devices."""
    mesh = data_mesh(fsdp)
    steps = compile_steps(adamw_trainer(), mesh)
    state, rng = steps.init(), np.random.default_rng(0)
    for _ in range(2):
        batch = {"images": rng.integers(0, 256, (16, *SHAPE), np.uint8), "labels": rng.integers(0, 4, 16, np.int32)}
        state, _ = steps.train(state, {}, put_batch(mesh, batch))
    return state


@pytest.mark.slow
def test_divided_parameters_are_trained_like_whole_ones():
    """Each device holds a quarter of every kernel and of its moments, along the largest axis that allows it."""
    sharded, replicated = trained(4), trained(None)
    shares = [
        (x.shape, x.addressable_shards[0].data.shape) for x in jax.tree.leaves((sharded.params, sharded.opt_state))
    ]
    assert any(len(shape) == 4 for shape, _ in shares)
    for shape, share in shares:
        axes = [n for n in shape if n % 4 == 0] if len(shape) > 1 else []
        assert np.prod(share) == np.prod(shape) // (4 if axes else 1), shape
        if axes:
            assert share[shape.index(max(axes))] == max(axes) // 4
    for x, expected in zip(*map(jax.tree.leaves, jax.device_get((sharded, replicated))), strict=True):
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("saved", "read"), [(4, None), slow(2, 8)])
def test_a_checkpoint_is_read_bit_for_bit_however_it_is_divided(tmp_path, saved, read):
    state = jax.device_put(jax.device_get(trained(None)), state_sharding(data_mesh(saved), trained(None)))
    checkpoints = Checkpoints(tmp_path / "student", data_mesh(saved))
    checkpoints.save(state)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "student", data_mesh(read))
    found = checkpoints.restore(jax.eval_shape(adamw_trainer().init))
    checkpoints.close()
    assert found is not None
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(state))
    expected = state_sharding(data_mesh(read), state)
    assert all(
        jax.tree.leaves(jax.tree.map(lambda x, where: x.sharding.is_equivalent_to(where, x.ndim), found, expected))
    )


def test_learning_rate_in_proportion_to_the_batch():
    scaled = OptimisationConfig(learning_rate=0.1, batch_size=8192, base_batch_size=256)
    assert scaled.peak_learning_rate == pytest.approx(3.2)
    assert OptimisationConfig(learning_rate=0.1, batch_size=8192).peak_learning_rate == 0.1


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (OSError(28, "No space left on device"), True),
        (ValueError("RESOURCE_EXHAUSTED: write() failed [OS error 28: ENOSPC No space left on device]"), True),
        (OSError(13, "Permission denied"), False),
    ],
)
def test_a_full_disk_is_reported_as_wrong_input(tmp_path, error, reported):
    def fail():
        with report_disk_full(tmp_path):
            try:
                raise error
            finally:
                raise RuntimeError("the save failed")  # as some layer above says

    if reported:
        with pytest.raises(InputError, match=f"{tmp_path}.*no space is left"):
            fail()
    else:
        with pytest.raises(RuntimeError, match="the save failed"):
            fail()


def joined(**environment: str) -> subprocess.CompletedProcess:
    """Runs the program as one of several processes."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    arguments = [*failures.TINY, "--distributed", "True", "--run-dir", os.devnull]
    command = [sys.executable, str(failures.SCRIPT), *arguments]
    environment = inherited | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        slow({}, ["distributed=True", "JAX_COORDINATOR_ADDRESS"]),
        slow({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234"}, ["Number of processes", "JAX_NUM_PROCESSES"]),
        (
            {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            ["process_id=2", "JAX_PROCESS_ID"],
        ),
    ],
    ids=["nothing", "half", "wrong"],
)
def test_processes_that_cannot_be_reached_are_reported_in_one_line(environment, names):
    done = joined(**environment)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for name in names:
        assert name in line


@pytest.mark.parametrize(
    ("index", "told"), [(1, "process 1 of 4 waits at localhost:61517 for process 0"), slow(0, "for the other 3")]
)
def test_who_is_waited_for_is_said_and_the_end_is_a_line(index, told):
    """A process that is started by hand in a SLURM step of four."""
    environment = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "4",
        "JAX_PLATFORMS": "cpu",
    }
    environment |= {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}
    program = "from snnkd_jax.parallel import hosts; hosts.PATIENCE, hosts.INITIALIZATION_TIMEOUT = 0.5, 2\n"
    program += "hosts.initialize(None)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert done.returncode == 2
    waiting, error = done.stderr.splitlines()
    assert error.startswith("error: after 2 s, ")
    for line in (waiting, error):
        assert told in line
        assert f"SLURM_NTASKS=4, SLURM_PROCID={index}" in line
        assert "--distributed False" in line


def test_a_single_process():
    assert hosts.gather_texts("text") == ["text"]
    assert hosts.broadcast_from_host0(-3) == -3
    assert hosts.host0_first(lambda: 5) == 5
    hosts.check_equal_on_all_hosts("anything", b"")
    with pytest.raises(InputError, match="mine"), hosts.raise_on_all_hosts():
        raise InputError("mine")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two hosts to which nothing happens."""
    run_dir = tmp_path_factory.mktemp("hosts") / "whole"
    failures.finish(run_dir, failures.LONG)
    return run_dir


@pytest.mark.multihost
def test_killed_hosts_are_started_again_and_nothing_is_lost(whole, tmp_path):
    rng = random.Random(1)
    for _ in range(3):
        lost = failures.lose_one(tmp_path / "run", rng)
        assert lost["survivor_status"] not in (0, -signal.SIGKILL), lost
        assert lost["survivor_seconds"] < failures.PROMPT
        assert lost["survivor_message"]
    failures.finish(tmp_path / "run", failures.LONG)
    for phase in ("teacher", "student"):
        assert failures.difference(tmp_path / "run", whole, phase) == 0
    assert failures.logged(tmp_path / "run")[-1]["validation"] == failures.logged(whole)[-1]["validation"]


@pytest.mark.multihost
@pytest.mark.parametrize(
    ("told", "number", "status"), [(0, signal.SIGTERM, 0), (1, signal.SIGTERM, 0), (1, signal.SIGINT, 130)]
)
def test_a_signal_to_one_host_stops_all_after_one_step(whole, tmp_path, told, number, status):
    found = failures.tell_one(tmp_path / "run", told, number)
    expected = [0, 0]
    expected[told] = status
    assert found["statuses"] == expected
    assert found["seconds"] < failures.PROMPT
    assert found["stopped_at"] == found["newest_checkpoint"]
    output = failures.finish(tmp_path / "run", failures.LONG)
    assert failures.resumed_at(output) == found["stopped_at"]
    assert failures.difference(tmp_path / "run", whole) == 0


@pytest.mark.multihost
@pytest.mark.parametrize(("number", "devices"), [(1, 1), (1, 2), (1, 4), (2, 1), (4, 1)])
def test_other_hosts_and_devices_go_on(whole, tmp_path, number, devices):
    steps = failures.steps_of(whole, "student")
    failures.cut_back(whole, tmp_path / "run", steps[-2])
    output = failures.finish(tmp_path / "run", failures.LONG, number, devices)
    assert failures.resumed_at(output) == steps[-2]
    assert failures.difference(tmp_path / "run", whole) < 1e-5


@pytest.mark.multihost
def test_all_hosts_set_a_damaged_checkpoint_aside(whole, tmp_path):
    steps = failures.steps_of(whole, "student")
    failures.cut_back(whole, tmp_path / "run", steps[-2])
    for path in (tmp_path / "run" / "student" / str(steps[-2]) / "network").rglob("*"):
        if path.parent.name == "d":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    output = failures.finish(tmp_path / "run", failures.LONG)
    assert output.count(f"checkpoint {steps[-2]} in ") == 1
    assert failures.resumed_at(output) == steps[-3]
    assert failures.difference(tmp_path / "run", whole) == 0


@pytest.mark.multihost
def test_a_full_disk_ends_all_hosts_and_the_checkpoint_before_is_whole(whole, tmp_path):
    found = failures.in_own_mounts(tmp_path / "run")
    assert found["statuses"][0] == 2
    assert found["statuses"][1] in (1, 2)  # 2 if it was writing its own share
    assert f"{tmp_path / 'run'}: no space is left" in found["messages"][0]
    assert found["messages"][1]
    assert found["resumed_at"] == found["newest_checkpoint"]
    assert failures.difference(tmp_path / "run-copy", whole) == 0


@pytest.mark.multihost
@pytest.mark.parametrize(
    ("first", "others", "names"),
    [
        ([], ["--seed", "1"], ["differ in their arguments"]),
        (["--batch-size", "6"], ["--batch-size", "6"], ["batch_size=6", "devices, 4"]),
        (["--fsdp", "3"], ["--fsdp", "3"], ["fsdp=3", "devices, 4"]),
        (["--teacher-checkpoint", "nowhere"], ["--teacher-checkpoint", "nowhere"], ["nowhere"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_wrong_input_ends_all_hosts_in_one_line_each(tmp_path, first, others, names):
    both = failures.start(tmp_path / "run", [*failures.TINY, *first], others=others)
    assert failures.ends(both) == [2, 2]
    for host in both:
        (line,) = [line for line in host.output().splitlines() if not line.startswith("[Gloo]")]
        assert line.startswith("error: ")
        for name in names:
            assert name in line
    assert not (tmp_path / "run").exists()
