"""Networks as public PyTorch codes define them, as state dicts of NumPy arrays and as plain NumPy forward passes.

Written from the definitions in torchvision, pytorch-cifar and WideResNet-pytorch, for `[B, C, H, W]` and in float64,
without anything of this library.
"""

import itertools

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

VGG = {
    "vgg11": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg13": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "vgg16": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
}
RESNET = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet20": (3, 3, 3)}


class StateDict(dict):
    """Random weights and running statistics, as after some training."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def conv(self, name, inputs, outputs, kernel, bias=False):
        scale = (2 / (kernel * kernel * inputs)) ** 0.5
        self[f"{name}.weight"] = self.normal(outputs, inputs, kernel, kernel) * np.float32(scale)
        if bias:
            self[f"{name}.bias"] = self.normal(outputs)

    def norm(self, name, size):
        self[f"{name}.weight"] = 1 + self.normal(size) / 4
        self[f"{name}.bias"] = self.normal(size) / 4
        self[f"{name}.running_mean"] = self.normal(size) / 4
        self[f"{name}.running_var"] = self.rng.uniform(0.5, 2, size).astype(np.float32)
        self[f"{name}.num_batches_tracked"] = np.int64(100)

    def linear(self, name, inputs, outputs):
        self[f"{name}.weight"], self[f"{name}.bias"] = self.normal(outputs, inputs), self.normal(outputs)

    def normal(self, *shape):
        return self.rng.standard_normal(shape).astype(np.float32)


def resnet_weights(model, stem=64, classes=10, channels=3, shortcut="downsample", head="fc", kernel=3):
    """Without shortcuts, as in pytorch_resnet_cifar10 (option A), if `shortcut` is empty."""
    weights, size = StateDict(), stem
    weights.conv("conv1", channels, stem, kernel)
    weights.norm("bn1", stem)
    for i, blocks in enumerate(RESNET[model], start=1):
        for j in range(blocks):
            name, inputs, size = f"layer{i}.{j}", size, stem * 2 ** (i - 1)
            weights.conv(f"{name}.conv1", inputs, size, 3)
            weights.norm(f"{name}.bn1", size)
            weights.conv(f"{name}.conv2", size, size, 3)
            weights.norm(f"{name}.bn2", size)
            if inputs != size and shortcut:
                weights.conv(f"{name}.{shortcut}.0", inputs, size, 1)
                weights.norm(f"{name}.{shortcut}.1", size)
    weights.linear(head, size, classes)
    return weights


def vgg_weights(model, width=1.0, classes=10, channels=3, head="classifier", hidden=None):
    """With torchvision's classifier if it has `hidden` units."""
    weights, size, n = StateDict(), channels, 0
    for layer in VGG[model]:
        if layer == "M":
            n += 1
            continue
        size, inputs = int(layer * width), size
        weights.conv(f"features.{n}", inputs, size, 3, bias=True)
        weights.norm(f"features.{n + 1}", size)
        n += 3
    if hidden is None:
        weights.linear(head, size, classes)
    else:
        weights.linear("classifier.0", size * 7 * 7, hidden)
        weights.linear("classifier.3", hidden, hidden)
        weights.linear("classifier.6", hidden, classes)
    return weights


def wide_resnet_weights(depth, widen, stem=16, classes=10, channels=3):
    weights, size = StateDict(), stem
    weights.conv("conv1", channels, stem, 3)
    for i, j in itertools.product(range(1, 4), range((depth - 4) // 6)):
        name, inputs, size = f"block{i}.layer.{j}", size, stem * widen * 2 ** (i - 1)
        weights.norm(f"{name}.bn1", inputs)
        weights.conv(f"{name}.conv1", inputs, size, 3)
        weights.norm(f"{name}.bn2", size)
        weights.conv(f"{name}.conv2", size, size, 3)
        if inputs != size:
            weights.conv(f"{name}.convShortcut", inputs, size, 1)
    weights.norm("bn1", size)
    weights.linear("fc", size, classes)
    return weights


def conv2d(weights, name, x, stride=1):
    kernel = weights[f"{name}.weight"].astype(np.float64)
    p = kernel.shape[-1] // 2
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (p, p), (p, p))), kernel.shape[2:], axis=(2, 3))
    y = np.einsum("bihwkl,oikl->bohw", windows[:, :, ::stride, ::stride], kernel, optimize=True)
    return y + weights.get(f"{name}.bias", np.zeros(len(kernel)))[:, None, None]


