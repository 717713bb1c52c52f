"""Runs that are killed or told to stop, and go on. Crashes and signals are real, on real processes."""

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from host_failures import arrays, logged
from tiny_runs import TINY, start

from snnkd_jax.training.interrupt import SCHEDULER_SIGNALS

STOPPING = (signal.SIGTERM, signal.SIGINT, *SCHEDULER_SIGNALS)

LONG = [
    *TINY,
    "--no-baseline",
    "--preset",
    "kdsnn",
    "--epochs",
    "7",
    "--teacher-epochs",
    "3",
    "--checkpoint-every",
    "11",  # does not divide the 20 steps of an epoch: the log may be ahead of the checkpoint
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    process = start([*LONG, "--run-dir", str(run_dir)])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return run_dir


@pytest.fixture(autouse=True)
def signals_act():
    """Started by `nohup` or in the background, the tests would pass on that signals are ignored."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in (number for number, handler in before.items() if handler == signal.SIG_IGN):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


MOMENTS = ("", "run directory", "teacher: epoch 2/", "teacher: epoch 3/", "student: epoch 1/", "student: epoch 7/")
"""What is printed just before: nothing (imports), data and compilation, the epochs, the next network, the report."""


def stopped_at_random(rng: random.Random, arguments: list[str]) -> None:
    """A process gets a signal at a random moment, and perhaps a second one while it saves; checks how it ends."""
    numbers = [rng.choice(STOPPING), *([rng.choice(STOPPING)] if rng.random() < 0.3 else [])]
    moment, delay = rng.choice(MOMENTS), rng.uniform(0, 1.5)
    with start(arguments) as process:
        assert process.stdout is not None
        output = ""
        while moment not in output and process.poll() is None:
            output += process.stdout.readline()
        time.sleep(delay)
        for number in numbers:
            process.send_signal(number)
            time.sleep(rng.uniform(0, 0.2))
        output += process.stdout.read()
    case = f"{[n.name for n in numbers]} {delay:.2f} s after {moment!r}: status {process.returncode}, {output[-1500:]}"
    killed = {-number for number in numbers}  # while it starts, as it exits, or by a second one
    assert process.returncode in {0, 130} | killed, case
    if moment and len(numbers) == 1:
        assert process.returncode == 0 or numbers == [signal.SIGINT] or "%" in output, case
        assert "saved" in output or "stopped before" in output or "%" in output, case


def assert_same_run(run_dir: Path, expected: Path) -> None:
    """Every parameter, statistic and momentum bit for bit; the same result."""
    for phase in ("teacher", "student"):
        for a, b in zip(arrays(run_dir, phase), arrays(expected, phase), strict=True):
            np.testing.assert_array_equal(a, b)
    results = [json.loads((path / "result.json").read_text()) for path in (run_dir, expected)]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]
    steps = [(entry["phase"], entry["step"], entry["validation"]["loss"]) for entry in logged(run_dir)]
    assert steps == [(entry["phase"], entry["step"], entry["validation"]["loss"]) for entry in logged(expected)]


@pytest.mark.slow
def test_killed_twice_and_resumed_is_bit_identical(uninterrupted, tmp_path):
    """SIGKILL a random time after training has started; then to the end."""
    run_dir = tmp_path / "killed"
    rng = random.Random(0)
    for _ in range(2):
        process = start([*LONG, "--run-dir", str(run_dir)])
        assert process.stdout is not None
        for line in process.stdout:
            if ": epoch" in line:
                break
        time.sleep(rng.uniform(0, 0.4))
        assert process.poll() is None, "the run is too short to be killed twice"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start([*LONG, "--run-dir", str(run_dir)])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_same_run(run_dir, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_signals_at_random_moments_cost_nothing(uninterrupted, tmp_path, seed):
    rng = random.Random(seed)
    arguments = [*LONG, "--run-dir", str(tmp_path / "signalled")]
    for _ in range(2):
        stopped_at_random(rng, arguments)
    process = start(arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert_same_run(tmp_path / "signalled", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal_saves_and_the_same_command_goes_on(uninterrupted, tmp_path, monkeypatch, number, status):
    """Nothing is recomputed: the resumed run starts at the step at which the first one stopped.

    One of the two runs compiles for itself, and keeps its programs.
    """
    run_dir = tmp_path / "stopped"
    compiles = number == signal.SIGTERM
    if compiles:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    arguments = [*LONG, "--run-dir", str(run_dir)]
    process = start(arguments)
    assert process.stdout is not None
    for line in process.stdout:
        if "student: epoch 3/" in line:
            break
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == status, output
    stopped = int(output.split("student: stopped at step ")[1].split()[0])
    process = start(arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert f"student: resumed at step {stopped} of" in output
    assert_same_run(run_dir, uninterrupted)
    assert (run_dir / "compilation-cache").exists() == compiles
