"""State dicts of networks that were trained in PyTorch, converted into variables of this library's architectures.

| family | names of the entries                                                    | as in                            |
| ------ | ----------------------------------------------------------------------- | -------------------------------- |
| ResNet | `conv1`, `bn1`, `layer1.0.conv1`, ..., `shortcut.0` or `downsample.0`,  | torchvision, timm, pytorch-cifar |
|        | `fc` or `linear`; ResNet-20 also without the shortcuts (option A)       | pytorch_resnet_cifar10           |
| VGG    | `features.0`, ..., `classifier`: one linear layer, or torchvision's     | torchvision (BN), pytorch-cifar  |
|        | three, `classifier.0`, `.3` and `.6`                                    |                                  |
| WRN    | `conv1`, `block1.layer.0.bn1`, `.conv1`, `.convShortcut`, `bn1`, `fc`   | WideResNet-pytorch               |

Architecture and width follow from the names and the shapes: a stem of 7x7 or three linear layers are those of the
architectures for ImageNet. What shapes do not show is assumed to be as in those codes: batch norms have eps = 1e-5, VGG
has max pooling, and a ResNet has max pooling and a stride in its stem with 7x7 kernels, but not with 3x3.

Kernels are transposed from OIHW to HWIO, and the first linear layer of torchvision's VGG from CHW to HWC. The bias b
of VGG's convolutions is folded into the running mean mu of the batch norm that follows, mu - b, which is the same
function.
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
from snnkd_jax.models.state_dict import find_state_dict, some
from snnkd_jax.models.torch_file import Foreign, open_torch_file, unreadable
from snnkd_jax.models.vgg import GRID
from snnkd_jax.parallel.hosts import print_on_host0

_RESNETS: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet34", (3, 3, 3): "resnet20"}
_VGGS: dict[tuple[int, ...], str] = {(1, 1, 2, 2, 2): "vgg11", (2, 2, 2, 2, 2): "vgg13", (2, 2, 3, 3, 3): "vgg16"}
_SUPPORTED = "supported are resnet18/34 with a stem of 3x3 or 7x7, resnet20, vgg11/13/16 with batch norm, and WRN"

Weights = Mapping[str, Any]
Layers = list[tuple[str, str, str]]
"""The kind of each layer (a key of `_NDIM`), the prefix of its entries, and its path here, from the stem on."""

_NDIM = {"conv": 4, "biased conv": 4, "norm": 1, "dense": 2, "dense of maps": 2}
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


def read_weights(file: Path, entry: str | None = None) -> dict[str, NDArray]:
    """The arrays of the network in a file of `torch.save` or safetensors, by the names of its state dict.

    Of several networks in it, `entry` names one (`models.state_dict`); which was taken is printed. No code of the file
    is executed. Raises `InputError` if the file is damaged, or holds no network or several.
    """
    teacher = f"teacher torch:{file}"
    opened = open_torch_file(file)
    try:
        taken, note = find_state_dict(opened.content, entry)
    except InputError as error:
        raise InputError(f"{teacher}: {error}") from None
    arrays = {}
    for name, tensor in taken.tensors.items():
        if isinstance(tensor, Foreign):
            kind = type(tensor).__name__
            raise InputError(f"{teacher}: its entry {name} is no plain tensor ({kind}); convert it before you save it")
        try:
            x = opened.array(tensor)
        except Exception as error:  # zip raises its own for what is damaged
            raise unreadable(file, error) from error
        with np.errstate(over="ignore"):  # what is too large for float32 is refused as not finite
            arrays[name] = np.array(x, np.float32 if tensor.is_floating else x.dtype)
    notes = [note] * bool(note)
    notes += ["without checksums, damage of its values cannot be noticed"] * (not opened.checked)
    if notes:
        print_on_host0(f"teacher torch:{file.name}: {'; '.join(notes)}")
    return arrays


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
        raise InputError(f"entries {some(weights)} are of no known network; {_SUPPORTED}")
    found: dict[tuple[str, ...], NDArray] = {}
    used: set[str] = set()

    def take(name: str) -> NDArray:
        if name not in weights:
            raise InputError(f"{model}: the entry {name} is missing{_instead(name, weights)}; {_SUPPORTED}")
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
            if kind == "dense of maps":  # [C', C H W] to [C', H W C]
                size = GRID * GRID
                if weight.shape[1] % size:
                    has = f"{prefix}.weight reads {weight.shape[1]} values"
                    raise InputError(f"{model}: {has}, not a map of {GRID}x{GRID}; {_SUPPORTED}")
                weight = weight.reshape(len(weight), -1, size).swapaxes(1, 2).reshape(len(weight), -1)
            found["params", *path, "kernel"], found["params", *path, "bias"] = weight.T, take(f"{prefix}.bias")
    if unused := [name for name in weights if name not in used]:
        raise InputError(f"{model}: the entries {some(unused)} are of another network; {_SUPPORTED}")
    return _checked(model, layers[0][2], found)


def assumptions(model: str) -> str:
    """What no entry of a file shows and a converted network is assumed to have had in PyTorch."""
    if model.startswith("resnet"):
        stem = "stride 2 and max pooling" if model.endswith("imagenet") else "stride 1 and no max pooling"
        return f"its stem has {stem} (those are not in the file)"
    return "it has a ReLU before each convolution and max pooling of 2x2 after each stage of a VGG"


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
    pool = "max" if model in _VGGS.values() else "avg"  # those for ImageNet have a pooling of their own
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
    model = _RESNETS[sizes]
    if model == "resnet20" and not any(".shortcut." in name or ".downsample." in name for name in weights):
        model += "-a"
    if np.shape(weights.get("conv1.weight", 0))[2:] == (7, 7):
        model += "-imagenet"
        if model not in MODELS:
            raise InputError(f"a ResNet-20 with a 7x7 stem; {_SUPPORTED}")

    layers = [("conv", "conv1", "stem"), ("norm", "bn1", "norm_stem")]
    for i, size in enumerate(sizes, start=1):
        for j in range(size):
            torch, ours = f"layer{i}.{j}", f"block{i}_{j + 1}"
            pairs = [(f"conv{n}", f"bn{n}", n) for n in "12"]
            if i > 1 and j == 0 and model != "resnet20-a":
                name = "shortcut" if f"{torch}.shortcut.0.weight" in weights else "downsample"
                pairs.append((f"{name}.0", f"{name}.1", "_shortcut"))
            for conv, norm, n in pairs:
                layers.append(("conv", f"{torch}.{conv}", f"{ours}/conv{n}"))
                layers.append(("norm", f"{torch}.{norm}", f"{ours}/norm{n}"))
    return model, [*layers, ("dense", "linear" if "linear.weight" in weights else "fc", "head")]


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
    model, heads = (
        _VGGS[sizes],
        list(dict.fromkeys(n.rpartition(".")[0] for n in weights if not n.startswith("features."))),
    )
    if len(heads) == 1:
        head = [("dense", heads[0], "head")]
    elif heads == ["classifier.0", "classifier.3", "classifier.6"]:
        model, names = f"{model}-imagenet", zip(heads, ("hidden1", "hidden2", "head"), strict=True)
        head = [("dense" if i else "dense of maps", *pair) for i, pair in enumerate(names)]
    else:
        raise InputError(f"a VGG with the layers {some(heads)} after its convolutions; {_SUPPORTED}")

    layers = []
    for (i, j), n in zip(places, convolutions, strict=True):
        layers += [("biased conv", f"features.{n}", f"conv{i}_{j}"), ("norm", f"features.{n + 1}", f"norm{i}_{j}")]
    return model, [*layers, *head]


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


def _instead(name: str, weights: Weights) -> str:
    """What a file has in place of a missing entry, in brackets."""
    layer = name.rpartition(".")[0]
    found = [other for other in weights if other.startswith(f"{layer}.") or other.startswith(f"{name}_")]
    return f" (it has {some(found)})" if found and not name.startswith("features") else ""


def _counts(weights: Weights, pattern: str) -> tuple[int, ...]:
    """The number of blocks per stage, by the numbers of stage and block in the names."""
    blocks = {m.groups() for name in weights if (m := re.match(pattern, name)) is not None}
    return tuple(size for _, size in sorted(Counter(int(stage) for stage, _ in blocks).items()))
