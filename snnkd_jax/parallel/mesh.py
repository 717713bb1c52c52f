"""The device mesh, and the sharding of arrays on it.

One mesh over all devices of all processes, with the axis "data" and, optionally, "fsdp". Batches are sharded along
their first axis over both. Parameters and optimiser state are replicated, or sharded along "fsdp" (fully sharded data
parallelism). Models never name an axis.
"""

import collections
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from snnkd_jax.errors import InputError
from snnkd_jax.parallel.devices import all_devices


def data_mesh(fsdp: int | None = None) -> Mesh:
    """All devices along the axis "data", or in rows of `fsdp` along "data" and "fsdp".

    In the order of their processes, so that each holds contiguous rows of a batch. Raises `InputError` if `fsdp` does
    not divide their number, or if processes have different numbers of them.
    """
    devices = np.array(sorted(all_devices(), key=lambda device: (device.process_index, device.id)))
    counts = collections.Counter(device.process_index for device in devices).values()
    if len(set(counts)) > 1:
        raise InputError(f"the processes have {', '.join(map(str, counts))} devices; give each as many")
    if fsdp is None:
        return Mesh(devices, ("data",), axis_types=(AxisType.Auto,))
    if fsdp < 1 or devices.size % fsdp:
        raise InputError(f"fsdp={fsdp!r} must divide the number of devices, {devices.size}")
    return Mesh(devices.reshape(-1, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is whole on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: the first axis over all devices."""
    return NamedSharding(mesh, P(mesh.axis_names))


def state_sharding(mesh: Mesh, tree: Any) -> Any:
    """The sharding of a state: kernels along the largest axis that "fsdp" divides; vectors and the rest replicated."""
    n = mesh.shape.get("fsdp", 1)

    def one(x):
        axes = [axis for axis in range(x.ndim) if x.shape[axis] % n == 0]
        if n == 1 or x.ndim < 2 or not axes:
            return replicated(mesh)
        largest = max(axes, key=lambda axis: x.shape[axis])
        return NamedSharding(mesh, P(*[None] * largest, "fsdp"))

    return jax.tree.map(one, tree)


def check_batch_size(batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises `InputError` unless a global batch can be divided among the devices and the micro-batches of a step."""
    parts = f"accumulate={accumulate} times " if accumulate > 1 else ""
    if batch_size < 1 or batch_size % (mesh.size * accumulate):
        raise InputError(
            f"batch_size={batch_size!r} must be a positive multiple of {parts}the number of devices, {mesh.size}"
        )


def process_rows(batch_size: int) -> slice:
    """The rows of a global batch on the devices of this process."""
    share, i = batch_size // jax.process_count(), jax.process_index()
    return slice(i * share, (i + 1) * share)


def put_batch(mesh: Mesh, batch: Any) -> Any:
    """Puts this process's rows of a global batch, a tree of host arrays, on the devices, sharded."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(batch_sharding(mesh), x), batch)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
    """Puts a tree of arrays on every device."""
    return jax.device_put(tree, replicated(mesh))
