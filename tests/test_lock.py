"""The lock of a directory: one process at a time, and none that is gone stands in the way."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from representative import slow
from tiny_runs import TINY, start

from snnkd_jax import lock
from snnkd_jax.errors import InputError
from snnkd_jax.lock import Lock

HOLD = "import sys, time; from pathlib import Path; from snnkd_jax.lock import Lock\n"
HOLD += "with Lock('run_dir', Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@contextlib.contextmanager
def holder(directory: Path):
    """Another process that holds the lock until the context ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def written(directory: Path, **changes) -> None:
    """A lock of another machine."""
    content = {"host": "node7", "process": 12, "machine": "another", "process_start": "1", "since": 0.0}
    content |= {"renewed": time.time(), "token": "theirs"} | changes
    (directory / lock.NAME).write_text(json.dumps(content))


def read(directory: Path) -> dict:
    """The lock; it is written in place, so that a moment comes when the file is empty."""
    while not (text := (directory / lock.NAME).read_text()).endswith("}"):
        time.sleep(0.001)
    return json.loads(text)


def test_another_process_is_named_and_one_that_was_killed_is_not_waited_for(tmp_path):
    with holder(tmp_path) as process:
        with pytest.raises(InputError, match=f"run_dir {tmp_path} is in use by process {process.pid} on "):
            Lock("run_dir", tmp_path).__enter__()
        process.send_signal(signal.SIGKILL)
        time.sleep(0.2)  # not waited for: it is a zombie, as under a scheduler's shell
        with Lock("run_dir", tmp_path):
            assert json.loads((tmp_path / lock.NAME).read_text())["process"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_thread_of_the_same_process_is_refused(tmp_path):
    with Lock("run_dir", tmp_path), pytest.raises(InputError, match=f"process {os.getpid()} on"):
        Lock("run_dir", tmp_path).__enter__()
    with Lock("run_dir", tmp_path):
        pass


def test_a_process_with_the_id_of_one_that_is_gone_does_not_hold_its_lock(tmp_path):
    written(tmp_path, machine=lock._machine(), process=os.getpid(), process_start="1")
    with Lock("run_dir", tmp_path):
        pass


@pytest.mark.parametrize("renewed", [0, 3600], ids=["long ago", "by a clock that is fast"])
@pytest.mark.parametrize("alive", [True, False])
def test_another_host_is_gone_when_it_does_not_renew(tmp_path, monkeypatch, renewed, alive):
    monkeypatch.setattr(lock, "RENEWAL", 0.2)
    written(tmp_path, renewed=renewed and time.time() + renewed)
    if alive:
        threading.Timer(0.1, lambda: written(tmp_path, renewed=1)).start()
        with pytest.raises(InputError, match="process 12 on node7"):
            Lock("run_dir", tmp_path).__enter__()
    else:
        with Lock("run_dir", tmp_path):
            pass


def test_another_host_that_renewed_a_moment_ago_is_refused_at_once(tmp_path):
    written(tmp_path, renewed=time.time() - 30)
    begun = time.monotonic()
    with pytest.raises(InputError, match="process 12 on node7"):
        Lock("run_dir", tmp_path).__enter__()
    assert time.monotonic() - begun < 1


HALF = json.dumps({"machine": lock._machine(), "renewed": "then"})


@pytest.mark.parametrize("content", [slow("{"), slow("[]"), slow('{"token": 3}'), HALF, slow("\0" * 40)])
def test_a_damaged_file_does_not_lock_for_ever(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "RENEWAL", 0.05)
    (tmp_path / lock.NAME).write_text(content)
    with Lock("run_dir", tmp_path):
        pass


def test_of_many_that_take_over_one_does(tmp_path):
    for _ in range(20):
        written(tmp_path, machine=lock._machine(), process=2**22 + 1)
        barrier, release, held, refused = threading.Barrier(8), threading.Event(), [], []

        def compete(barrier=barrier, release=release, held=held, refused=refused):
            barrier.wait()
            try:
                with Lock("run_dir", tmp_path):
                    held.append(1)
                    release.wait()
            except InputError:
                refused.append(1)

        threads = [threading.Thread(target=compete) for _ in range(8)]
        for thread in threads:
            thread.start()
        while len(held) + len(refused) < 8:
            time.sleep(0.001)
        release.set()
        for thread in threads:
            thread.join()
        assert (len(held), len(refused)) == (1, 7)
        assert list(tmp_path.iterdir()) == []


def test_who_stood_still_and_lost_it_notices_and_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEWAL", 0.02)
    with Lock("run_dir", tmp_path) as held:
        held.check()
        written(tmp_path)
        time.sleep(0.3)
        with pytest.raises(InputError, match="taken over by process 12 on node7"):
            held.check()
    assert json.loads((tmp_path / lock.NAME).read_text())["token"] == "theirs"


def test_it_is_renewed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEWAL", 0.02)
    with Lock("run_dir", tmp_path):
        first = read(tmp_path)["renewed"]
        time.sleep(0.3)
        assert read(tmp_path)["renewed"] > first


@pytest.mark.parametrize("offsets", [slow(2)])
def test_of_two_processes_in_one_directory_one_trains(tmp_path, offsets):
    """The other is refused in one line, and the log has each line once; at random offsets."""
    rng = random.Random(offsets)
    for i in range(offsets):
        run_dir = tmp_path / str(i)
        arguments = [*TINY, "--no-baseline", "--preset", "none", "--epochs", "6", "--run-dir", str(run_dir)]
        first = start(arguments)
        time.sleep(rng.uniform(0, 5))
        second = start(arguments)
        outputs = [process.communicate()[0] for process in (first, second)]
        statuses = [first.returncode, second.returncode]
        assert statuses in ([0, 2], [2, 0], [0, 0]), outputs
        for status, output in zip(statuses, outputs, strict=True):
            if status == 2:
                (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
                assert f"run_dir {run_dir} is in use by process" in line
        log = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        assert [entry["epoch"] for entry in log] == list(range(1, 7))
        assert not (run_dir / lock.NAME).exists()
