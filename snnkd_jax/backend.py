"""What depends on the machine: compiler options, the device mesh, and how arrays lie on it.

One mesh over all devices of all processes, with the axis "data" and, if it is asked for, "fsdp". Batches are split
along their first axis over both. Parameters and optimiser state are whole on every device, or divided along "fsdp"
(fully sharded data parallelism). Models never name an axis; the same code serves one device and many hosts.
"""

import collections
import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache as compilation_cache_module
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from snnkd_jax.errors import InputError

_CPU_OPTIONS = {
    # jax 0.10 sends convolutions to a library that is 2-4x slower at 64 channels; this keeps them with Eigen.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
}


@functools.cache
def compile_options(platform: str | None = None) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` that make this code fast on `platform`, by default JAX's.

    The options are experimental: they are tried once, and left out where the compiler does not know them.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=_CPU_OPTIONS).lower(0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return dict(_CPU_OPTIONS)


def quick_compile_options(platform: str | None = None) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` of a program that runs once on `platform`, by default JAX's.

    On CPU one such as that which draws a network's weights takes longer to be compiled than to run, so that it is
    compiled without optimisation. Empty on other platforms.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}


@contextlib.contextmanager
def compilation_cache(directory: Path) -> Iterator[None]:
    """Keeps compiled programs in `directory`, so that the same step is not compiled again when a run is resumed.

    A cache that the user has set up (`JAX_COMPILATION_CACHE_DIR`) is left in its place.
    """
    names = {"jax_compilation_cache_dir": str(directory), "jax_persistent_cache_min_compile_time_secs": 0.5}
    before = {name: getattr(jax.config, name) for name in names}
    if before["jax_compilation_cache_dir"] is not None:
        yield
        return
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache_module.reset_cache()  # it is opened once a process, where the first program found it
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache_module.reset_cache()


def all_devices() -> list[Any]:
    """The devices of all processes; raises `InputError` if the backend that JAX is told to use is not there."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter for a plugin without its device
        asked = os.environ.get("JAX_PLATFORMS")
        raise InputError(f"JAX_PLATFORMS={asked!r} cannot be used ({error}); unset it or name another") from error


def data_mesh(fsdp: int | None = None) -> Mesh:
    """All devices, along the axis "data", or in rows of `fsdp` along "data" and "fsdp".

    They are in the order of their processes, so that each process holds contiguous rows of a batch.

    Raises `InputError` if `fsdp` does not divide their number, or if processes have different numbers of them.
    """
    devices = np.array(sorted(all_devices(), key=lambda device: (device.process_index, device.id)))
    shares = collections.Counter(device.process_index for device in devices)
    if len(set(shares.values())) > 1:
        raise InputError(f"the processes have {', '.join(map(str, shares.values()))} devices; give each as many")
    if fsdp is None:
        return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    if fsdp < 1 or devices.size % fsdp:
        raise InputError(f"fsdp={fsdp!r} must divide the number of devices, {devices.size}")
    return Mesh(devices.reshape(-1, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same whole array on every device."""
    return NamedSharding(mesh, P())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis divided among the devices."""
    return NamedSharding(mesh, P(mesh.axis_names))


def fsdp_size(mesh: Mesh) -> int:
    """Among how many devices the state is divided; 1 if it is whole on each."""
    return mesh.shape.get("fsdp", 1)


def divided(mesh: Mesh, tree: Any) -> Any:
    """How the arrays of a state lie: each kernel along the largest axis that "fsdp" divides, all else whole.

    Vectors stay whole: they are not worth a transfer.
    """
    n = fsdp_size(mesh)

    def one(x):
        axes = [axis for axis in range(x.ndim) if x.shape[axis] % n == 0]
        if n == 1 or x.ndim < 2 or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*[None] * largest, "fsdp"))

    return jax.tree.map(one, tree)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises `InputError` unless a global batch of that size can be divided among devices and parts of a step."""
    parts = f"accumulate={accumulate} times " if accumulate > 1 else ""
    if batch_size < 1 or batch_size % (mesh.size * accumulate):
        raise InputError(
            f"batch_size={batch_size!r} must be a positive multiple of {parts}the number of devices, {mesh.size}"
        )


def process_rows(batch_size: int) -> slice:
    """The rows of a global batch that lie on the devices of this process."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts a tree of host arrays, this process's rows of a global batch, on the devices, each taking its part."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(split(mesh), x), batch)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Puts a tree of arrays whole on every device."""
    return jax.device_put(tree, replicated(mesh))


def fingerprint(tree: Any) -> jax.Array:
    """A checksum of the bits of all arrays, uint32 `[number of leaves]`: the same on any number of devices.

    Each word of a leaf is hashed together with its place (the finaliser of MurmurHash3), and the hashes are summed
    modulo 2^32, in integer arithmetic, whose result does not depend on the order of summation.
    """

    def one(x):
        x = jnp.asarray(x)
        words = x if x.dtype == jnp.uint32 else jax.lax.bitcast_convert_type(x, _UINT[x.dtype.itemsize])
        h = words.astype(jnp.uint32).ravel()
        h = h + jnp.arange(1, h.size + 1, dtype=jnp.uint32) * np.uint32(0x9E3779B9)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            h = (h ^ (h >> shift)) * np.uint32(factor)
        return jnp.sum(h, dtype=jnp.uint32)

    return jnp.stack([one(x) for x in jax.tree.leaves(tree)])


_UINT = {np.dtype(d).itemsize: d for d in (np.uint8, np.uint16, np.uint32)}
