"""Trained spiking networks to and from files of NIR, the exchange format of neuromorphic tools.

Written, and read from any program:

| layer           | node        | what is written                                                                    |
| --------------- | ----------- | ---------------------------------------------------------------------------------- |
| the image       | `Input`     | `[C, H, W]`, normalised; a static image is the same at every step                  |
| convolution     | `Conv2d`    | weights `[C_out, C_in / groups, kh, kw]` and bias, batch norm folded in            |
| dense           | `Affine`    | weights `[N_out, N_in]` and bias; `N_in` in the order C, H, W after `Flatten`      |
| LIF and PLIF    | `LIF`       | tau_NIR = tau dt, v_leak = v_reset, R = 1, or R = tau with `decay_input=False`     |
| IF              | `IF`        | R = 1 / dt                                                                         |
| average pooling | `AvgPool2d` | global pooling over the whole map, then `Flatten`                                  |
| flattening      | `Flatten`   |                                                                                    |
| a sum           |             | edges of several nodes into one                                                    |
| logits          | `Output`    | one read-out per step; the prediction is their mean over T steps                   |

Read as well, and written again:

| node                        | what is read                                                                       |
| --------------------------- | ---------------------------------------------------------------------------------- |
| `Input`, `Output`           | `[C, H, W]`, `[C, L]` as a map `(1, L, C)`, or `[N]`; a batch of one is left out   |
| `Conv1d`                    | as `Conv2d` on a map of height 1                                                   |
| `Conv1d`, `Conv2d`          | groups, dilation, padding "valid", and "same" at stride 1                          |
| `Linear`                    | as `Affine` without bias                                                           |
| `Scale`                     | the product                                                                        |
| `SumPool2d`                 | the sum of each window                                                             |
| `Flatten`                   | of the whole map, the batch counted or not                                         |
| `LIF`, `IF`                 | tau >= dt; any R, v_leak and v_reset below v_threshold                             |
| `LI`, `I`                   | the potential after each step                                                      |
| `Threshold`                 | 1 where x > threshold                                                              |
| `Delay`                     | of 0                                                                               |
| `NIRGraph`                  | a subgraph with one Input and one Output; its nodes are called "subgraph.node"     |

Constants of neurons and scales are one for all, `()` or `(1,)`, one per channel, `(C,)` or `(C, 1, 1)`, or one per
neuron. `CubaLIF` and `CubaLI`, other delays, cycles, several inputs or outputs, and nodes that are not between input
and output are refused, by name and with the reason.

One Euler step dt of tau_NIR dv/dt = (v_leak - v) + R x is the charge of `snnkd_jax.dynamics.neurons`, or, with other
constants, of `snnkd_jax.interop.euler`. Where NIR leaves it open, potentials start from v_leak (for `IF` from v_reset,
for `I` from 0), and h = v_threshold fires, as in SpikingJelly (NIR writes h > v_threshold, as is read of `Threshold`).
NIR has neither soft reset nor max pooling; networks with those are refused. A file without dt is read as
`snnkd_jax.interop.nir_dt` says.

The metadata of the graph are `dt` in seconds, `num_steps`, `input_coding` if static images are coded as spikes, and, if
given, the normalisation of the pixels in [0, 1], `pixel_mean` and `pixel_std`, `[C]`, which cannot be folded into the
first convolution: its padding of zeros comes after the normalisation.

HDF5 does not detect a changed weight, and may not return from a damaged file. So a file starts with a block of 512
bytes, which HDF5 skips as a "user block", with the SHA-256 of the rest, which is checked before anything else is read.
Files of other programs, which lack it, are read without the check.

Source: Pedersen et al., Nature Communications 2024, 15:8122; the package `nir` 1.0.8.
"""

import dataclasses
import functools
import io
import math
import numbers
import operator
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.files import write_atomically
from snnkd_jax.interop.graph import to_network
from snnkd_jax.interop.tracing import trace_graph
from snnkd_jax.models import Network, Variables

try:
    import h5py
    import nir

    from snnkd_jax.interop.hdf5 import read_tree
    from snnkd_jax.interop.nir_dt import DT
    from snnkd_jax.interop.nir_graph import from_nir, to_nir
except ModuleNotFoundError as error:
    raise InputError("files of NIR need the package nir: pip install 'snnkd-jax[nir]'") from error

_BLOCK = 512
_HEADER = b"snnkd_jax NIR file; SHA-256 of what follows these 512 bytes: "
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class NirNetwork:
    """The content of a file: a network and its variables, the `[H, W, C]` of its images, and their normalisation.

    A graph on vectors `(N,)` takes images `[1, 1, N]`, one on sequences `(C, L)` images `[1, L, C]`. `normalisation` is
    None if the file has none. `dt` is the seconds per time step for which its neurons were read.
    """

    network: Network
    variables: Variables
    image_shape: tuple[int, int, int]
    normalisation: Normalisation | None
    dt: float


