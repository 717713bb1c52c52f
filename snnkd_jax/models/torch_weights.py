"""State dicts of networks that were trained in PyTorch, converted into variables of this library's architectures.

| family | names of the entries                                                    | as in                            |
| ------ | ----------------------------------------------------------------------- | -------------------------------- |
| ResNet | `conv1`, `bn1`, `layer1.0.conv1`, ..., `shortcut.0` or `downsample.0`,  | torchvision, timm, pytorch-cifar |
|        | `fc` or `linear`                                                        |                                  |
| VGG    | `features.0`, ..., `classifier`, one linear layer                       | torchvision (BN), pytorch-cifar  |
| WRN    | `conv1`, `block1.layer.0.bn1`, `.conv1`, `.convShortcut`, `bn1`, `fc`   | WideResNet-pytorch               |

Architecture and width follow from the names and the shapes. The rest is assumed to be as in those codes: batch norms
have eps = 1e-5, VGG has max pooling. Kernels are transposed from OIHW to HWIO. The bias b of VGG's convolutions is
folded into the running mean mu of the batch norm that follows, mu - b, which is the same function.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from numpy.typing import NDArray

from snnkd_jax.errors import InputError
from snnkd_jax.models import MAX_WIDTH, MODELS, Pool, Variables, build

_RESNETS: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34", (3, 3, 3): "resnet20"}
_VGGS: dict[tuple[int, ...], str] = {(1, 1, 2, 2, 2): "vgg11", (2, 2, 2, 2, 2): "vgg13", (2, 2, 3, 3, 3): "vgg16"}
_SUPPORTED = "supported are resnet18/20/34 with a 3x3 stem, vgg11/13/16 with batch norm and one linear layer, and WRN"
_SAVE = "save it by torch.save(model.state_dict(), FILE)"

Weights = Mapping[str, Any]
Layers = list[tuple[str, str, str]]
"""The kind of each layer (a key of `_NDIM`), the prefix of its entries, and its path here, from the stem on."""

_NDIM = {"conv": 4, "biased conv": 4, "norm": 1, "dense": 2}
"""The number of axes of the entry `weight` of each kind of layer."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """The arguments of `build` for a converted network, the channels of its images, and its variables."""

    model: str
    width: float
    pool: Pool
    num_classes: int
    image_channels: int
    variables: Variables


def read_weights(file: Path) -> dict[str, NDArray]:
    """The arrays of a file written by `torch.save`: a state dict, or a checkpoint with one.

    In a checkpoint, that is the entry `state_dict`, `model_state_dict`, `model` or `net`. The prefixes of data-parallel
    and compiled modules are removed. No code of the file is executed. Raises `InputError` if PyTorch is not installed,
    or the file is damaged or holds anything else.
    """
    teacher = f"teacher torch:{file}"
    if not file.is_file():
        raise InputError(f"{teacher} does not exist")
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"{teacher} is read by PyTorch; pip install 'snnkd-jax[torch]'") from None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (MemoryError, PermissionError):
        raise  # not the file's fault
    except Exception as error:  # pickle, zip and torch each raise their own
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
        raise InputError(f"{teacher} cannot be read ({reason}); {_SAVE}") from error
    for entry in ("state_dict", "model_state_dict", "model", "net"):
        if isinstance(found, Mapping) and isinstance(found.get(entry), Mapping):
            found = found[entry]
    if not isinstance(found, Mapping) or not found or not all(isinstance(x, torch.Tensor) for x in found.values()):
        raise InputError(f"{teacher} holds no state dict; {_SAVE}")
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        if all(str(name).startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): x for name, x in found.items()}
    try:
        return {str(name): (x.float() if x.is_floating_point() else x).numpy(force=True) for name, x in found.items()}
    except (TypeError, RuntimeError) as error:
        raise InputError(f"{teacher} holds tensors that are no plain arrays ({error})") from error


def convert_weights(weights: Weights) -> Converted:
    """The network and its variables of a state dict of arrays.

    Raises `InputError` for a network that is not in the table above, or if an entry is missing, is not used, has
    another shape than in its network, or has a value that is not finite.
    """
    if "layer1.0.conv1.weight" in weights:
        model, layers = _resnet(weights)
    elif "features.0.weight" in weights:
        model, layers = _vgg(weights)
    elif "block1.layer.0.conv1.weight" in weights:
        model, layers = _wide_resnet(weights)
    else:
        raise InputError(f"entries {_some(weights)} are of no known network; {_SUPPORTED}")
    found: dict[tuple[str, ...], NDArray] = {}
    used: set[str] = set()

    def take(name: str) -> NDArray:
        if name not in weights:
            raise InputError(f"{model}: the entry {name} is missing; {_SUPPORTED}")
        used.add(name)
        x = np.asarray(weights[name])
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(f"{model}: {name} holds {x.dtype}, not floating-point numbers")
        if not np.isfinite(x := x.astype(np.float32)).all():
            raise InputError(f"{model}: {name} has values that are not finite")
        if name.endswith("running_var") and (x < 0).any():
            raise InputError(f"{model}: the running variance {name} is negative")
        return x

    bias: NDArray | float = 0.0
    for kind, prefix, name in layers:
        path = name.split("/")
        weight = take(f"{prefix}.weight")
        if weight.ndim != _NDIM[kind]:
            raise InputError(f"{model}: {prefix}.weight has shape {weight.shape}, not {_NDIM[kind]} axes")
        if "conv" in kind:
            found["params", *path, "conv", "kernel"] = weight.transpose(2, 3, 1, 0)
            if kind == "biased conv" and f"{prefix}.bias" in weights:
                bias = take(f"{prefix}.bias")
        elif kind == "norm":
            used.add(f"{prefix}.num_batches_tracked")
            found["params", *path, "scale"], found["params", *path, "bias"] = weight, take(f"{prefix}.bias")
            mean = take(f"{prefix}.running_mean")
            if np.shape(bias) not in ((), mean.shape):
                raise InputError(f"{prefix}.running_mean has shape {mean.shape}, the bias before it {np.shape(bias)}")
            found["batch_stats", *path, "mean"] = mean - bias
            found["batch_stats", *path, "var"] = take(f"{prefix}.running_var")
            bias = 0.0
        else:
            found["params", *path, "kernel"], found["params", *path, "bias"] = weight.T, take(f"{prefix}.bias")
    if unused := sorted(weights.keys() - used):
        raise InputError(f"{model}: the entries {_some(unused)} are of another network; {_SUPPORTED}")
    return _checked(model, layers[0][2], found)


def _checked(model: str, stem: str, found: dict[tuple[str, ...], NDArray]) -> Converted:
    """The converted network with the width of its stem; raises `InputError` unless all layers have this width."""
    kernel, head = found["params", stem, "conv", "kernel"], found["params", "head", "kernel"]
    num_classes, base = head.shape[-1], _shapes(model, 1.0, 2, kernel.shape[2])["params", stem, "conv", "kernel"][-1]
    width = kernel.shape[-1] / base
    if num_classes < 2 or not 0 < width <= MAX_WIDTH:
        raise InputError(f"{model}: {num_classes} classes and a stem of {kernel.shape[-1]} channels; {_SUPPORTED}")
    shapes = _shapes(model, width, num_classes, kernel.shape[2])
    for path in sorted(shapes.keys() | found.keys()):
        if (shape := getattr(found.get(path), "shape", None)) != shapes.get(path):
            where = f"{model} of width {width:g}: {'/'.join(path)}"
            raise InputError(f"{where} has shape {shape}, not {shapes.get(path)}; {_SUPPORTED}")
    pool = "max" if model.startswith("vgg") else "avg"
    return Converted(model, width, pool, num_classes, kernel.shape[2], traverse_util.unflatten_dict(found))


def _shapes(model: str, width: float, num_classes: int, image_channels: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    network = build(model, num_classes, width=width)
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), (32, 32, image_channels)))
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables)
    return {path: x.shape for path, x in flat.items()}


def _resnet(weights: Weights) -> tuple[str, Layers]:
    sizes = _counts(weights, r"layer(\d+)\.(\d+)\.")
    if sizes not in _RESNETS or "layer1.0.conv3.weight" in weights:
        raise InputError(f"a ResNet with {sizes} blocks in its stages, or with bottlenecks; {_SUPPORTED}")
    if np.shape(weights.get("conv1.weight", 0))[2:] == (7, 7):
        raise InputError(f"a ResNet with a 7x7 stem, for large images; {_SUPPORTED}")

    layers = [("conv", "conv1", "stem"), ("norm", "bn1", "norm_stem")]
    for i, size in enumerate(sizes, start=1):
        for j in range(size):
            torch, ours = f"layer{i}.{j}", f"block{i}_{j + 1}"
            pairs = [(f"conv{n}", f"bn{n}", n) for n in (1, 2)]
            names = (name for name in ("shortcut", "downsample") if f"{torch}.{name}.0.weight" in weights)
            pairs += [(f"{name}.0", f"{name}.1", "_shortcut") for name in names]
            for conv, norm, n in pairs:
                layers.append(("conv", f"{torch}.{conv}", f"{ours}/conv{n}"))
                layers.append(("norm", f"{torch}.{norm}", f"{ours}/norm{n}"))
    return _RESNETS[sizes], [*layers, ("dense", "linear" if "linear.weight" in weights else "fc", "head")]


def _vgg(weights: Weights) -> tuple[str, Layers]:
    names = (re.fullmatch(r"features\.(\d+)\.weight", name) for name in weights)
    convolutions = sorted(int(m[1]) for m in names if m is not None and np.ndim(weights[m[0]]) == 4)
    gaps = [b - a for a, b in itertools.pairwise(convolutions)]  # 3 to the next one, 4 with a pooling between
    if not convolutions or not set(gaps) <= {3, 4} or f"features.{convolutions[0] + 1}.running_mean" not in weights:
        raise InputError(f"a VGG without batch norm; {_SUPPORTED}")
    places = [(1, 1)]
    for gap in gaps:
        i, j = places[-1]
        places.append((i, j + 1) if gap == 3 else (i + 1, 1))
    sizes = tuple(Counter(i for i, _ in places).values())
    if sizes not in _VGGS:
        raise InputError(f"a VGG with {sizes} convolutions in its stages; {_SUPPORTED}")
    heads = sorted({name.rpartition(".")[0] for name in weights if not name.startswith("features.")})
    if len(heads) != 1:
        raise InputError(f"a VGG with the layers {_some(heads)} after its convolutions; {_SUPPORTED}")

    layers = []
    for (i, j), n in zip(places, convolutions, strict=True):
        layers += [("biased conv", f"features.{n}", f"conv{i}_{j}"), ("norm", f"features.{n + 1}", f"norm{i}_{j}")]
    return _VGGS[sizes], [*layers, ("dense", heads[0], "head")]


def _wide_resnet(weights: Weights) -> tuple[str, Layers]:
    sizes = _counts(weights, r"block(\d+)\.layer\.(\d+)\.")
    stem, first = (np.shape(weights.get(name, 0)) for name in ("conv1.weight", "block1.layer.0.conv1.weight"))
    widen = first[0] // stem[0] if first and stem and stem[0] else 0
    model = f"wrn-{6 * sizes[0] + 4}-{widen}"
    if len(set(sizes)) != 1 or len(sizes) != 3 or model not in MODELS:
        known = ", ".join(name for name in MODELS if name.startswith("wrn"))
        raise InputError(f"a wide ResNet with {sizes} blocks, widened {widen} times; supported are {known}")

    layers = [("conv", "conv1", "stem")]
    for i, j in itertools.product(range(1, 4), range(sizes[0])):
        torch, ours = f"block{i}.layer.{j}", f"block{i}_{j + 1}"
        for n in (1, 2):
            layers += [("norm", f"{torch}.bn{n}", f"{ours}/norm{n}"), ("conv", f"{torch}.conv{n}", f"{ours}/conv{n}")]
        if f"{torch}.convShortcut.weight" in weights:
            layers.append(("conv", f"{torch}.convShortcut", f"{ours}/conv_shortcut"))
    return model, [*layers, ("norm", "bn1", "norm_final"), ("dense", "fc", "head")]


def _counts(weights: Weights, pattern: str) -> tuple[int, ...]:
    """The number of blocks per stage, by the numbers of stage and block in the names."""
    blocks = {m.groups() for name in weights if (m := re.match(pattern, name)) is not None}
    return tuple(size for _, size in sorted(Counter(int(stage) for stage, _ in blocks).items()))


def _some(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
