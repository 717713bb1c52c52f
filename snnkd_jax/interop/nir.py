"""Trained spiking networks as files of NIR, the format that neuromorphic tools exchange, and such files as networks.

| layer           | node        | what is written                                                                    |
| --------------- | ----------- | ---------------------------------------------------------------------------------- |
| the image       | `Input`     | `[C, H, W]`, normalised; of a static image, the same at every step                 |
| convolution     | `Conv2d`    | weights `[C_out, C_in, kh, kw]` and bias, batch norm folded in                     |
| dense           | `Affine`    | weights `[N_out, N_in]` and bias; `N_in` in the order C, H, W behind `Flatten`     |
| LIF and PLIF    | `LIF`       | tau_NIR = tau dt, v_leak = v_reset, R = 1, or R = tau with `decay_input=False`     |
| IF              | `IF`        | R = 1 / dt                                                                         |
| 2x2 means       | `AvgPool2d` |                                                                                    |
| global mean     | `AvgPool2d` | of the whole map, then `Flatten`                                                   |
| flattening      | `Flatten`   |                                                                                    |
| a sum           |             | edges of several nodes into one                                                    |
| logits          | `Output`    | one read-out per step; the answer is their mean over T steps                       |

One Euler step dt of tau_NIR dv/dt = (v_leak - v) + R x is the charge of `snnkd_jax.dynamics.neurons`. What NIR does not
say, and these files mean: the potentials start from v_leak (of `IF` from v_reset), and h = v_threshold fires, as in
SpikingJelly (NIR writes h > v_threshold). NIR has neither soft reset nor maxima; networks with those are refused.

The metadata of the graph have `dt` in seconds, `num_steps`, and, if it was given, the normalisation of the pixels in
[0, 1], `pixel_mean` and `pixel_std`, `[C]`. It cannot be folded into the first convolution: its padding is 0 behind
the normalisation.

HDF5 does not notice a changed weight, and on other damage it may read nonsense or never return. So a file begins with a
block of 512 bytes, which HDF5 skips as a "user block", with the SHA-256 of the rest, and that is compared before
anything else is read. Files without it, of other programs, are read as they are.

Source: Pedersen et al., Nature Communications 2024, 15:8122; the package `nir` 1.0.8.
"""

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_atomically
from snnkd_jax.interop.graph import network_of
from snnkd_jax.interop.tracing import graph_of
from snnkd_jax.models import Network, Variables

try:
    import h5py
    import nir
    from nir.serialization import hdf2dict

    from snnkd_jax.interop.nir_nodes import from_nir, to_nir
except ModuleNotFoundError as error:
    raise InputError("files of NIR need the package nir: pip install 'snnkd-jax[nir]'") from error

DT = 1e-4
"""Seconds of a time step where a file does not say it, as most tools take for granted."""

_BLOCK = 512
_HEADER = b"snnkd_jax NIR file; SHA-256 of what follows these 512 bytes: "
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclasses.dataclass(frozen=True)
class NirNetwork:
    """What a file holds: a network and its variables, the `[H, W, C]` of its images, and how pixels are normalised.

    A graph on vectors `(N,)` takes images `[1, 1, N]`. `normalisation` is None if the file does not say it.
    """

    network: Network
    variables: Variables
    image_shape: tuple[int, int, int]
    normalisation: Normalisation | None


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
    """Writes a trained spiking network, in one step, so that a crash leaves the old file or the whole one.

    Args:
        path: of the file, usually `*.nir`.
        network, variables, image_shape: trained, and `[H, W, C]` of its images; batch norms are folded.
        normalisation: of the pixels; the network takes normalised images.
        dt: seconds of a time step.
        old_readers: leave `v_reset` out where it is 0. Tools that rest on nir <= 1.0.4 (sinabs, Rockpool) cannot read
            files that have it. That version says that neurons subtract the threshold: set the reset to 0 there.

    Returns:
        The graph that was written.

    Raises:
        InputError: for a network that NIR cannot say, with what to use instead, weights that are not finite, or a path
            that cannot be written.
    """
    _checked(dt)
    if network.num_steps is None:
        raise InputError("NIR is for spiking networks; this one has no time steps: export a student")
    graph = graph_of(network, variables, image_shape)
    metadata: dict[str, Any] = {"dt": dt, "num_steps": network.num_steps}
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
    """Reads a network of the nodes in the table above, of this or another program.

    Args:
        path: of the file.
        dt, num_steps: seconds of a time step, and T; None takes what the file says, for dt `DT` if it does not.

    Raises:
        InputError: naming the file and the node, for a file that is damaged or no NIR, an unknown node, shapes that do
            not fit, edges that lead nowhere, a cycle, weights that are not finite, neurons that are not those of
            `snnkd_jax.dynamics.neurons`, or a T that is neither given nor in the file.
    """
    content = _read(Path(path))
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            tree: dict[str, Any] = hdf2dict(file["node"])
        metadata = _metadata(tree.get("metadata", {}))
        num_steps = metadata.get("num_steps") if num_steps is None else num_steps
        if num_steps is None:
            raise InputError("it does not say how many time steps the network makes; give num_steps")
        graph = from_nir(tree, _checked(metadata.get("dt", DT) if dt is None else dt))
        network, variables = network_of(graph, num_steps)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # whatever HDF5 and the package stumble upon
        raise InputError(f"{path} is damaged, or no file of NIR ({type(error).__name__}: {error})") from error
    return NirNetwork(network, variables, graph.image_shape, metadata.get("normalisation"))


def _checked(dt: float) -> float:
    """dt; raises `InputError` unless it is a time."""
    if not 0 < dt < math.inf:
        raise InputError(f"dt={dt!r} must be the seconds of a time step, such as {DT:g}")
    return dt


def _metadata(found: Any) -> dict[str, Any]:
    """`dt`, `num_steps` and `normalisation`, those that a file has."""
    try:
        metadata: dict[str, Any] = {
            name: kind(found[name]) for name, kind in (("dt", float), ("num_steps", int)) if name in found
        }
        if "pixel_mean" in found:
            mean, std = (tuple(map(float, found[name])) for name in ("pixel_mean", "pixel_std"))
            metadata["normalisation"] = Normalisation(mean, std)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"its metadata are damaged ({type(error).__name__}: {error})") from error
    return metadata


def _without_v_reset(file: io.BytesIO) -> None:
    """Deletes the data sets `v_reset`; raises `InputError` if one is not 0."""
    with h5py.File(file, "r+") as opened:
        for name, node in opened["node/nodes"].items():  # pyright: ignore[reportAttributeAccessIssue]
            if "v_reset" in node:
                if np.any(node["v_reset"]):
                    raise InputError(f"old_readers=True, but the neurons of {name!r} have another v_reset than 0")
                del node["v_reset"]


def _block(content: bytes) -> bytes:
    """What goes before the content."""
    return (_HEADER + sha256(content).encode() + b"\n").ljust(_BLOCK, b"\0")


def _read(path: Path) -> bytes:
    """The HDF5 in a file; raises `InputError` if it is not what was written."""
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
