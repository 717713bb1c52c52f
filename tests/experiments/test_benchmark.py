"""The benchmark runs and prints, and counts operations and parameters right; times are never checked."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import benchmark as script
import jax
import pytest
from peers import LIBRARIES, workload
from peers.settings import Settings

from snnkd_jax.errors import InputError
from snnkd_jax.models import build

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def benchmark(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(EXPERIMENTS / "benchmark.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_quick_measures_and_prints():
    done = benchmark("--quick", "--threads", "1", "--libraries", "snnkd_jax", "--tasks", "kd-rate", "inference")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[:4] for line in done.stdout.splitlines() if line.startswith("vgg11")]
    expected = [("inference", "snnkd_jax"), ("kd-rate", "snnkd_jax")]
    assert sorted(rows) == sorted(["vgg11", "2", task, library] for task, library in expected)
    assert "GFLOP/s" in done.stdout


@pytest.mark.slow
def test_wrong_input_is_told_in_one_line():
    for arguments, told in (
        (("--libraries", "spikinjelly"), "did you mean spikingjelly"),
        (("--tasks", "training"), "task 'training'"),
        (("--num-steps", "0"), "num_steps=(0,)"),
    ):
        done = benchmark(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_named_library_that_is_absent_is_refused(monkeypatch):
    absent = dataclasses.replace(LIBRARIES["norse"], packages=("no_such_package",), install="pip x")
    monkeypatch.setitem(LIBRARIES, "norse", absent)
    with pytest.raises(InputError, match=r"'norse' is not installed; run pip x"):
        Settings(libraries=("norse",), threads=1).resolved()
    found = Settings(threads=1).resolved().libraries or ()
    assert "snnkd_jax" in found
    assert "norse" not in found


@pytest.mark.parametrize("model", ["resnet18", "vgg11", "airbench94"])
def test_operations_by_the_shapes_of_the_kernels(model):
    """Multiplications of a kernel: its size times the positions of the map that it makes, from this library's network.

    A stage's map halves with its number, and the head makes one position. A stage of airbench94 halves its own map
    between its two convolutions.
    """
    network = build(model, 10, width=0.25)
    shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, 3)))["params"]
    expected = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        layer, kind = path[0].key, path[-1].key
        if kind == "kernel":
            stage = int(next((c for c in layer if c.isdigit()), "1"))
            halved = stage - 1 + (model == "airbench94" and layer.endswith("_2"))
            expected += leaf.size * (1 if layer == "head" else (32 // 2**halved) ** 2)
    assert sum(workload.multiplications(model, 0.25)) == expected
    stem, rest = workload.multiplications(model, 0.25)
    assert workload.step_flops("inference", model, 4, 0.25, 2, stem_steps=1) == 2 * 2 * (stem + 4 * rest)
    assert workload.step_flops("train", model, 4, 0.25, 2, stem_steps=4) == 2 * 2 * 4 * (2 * stem + 3 * rest)
    assert workload.step_flops("rate", model, 4, 0.25, 2, stem_steps=1) == 2 * 2 * (2 * stem + 6 * rest)
    assert workload.step_flops("kd", model, 1, 0.25, 2, stem_steps=1) == 2 * 2 * (3 * stem + 4 * rest)


def test_command_names_what_is_not_default():
    settings = Settings(tasks=("train", "rate"), num_steps=(1, 2), huge_pages=False, record="x")
    assert (
        script.command(settings) == "python experiments/benchmark.py --tasks train rate --num-steps 1 2 --no-huge-pages"
    )
