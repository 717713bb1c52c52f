"""The benchmark runs and prints, and counts operations and parameters right; times are never checked."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import benchmark as script
import jax
import jax.numpy as jnp
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from peers import LIBRARIES, rounds, snnkd_net, workload
from peers.settings import Settings
from peers.workload import Workload
from records.speed import benchmark_tables

from snnkd_jax.errors import InputError
from snnkd_jax.models import build

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def benchmark(*arguments: str) -> subprocess.CompletedProcess:
    """A process that sees no GPU, on every machine."""
    command = [sys.executable, str(EXPERIMENTS / "benchmark.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    )


@pytest.mark.slow
def test_wrong_input_is_told_in_one_line():
    for arguments, told in (
        (("--libraries", "spikinjelly"), "did you mean spikingjelly"),
        (("--tasks", "training"), "task 'training'"),
        (("--num-steps", "0"), "num_steps=(0,)"),
        (("--device", "gpu"), "device='gpu': JAX sees no NVIDIA GPU"),
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

    def flops(task: str, num_steps: int, stem_steps: int) -> int:
        return workload.step_flops(Workload(task, model, num_steps, 0.25, 2), stem_steps)

    assert flops("inference", 4, stem_steps=1) == 2 * 2 * (stem + 4 * rest)
    assert flops("train", 4, stem_steps=4) == 2 * 2 * 4 * (2 * stem + 3 * rest)
    assert flops("rate", 4, stem_steps=1) == 2 * 2 * (2 * stem + 6 * rest)
    assert flops("integer", 4, stem_steps=1) == 2 * 2 * (2 * stem + 3 * rest)
    assert flops("kd", 1, stem_steps=1) == 2 * 2 * (3 * stem + 4 * rest)
    assert flops("kd-integer", 8, stem_steps=1) == 2 * 2 * (3 * stem + 4 * rest)


@pytest.mark.slow
def test_integer_steps_are_those_of_a_quantised_ann():
    """From rest, D levels in one step are QCFS with L = D and the threshold D: the same loss of the same weights."""
    work = Workload("integer", "vgg11", 3, 0.125, 4)
    step = snnkd_net.make_step(work)
    step.run(1)
    network_key, _ = jax.random.split(jax.random.key(0))  # as `Trainer.init` draws them
    ann = build("vgg11", 10, levels=3, width=0.125)
    variables = ann.init(network_key, (32, 32, 3))
    params: dict[tuple[str, ...], jax.Array] = flatten_dict(variables["params"])  # pyright: ignore[reportAssignmentType]
    params |= {path: jnp.full_like(x, 3) for path, x in params.items() if path[-1] == "threshold"}
    images, labels = workload.batch(4)
    variables = {**variables, "params": unflatten_dict(params)}
    (logits, _), _ = jax.jit(ann.apply_train)(variables, workload.normalised(images))
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert step.losses == pytest.approx([float(expected)], rel=1e-4)
    assert step.parameters == sum(x.size for path, x in params.items() if path[-1] != "threshold")
    assert step.stem_steps == 1


def test_command_names_what_is_not_default():
    settings = Settings(tasks=("train", "rate"), num_steps=(1, 2), huge_pages=False, record="x")
    assert (
        script.command(settings) == "python experiments/benchmark.py --tasks train rate --num-steps 1 2 --no-huge-pages"
    )


def test_workers_of_a_gpu_leave_its_memory_to_the_others(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "x")
    cpu, gpu = (rounds.worker_environment(Settings(device=device)) for device in ("cpu", "gpu"))
    assert (cpu["JAX_PLATFORMS"], cpu["GLIBC_TUNABLES"]) == ("cpu", rounds.HUGE_PAGES)
    assert (gpu["JAX_PLATFORMS"], gpu["XLA_PYTHON_CLIENT_PREALLOCATE"]) == ("cuda", "false")
    assert "GLIBC_TUNABLES" not in gpu


@pytest.mark.parametrize(("printed", "expected"), [("1000", 1000 * 2**20), ("[N/A]", None)])
def test_free_memory_is_that_of_the_gpu_in_use(tmp_path, monkeypatch, printed, expected):
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" = --id=3 ] && echo "{printed}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert rounds.available_memory("gpu") == expected


def test_what_there_is_no_time_for_is_listed():
    libraries, tasks = ("snnkd_jax", "naive-jax"), ("train", "rate")
    settings = Settings(tasks, ("vgg11",), libraries, num_steps=(2, 4), width=0.125, minutes=1e-9)
    measured = rounds.Benchmark(settings)
    measured.run()
    found = [(e["library"], e["task"], e["num_steps"]) for e in measured.left_out]
    each = [("snnkd_jax", "train"), ("naive-jax", "train"), ("snnkd_jax", "rate")]
    assert found == [(*pair, num_steps) for num_steps in (2, 4) for pair in each]
    assert measured.entries == []


class FakeGPUs:
    """What stands for `jax` on a machine with GPUs: it remembers the platform."""

    def __init__(self):
        self.config, self.platform = self, None

    def update(self, _, platform):
        self.platform = platform

    def devices(self):
        return []


def test_one_gpu_is_used_and_pytorch_must_see_it(monkeypatch):
    gpus = FakeGPUs()
    torch = types.SimpleNamespace(__version__="2.13.0+cpu", cuda=types.SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(script, "jax", gpus)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(InputError, match=r"device='gpu': PyTorch 2\.13\.0\+cpu sees no GPU for norse; install"):
        script.check_device(Settings(device="gpu", libraries=("snnkd_jax", "norse")))
    assert (gpus.platform, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda", "4")
    script.check_device(Settings(device="gpu", libraries=("snnkd_jax",)))


@pytest.mark.peers
def test_bfloat16(tmp_path, monkeypatch):
    """The loss is near that of float32, and not the same; record and page say what every library was given."""
    libraries = tuple(name for name in ("snnkd_jax", "spikingjelly") if LIBRARIES[name].installed)
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    tasks, losses = ("train",), {}
    for dtype in ("float32", "bfloat16"):
        assert script.main(Settings(tasks, libraries=libraries, dtype=dtype, threads=1, quick=True, record=dtype)) == 0
        record = json.loads((tmp_path / f"{dtype}.json").read_text())
        losses[dtype] = {(e["library"], e["task"]): e["losses"][0] for e in record["entries"]}
    assert losses["float32"].keys() == losses["bfloat16"].keys() == set(itertools.product(libraries, tasks))
    single, half = (losses[dtype]["snnkd_jax", "train"] for dtype in ("float32", "bfloat16"))  # of the same weights
    assert half == pytest.approx(single, rel=0.1)
    assert half != single
    assert record["settings"]["dtype"] == "bfloat16"
    assert "bfloat16 convolutions and head" in record["flags"]["snnkd_jax"]
    page = benchmark_tables([record])
    assert "| vgg11, batch 4 | 2 | snnkd_jax |" in page
    assert "width 0.125, bfloat16, on" in page
    for library, flags in record["flags"].items():
        assert f" {library}: {', '.join(flags)}." in page


@pytest.mark.slow
def test_the_script_for_a_gpu_in_small_on_cpu():
    command = ["sh", str(EXPERIMENTS / "gpu.sh"), "--tiny"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env=os.environ | {"PYTHON": sys.executable}
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("vgg11")]
    expected = [["1", "x", "2", "integer", "snnkd_jax"], ["2", "inference", "snnkd_jax"]]
    for words in expected:
        assert [row[1 : len(words) + 1] for row in rows].count(words) == 2  # in float32 and bfloat16
    assert "float32 matrix product" in done.stdout
    assert "bfloat16 matrix product" in done.stdout
    assert "images/s" in done.stdout + done.stderr
    assert "test accuracy" in done.stdout
