"""Accelerators: their published figures, and devices for ahead-of-time compilation without the hardware.

| chip   | peak, TFLOP/s | memory    | bandwidth, GB/s     | links, GB/s | source                              |
| ------ | ------------- | --------- | ------------------- | ----------- | ----------------------------------- |
| `v4`   | 275           | 32 GiB    | 1200                | 300         | docs.cloud.google.com/tpu/docs/v4   |
| `v5e`  | 197           | 16 GB     | 819                 | 200         | docs.cloud.google.com/tpu/docs/v5e  |
| `v5p`  | 459           | 95 GB     | 2765                | 600         | docs.cloud.google.com/tpu/docs/v5p  |
| `v6e`  | 918           | 32 GB     | 1638                | 400         | docs.cloud.google.com/tpu/docs/v6e  |
| `a100` | 312           | 80 GB     | 2039                | 300         | NVIDIA A100 80GB SXM data sheet     |
| `h100` | 989           | 80 GB     | 3352                | 450         | NVIDIA H100 80GB SXM data sheet     |

Peaks are for dense bfloat16 matrix products with float32 accumulation. TPUs compute float32 convolutions at that
precision by default; GPUs in TF32, at half the speed. Links are the sum over all links of a chip, in one direction.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from snnkd_jax.errors import InputError, check_choice


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures in FLOP/s, bytes and bytes per second; `target` is the compiler's description of a GPU."""

    flops: float
    memory: float
    bandwidth: float
    links: float
    target: str | None = None


_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 shared_memory_per_block: 49152
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 {}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{}"
"""
"""The fields of a `GpuTargetConfigProto` that XLA requires, as a template for the values that differ between GPUs."""

_A100 = """
  core_count: 108 fpus_per_core: 64 clock_rate_ghz: 1.41 l2_cache_size: 41943040 memory_bandwidth: 2039040000000
  device_memory_size: 85100068864 shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912
  cuda_compute_capability { major: 8 }
"""
_H100 = """
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800 memory_bandwidth: 3352320000000
  device_memory_size: 84942979072 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
"""

CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1200e9, 300e9),
    "v5e": Chip(197e12, 16e9, 819e9, 200e9),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9),
    "v6e": Chip(918e12, 32e9, 1638e9, 400e9),
    "a100": Chip(312e12, 80e9, 2039e9, 300e9, _GPU.format(_A100, "NVIDIA A100-SXM4-80GB")),
    "h100": Chip(989e12, 80e9, 3352e9, 450e9, _GPU.format(_H100, "NVIDIA H100 80GB HBM3")),
}

# Variables that libtpu requires on a machine without a TPU.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(topology: str) -> tuple[Chip, Sequence[Any]]:
    """The chip of a topology, and its devices, one per chip, for compilation only.

    `topology` is a TPU slice such as "v5e:16x16" or "v5p:2x2x2", or GPUs of one machine, "h100:8" ("h100": one). JAX's
    own platform must be the CPU (`jax_platforms`). Missing environment variables of libtpu are set. Raises `InputError`
    for an unknown chip or an impossible shape, or if the compiler is not installed.
    """
    name, _, shape = topology.partition(":")
    check_choice("topology", name, CHIPS)
    chip = CHIPS[name]
    shape = shape or ("1" if chip.target else "")
    if not (shape.isdigit() if chip.target else all(n.isdigit() for n in shape.split("x"))):
        example = "8" if chip.target else "2x2" if name.endswith("e") else "2x2x1"
        raise InputError(f"topology={topology!r} must name the chips, such as {name}:{example}")
    try:
        if chip.target:
            description = topologies.get_topology_desc(name, "cuda", target_config=chip.target, topology=f"1x1x{shape}")
            return chip, description.devices
        for variable, value in _TPU_ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        # The two cores of a v4 chip are one device, as on the hardware.
        options: dict[str, Any] = {"chip_config_name": "megacore"} if name == "v4" else {}
        return chip, topologies.get_topology_desc(topology, "tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"topology={topology!r} is refused by the compiler: {error}") from error
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"topology={topology!r} needs a compiler that is missing; pip install -e '.[plan]'") from error