def batch_norm2d(weights, name, x):
    gamma, beta, mean, var = (
        weights[f"{name}.{kind}"].astype(np.float64)[:, None, None]
        for kind in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta


def relu(x):
    return np.maximum(x, 0)


def max_pool2d(x):
    b, c, h, w = x.shape
    return x.reshape(b, c, h // 2, 2, w // 2, 2).max(axis=(3, 5))


def max_pool_of_stem(x):
    """3x3 with stride 2 and padding 1."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    return sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max((4, 5))


def adaptive_avg_pool2d(x, size=7):
    """Means over bins that may overlap or repeat pixels: from floor(i n / size) to ceil((i + 1) n / size)."""
    y = np.zeros((*x.shape[:2], size, size))
    bins = [[(i * n // size, -(-(i + 1) * n // size)) for i in range(size)] for n in x.shape[2:]]
    for (i, (a, b)), (j, (c, d)) in itertools.product(enumerate(bins[0]), enumerate(bins[1])):
        y[:, :, i, j] = x[:, :, a:b, c:d].mean((2, 3))
    return y


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].T.astype(np.float64) + weights[f"{name}.bias"]


def resnet(weights, x, shortcut="downsample", head="fc"):
    """Logits, and what enters and leaves the last ReLU of each stage."""
    large = weights["conv1.weight"].shape[-1] == 7
    x, stages = relu(batch_norm2d(weights, "bn1", conv2d(weights, "conv1", x, 2 if large else 1))), []
    x = max_pool_of_stem(x) if large else x
    for i in itertools.takewhile(lambda i: f"layer{i}.0.conv1.weight" in weights, itertools.count(1)):
        current = x
        for j in itertools.takewhile(lambda j, i=i: f"layer{i}.{j}.conv1.weight" in weights, itertools.count()):
            name, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            y = relu(batch_norm2d(weights, f"{name}.bn1", conv2d(weights, f"{name}.conv1", x, stride)))
            y = batch_norm2d(weights, f"{name}.bn2", conv2d(weights, f"{name}.conv2", y))
            if f"{name}.{shortcut}.0.weight" in weights:
                x = batch_norm2d(weights, f"{name}.{shortcut}.1", conv2d(weights, f"{name}.{shortcut}.0", x, stride))
            elif stride == 2:  # option A
                quarter = y.shape[1] // 4
                x = np.pad(x[:, :, ::2, ::2], ((0, 0), (quarter, quarter), (0, 0), (0, 0)))
            current = y + x
            x = relu(current)
        stages.append((current, x))
    return linear(weights, head, x.mean(axis=(2, 3))), stages


def vgg(weights, x, model, head="classifier"):
    stages, n, current = [], 0, x
    for layer in VGG[model]:
        if layer == "M":
            stages.append((current, x))
            x, n = max_pool2d(x), n + 1
        else:
            current = batch_norm2d(weights, f"features.{n + 1}", conv2d(weights, f"features.{n}", x))
            x, n = relu(current), n + 3
    if "classifier.6.weight" not in weights:
        return linear(weights, head, x.reshape(len(x), -1)), stages
    x = adaptive_avg_pool2d(x).reshape(len(x), -1)
    x = relu(linear(weights, "classifier.3", relu(linear(weights, "classifier.0", x))))
    return linear(weights, "classifier.6", x), stages


def wide_resnet(weights, x, depth):
    x, stages = conv2d(weights, "conv1", x), []
    for i, j in itertools.product(range(1, 4), range((depth - 4) // 6)):
        name, stride = f"block{i}.layer.{j}", 2 if i > 1 and j == 0 else 1
        current = batch_norm2d(weights, f"{name}.bn1", x)
        y = relu(current)
        if i > 1 and j == 0:
            stages.append((current, y))
        if f"{name}.convShortcut.weight" in weights:
            x = conv2d(weights, f"{name}.convShortcut", y, stride)
        y = relu(batch_norm2d(weights, f"{name}.bn2", conv2d(weights, f"{name}.conv1", y, stride)))
        x = x + conv2d(weights, f"{name}.conv2", y)
    current = batch_norm2d(weights, "bn1", x)
    stages.append((current, relu(current)))
    return linear(weights, "fc", relu(current).mean(axis=(2, 3))), stages