def write_nir(
    path: str | Path,
    network: Network,
    variables: Variables,
    image_shape: tuple[int, int, int],
    *,
    normalisation: Normalisation | None = None,
    dt: float = DT,
    old_readers: bool = False,
) -> nir.NIRGraph:
    """Writes a trained spiking network atomically to a file, usually `*.nir`, and returns the graph.

    Args:
        network, variables, image_shape: trained, and `[H, W, C]` of its images; batch norms are folded.
        normalisation: of the pixels; the network takes normalised images.
        dt: seconds per time step.
        old_readers: leave out `v_reset`, which must be 0, for tools that depend on nir <= 1.0.4 (sinabs, Rockpool) and
            cannot read it. In that version neurons subtract the threshold: set the reset to 0 there.

    Raises:
        InputError: for a network that NIR cannot express, with what to use instead, weights that are not finite, or a
            path that cannot be written.
    """
    _check_dt(dt)
    if network.num_steps is None:
        raise InputError("NIR is for spiking networks, and this is an ANN; export a student")
    if network.frames is not None:
        raise InputError(
            "this network sees the mean of its frames, and NIR networks one frame per step; export another"
        )
    graph = trace_graph(network, variables, image_shape)
    metadata: dict[str, Any] = {"dt": dt, "num_steps": network.num_steps}
    if network.coding != "direct":
        metadata["input_coding"] = network.coding
    if normalisation is not None:
        metadata |= {f"pixel_{name}": np.array(x) for name, x in dataclasses.asdict(normalisation).items()}
    written = to_nir(graph, dt, metadata)
    content = io.BytesIO()
    nir.write(content, written)  # pyright: ignore[reportArgumentType]
    if old_readers:
        _without_v_reset(content)
    try:
        write_atomically(Path(path), _block(content.getvalue()) + content.getvalue())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name another") from error
    return written


def read_nir(path: str | Path, *, dt: float | None = None, num_steps: int | None = None) -> NirNetwork:
    """Reads a network of the nodes in the table above, written by this or another program.

    Args:
        dt, num_steps: seconds per time step, and T; None takes those of the file, for dt otherwise that of
            `snnkd_jax.interop.nir_dt`, with a warning unless it is `DT`.

    Raises:
        InputError: naming the file and the node, for a file that is damaged or not NIR, an unknown node, shapes that do
            not fit, edges without a node, a cycle, weights that are not finite, or a dt or T that is neither given nor
            in the file.
    """
    for check, given in ((_check_dt, dt), (functools.partial(check_count, "num_steps"), num_steps)):
        if given is not None:
            check(given)
    content = _read(Path(path))
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            tree = read_tree(file["node"])
        metadata = _metadata(tree.get("metadata", {}))
        num_steps = metadata.get("num_steps") if num_steps is None else num_steps
        if num_steps is None:
            raise InputError("it does not say how many time steps the network makes; give num_steps")
        known = metadata.get("dt") if dt is None else dt
        graph, dt = from_nir(tree, known if known is None else _check_dt(known))
        network, variables = to_network(graph, num_steps)
        network = dataclasses.replace(network, coding=metadata.get("input_coding", "direct"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # HDF5 and the package have their own
        raise InputError(f"{path} is damaged, or no file of NIR ({type(error).__name__}: {error})") from error
    if known is None and dt != DT:
        only = f"{path} does not say how long its time steps are; dt={dt:g} s is the only one at which its neurons"
        warnings.warn(f"{only} weigh their input by 1 or 1 / tau, and is taken; give dt if it is another", stacklevel=2)
    return NirNetwork(network, variables, graph.image_shape, metadata.get("normalisation"), dt)


def _check_dt(dt: Any) -> float:
    if not isinstance(dt, numbers.Real) or not 0 < float(dt) < math.inf:
        raise InputError(f"dt={dt!r} must be the seconds per time step, such as {DT:g}")
    return float(dt)


def _metadata(found: Any) -> dict[str, Any]:
    """`dt`, `num_steps`, `input_coding` and `normalisation`, as far as a file has them."""
    kinds = {"dt": float, "num_steps": operator.index, "input_coding": _text}
    try:
        metadata: dict[str, Any] = {name: kind(found[name]) for name, kind in kinds.items() if name in found}
        if "pixel_mean" in found:
            mean, std = (tuple(map(float, found[name])) for name in ("pixel_mean", "pixel_std"))
            if len(mean) != len(std) or not all(map(math.isfinite, mean)) or not all(0 < x < math.inf for x in std):
                raise ValueError(f"pixel_mean {mean}, pixel_std {std}")
            metadata["normalisation"] = Normalisation(mean, std)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"its metadata are damaged ({type(error).__name__}: {error})") from error
    return metadata


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _without_v_reset(file: io.BytesIO) -> None:
    """Deletes the datasets `v_reset`; raises `InputError` if one is not 0."""
    with h5py.File(file, "r+") as opened:
        for name, node in opened["node/nodes"].items():  # pyright: ignore[reportAttributeAccessIssue]
            if "v_reset" in node:
                if np.any(node["v_reset"]):
                    raise InputError(f"old_readers=True, but the neurons of {name!r} have another v_reset than 0")
                del node["v_reset"]


def _block(content: bytes) -> bytes:
    """The user block of a file with this content."""
    return (_HEADER + sha256(content).encode() + b"\n").ljust(_BLOCK, b"\0")


def _read(path: Path) -> bytes:
    """The HDF5 content of a file; raises `InputError` if its checksum is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if content.startswith(_HDF5):
        return content
    block, content = content[:_BLOCK], content[_BLOCK:]
    if block != _block(content):
        raise InputError(f"{path} is damaged, or no file of NIR; write it again")
    return content
