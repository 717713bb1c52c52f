"""Devices: GPUs that are there and idle, and why a platform cannot be used. There are none here: they are imitated."""

import dataclasses
import subprocess
import sys

import jax
import pytest
from representative import slow

from snnkd_jax.errors import InputError
from snnkd_jax.parallel import devices
from snnkd_jax.parallel.devices import all_devices, idle_gpus


@dataclasses.dataclass
class Device:
    platform: str
    local_hardware_id: int


@pytest.fixture
def machine(monkeypatch):
    """A function that imitates the devices that JAX has in this process, of how many processes, and what it is told."""

    def imitated(used: list[int], processes: int = 1, platforms: str | None = None, platform: str = "gpu") -> None:
        local = [Device("gpu", i) for i in used] or [Device("cpu" if platform == "gpu" else platform, 0)]
        monkeypatch.setattr(jax, "local_devices", lambda: local)
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        jax.config.update("jax_platforms", platforms)

    before = devices._asked()
    yield imitated
    jax.config.update("jax_platforms", before)


ALL = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}


@pytest.mark.parametrize(
    ("used", "processes", "environment", "told"),
    [
        ([0], 1, ALL, ["CUDA_VISIBLE_DEVICES=0,1,2,3", "uses 1 (not 1, 2, 3)", "--distributed False"]),
        ([2], 1, {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c"}, ["uses 1 (not GPU-a, GPU-b)"]),
        ([1], 1, {"ROCR_VISIBLE_DEVICES": "4,5"}, ["ROCR_VISIBLE_DEVICES=4,5", "uses 1 (not 4)"]),
        ([1], 2, ALL | {"SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, ["uses 1", "srun --ntasks-per-node"]),
        ([0], 2, {"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "gpu:a100:2"}, ["uses 1"]),
        ([], 1, ALL, ["uses 0, as JAX runs on cpu", "JAX_PLATFORMS=cuda says what is missing"]),
        ([], 1, {"HIP_VISIBLE_DEVICES": "0"}, ["uses 0, as JAX runs on cpu", "JAX_PLATFORMS=rocm"]),
    ],
)
def test_idle_gpus_are_named(machine, used, processes, environment, told):
    machine(used, processes)
    warning = idle_gpus(environment)
    assert warning is not None
    for words in told:
        assert words in warning


@pytest.mark.parametrize(
    ("used", "processes", "environment"),
    [
        ([0, 1, 2, 3], 1, ALL),
        ([1], 4, ALL | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}),
        ([0], 4, {"CUDA_VISIBLE_DEVICES": "3", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_GPUS_PER_TASK": "1"}),
        ([0], 2, {"CUDA_VISIBLE_DEVICES": "0,1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}),
        ([], 1, {"CUDA_VISIBLE_DEVICES": ""}),
        ([], 1, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}),
        ([], 1, {"CUDA_VISIBLE_DEVICES": "-1"}),
    ],
)
def test_nothing_is_said_where_all_are_used(machine, used, processes, environment):
    machine(used, processes)
    assert idle_gpus(environment) is None


@pytest.mark.parametrize(("platforms", "platform"), [("cpu", "gpu"), (None, "tpu"), ("cpu", "cpu")])
def test_nothing_is_said_of_gpus_that_were_not_asked_for(machine, platforms, platform):
    machine([], platforms=platforms, platform=platform)
    assert idle_gpus(ALL) is None


UNKNOWN = "Unable to initialize backend {!r}: Backend {!r} is not in the list of known backends: ['cpu', 'tpu']."
CUDA = ["jax_cuda12_plugin"]


@pytest.mark.parametrize(
    ("asked", "error", "installed", "told"),
    [
        ("cuda", AssertionError(), [], ["'cuda'", "pip install -U 'snnkd-jax[cuda]'"]),
        ("cuda", AssertionError(), CUDA, ["no NVIDIA GPU can be used", "no driver", "nvidia-smi"]),
        ("cuda", RuntimeError("Unable to initialize backend 'cuda': CUDA_ERROR_NO_DEVICE"), CUDA, ["ERROR_NO_DEVICE"]),
        ("gpu", RuntimeError(UNKNOWN.format("rocm", "rocm")), [], ["'gpu'", "snnkd-jax[cuda]"]),
        ("tpu", RuntimeError("Unable to initialize backend 'tpu': no libtpu.so"), [], ["snnkd-jax[tpu]"]),
        ("tpu", RuntimeError("Unable to initialize backend 'tpu': no TPU found"), ["libtpu"], ["no TPU found"]),
        ("rocm", RuntimeError(UNKNOWN.format("rocm", "rocm")), CUDA, ["plugin for rocm is not installed"]),
        ("METAL", RuntimeError(UNKNOWN.format("METAL", "METAL")), [], ["plugin for METAL is not installed"]),
        ("cdua", RuntimeError(UNKNOWN.format("cdua", "cdua")), [], ["'cdua' is no platform", "mean cuda?"]),
        ("CPU", RuntimeError(UNKNOWN.format("CPU", "CPU")), [], ["'CPU' is no platform", "mean cpu?"]),
        ("cpu, cuda", RuntimeError(UNKNOWN.format(" cuda", " cuda")), [], ["' cuda' is no platform", "without spaces"]),
        (
            "cpu,abacus",
            RuntimeError(UNKNOWN.format("abacus", "abacus")),
            [],
            ["'abacus' is no platform; name"],
        ),
        (None, RuntimeError("Unable to initialize backend 'cuda': old driver"), CUDA, ["old driver", "PLATFORMS=cpu"]),
    ],
)
def test_what_is_missing_is_said(machine, monkeypatch, asked, error, installed, told):
    def fail():
        raise error

    machine([], platforms=asked)
    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: name if name in installed else None)
    with pytest.raises(InputError) as refused:
        all_devices()
    for words in told:
        assert words in str(refused.value)
    assert "()" not in str(refused.value)


@pytest.mark.parametrize("asked", ["cdua", slow("cuda"), slow("gpu"), slow("tpu"), slow("rocm,cpu"), slow("Cpu")])
def test_jax_raises_what_is_imitated_here(asked):
    program = f"import jax; jax.config.update('jax_platforms', {asked!r})\n"
    program += "from snnkd_jax.parallel.devices import all_devices; all_devices()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"InputError: JAX_PLATFORMS={asked!r} cannot be used: " in done.stderr
    assert "()" not in done.stderr.splitlines()[-1]
