"""Files of NIR run by plain NumPy from NIR's definitions, by SpikingJelly and by snnTorch; networks, by this library.

A reader is called with frames `[B, T, C, H, W]` or `[B, T, N]` and returns the outputs of every layer of neurons, under
its name in the file, and of the graph, as "output", `[B, T, ...]` each.
"""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import nir
import numpy as np
from numpy.typing import NDArray

from snnkd_jax.models import Network, Variables
from snnkd_jax.models.activation import Spike

Reader = Callable[[NDArray], dict[str, NDArray]]

DT = 1e-4


def numpy_reader(path: Path) -> Reader:
    """In float64, one Euler step of `DT` after the other from rest; a spike at v > v_threshold, as NIR defines it."""
    graph = nir.read(path)
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}

    def run(frames: NDArray) -> dict[str, NDArray]:
        potentials: dict[str, NDArray] = {}
        found: dict[str, list[NDArray]] = {}
        for t in range(frames.shape[1]):
            values: dict[str, Any] = {}
            while len(values) < len(graph.nodes):
                for name, node in graph.nodes.items():
                    if name in values or not all(source in values for source in sources[name]):
                        continue
                    if isinstance(node, nir.Input):
                        values[name] = frames[:, t].astype(np.float64)
                        continue
                    x: Any = sum(values[source] for source in sources[name])
                    if isinstance(node, nir.LIF | nir.IF):
                        values[name], potentials[name] = _fire(node, x, potentials.get(name))
                        found.setdefault(name, []).append(values[name])
                    elif isinstance(node, nir.Output):
                        values[name] = x
                        found.setdefault("output", []).append(x)
                    else:
                        values[name] = _without_state(node, x)
        return {name: np.stack(steps, axis=1) for name, steps in found.items()}

    return run


def _fire(node: Any, x: NDArray, v: NDArray | None) -> tuple[NDArray, NDArray]:
    """Spikes and potentials of tau dv/dt = (v_leak - v) + R x (LIF), or dv/dt = R x (IF)."""
    is_lif = isinstance(node, nir.LIF)
    if v is None:
        v = np.broadcast_to(node.v_leak if is_lif else node.v_reset, x.shape)
    h = v + (DT / node.tau * ((node.v_leak - v) + node.r * x) if is_lif else DT * node.r * x)
    z = h > node.v_threshold
    return z.astype(np.float64), np.where(z, node.v_reset, h)


def _without_state(node: Any, x: NDArray) -> NDArray:
    if isinstance(node, nir.Affine):
        return x @ node.weight.T.astype(np.float64) + node.bias
    if isinstance(node, nir.Linear):
        return x @ node.weight.T.astype(np.float64)
    if isinstance(node, nir.Flatten):
        assert node.start_dim == 0
        return x.reshape(len(x), -1)
    if isinstance(node, nir.AvgPool2d):
        assert not np.any(node.padding)
        return np.mean(_windows(x, node.kernel_size, node.stride), axis=0)
    assert isinstance(node, nir.Conv2d)
    assert int(node.groups) == 1
    assert np.all(np.asarray(node.dilation) == 1)
    (h, w), (kh, kw) = np.asarray(node.padding), node.weight.shape[2:]
    parts = _windows(np.pad(x, ((0, 0), (0, 0), (h, h), (w, w))), (kh, kw), node.stride)
    weight = node.weight.astype(np.float64).reshape(*node.weight.shape[:2], -1)
    return np.einsum("kbchw,ock->bohw", parts, weight, optimize=True) + node.bias[:, None, None]


def _windows(x: NDArray, size: Any, stride: Any) -> NDArray:
    """The first, second, ... pixel of every window, row by row, `[kh kw, B, C, H', W']`."""
    (kh, kw), (sh, sw) = size, stride
    rows, columns = x.shape[2] - kh + 1, x.shape[3] - kw + 1
    return np.stack([x[:, :, i : i + rows : sh, j : j + columns : sw] for i in range(kh) for j in range(kw)])


def library_reader(network: Network, variables: Variables, jit: Callable[..., Any] = jax.jit) -> Reader:
    """A spiking network of this library, compiled by `jit`; one frame is a static image."""

    @jit
    def outputs(frames):
        logits, found = network.capture_calls(variables, frames, Spike)
        return {call.name.replace("/", "_"): call.output for call in found} | {"output": logits}

    def run(frames: NDArray) -> dict[str, NDArray]:
        found = jax.tree.map(np.asarray, outputs(np.moveaxis(frames, 2, -1)))
        return {name: np.moveaxis(x, -1, 2) for name, x in found.items()}

    return run


def spikingjelly_reader(path: Path) -> Reader:
    """SpikingJelly's `import_from_nir`, in float32."""
    import torch  # pyright: ignore[reportMissingImports]
    from spikingjelly.activation_based.nir_exchange import import_from_nir  # pyright: ignore[reportMissingImports]

    network = import_from_nir(path, dt=DT, step_mode="s")
    found = _hooked(network, path)

    @torch.no_grad()
    def run(frames: NDArray) -> dict[str, NDArray]:
        for steps in found.values():
            steps.clear()
        state = None
        for t in range(frames.shape[1]):
            y, state = network(torch.from_numpy(frames[:, t]), state)
            found["output"].append(y.numpy())
        return {name: np.stack(steps, axis=1) for name, steps in found.items()}

    return run


def snntorch_reader(path: Path) -> Reader:
    """snnTorch's `import_from_nir`, in float32, image by image: it flattens the batch too."""
    import torch  # pyright: ignore[reportMissingImports]
    from snntorch.import_nir import import_from_nir  # pyright: ignore[reportMissingImports]

    with contextlib.redirect_stdout(io.StringIO()):
        network = import_from_nir(nir.read(path))
    found = _hooked(network, path)

    @torch.no_grad()
    def of_image(frames: NDArray) -> dict[str, NDArray]:
        for steps in found.values():
            steps.clear()
        for module in network.modules():
            if hasattr(module, "reset_mem"):
                module.reset_mem()  # pyright: ignore[reportCallIssue]
        state = None
        for frame in frames:
            y, state = network(torch.from_numpy(frame[None]), state)
            found["output"].append(y.numpy())
        return {name: np.stack([y[0] if y.ndim == 4 else y for y in steps]) for name, steps in found.items()}

    def run(frames: NDArray) -> dict[str, NDArray]:
        images = [of_image(image) for image in frames]
        return {name: np.stack([image[name] for image in images]) for name in images[0]}

    return run


def _hooked(network: Any, path: Path) -> dict[str, list[NDArray]]:
    """Where the outputs of the layers of neurons go at every call; "output" is left empty."""
    found: dict[str, list[NDArray]] = {"output": []}

    def take(name: str):
        def hook(module: Any, inputs: Any, outputs: Any) -> None:
            del module, inputs
            found[name].append((outputs[0] if isinstance(outputs, tuple) else outputs).numpy().copy())

        return hook

    for name, node in nir.read(path).nodes.items():
        if isinstance(node, nir.LIF | nir.IF):
            found[name] = []
            network.get_submodule(name).register_forward_hook(take(name))
    return found
