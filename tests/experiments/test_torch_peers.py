"""Converted networks against PyTorch itself, from the file to the logits; needs torch."""

import argparse
import datetime
import importlib
import json
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util
from torch_nets import RESNET, VGG

from snnkd_jax import experiment
from snnkd_jax.cli.train import main
from snnkd_jax.distill.callback import callback_teacher
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError
from snnkd_jax.inference.trained import load
from snnkd_jax.models import build
from snnkd_jax.models.torch_weights import convert_weights, read_weights

pytestmark = [pytest.mark.peers, pytest.mark.optimised]


def modules():
    """The networks' classes; PyTorch is imported when a test runs."""
    torch = importlib.import_module("torch")
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self, inputs, size, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, size, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(size)
            self.conv2 = nn.Conv2d(size, size, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(size)
            self.shortcut = nn.Sequential()
            if stride != 1 or inputs != size:
                self.shortcut = nn.Sequential(nn.Conv2d(inputs, size, 1, stride, bias=False), nn.BatchNorm2d(size))

        def forward(self, x):
            return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))

    class ResNet(nn.Module):
        def __init__(self, blocks, stem=64):
            super().__init__()
            self.conv1, self.bn1, size = nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), stem
            for i, count in enumerate(blocks):
                layers = []
                for j in range(count):
                    layers.append(Block(size, stem * 2**i, 2 if i and not j else 1))
                    size = stem * 2**i
                setattr(self, f"layer{i + 1}", nn.Sequential(*layers))
            self.linear = nn.Linear(size, 10)

        def forward(self, x):
            x, stages = F.relu(self.bn1(self.conv1(x))), []
            for layer in (child for name, child in self.named_children() if name.startswith("layer")):
                x = layer(x)
                stages.append(x)
            return self.linear(x.mean((2, 3))), stages

    class VGGNet(nn.Module):
        def __init__(self, plan):
            super().__init__()
            layers, size = [], 3
            for layer in plan:
                if layer == "M":
                    layers.append(nn.MaxPool2d(2, 2))
                else:
                    layers += [nn.Conv2d(size, layer, 3, padding=1), nn.BatchNorm2d(layer), nn.ReLU()]
                    size = layer
            self.features, self.classifier = nn.Sequential(*layers), nn.Linear(size, 10)

        def forward(self, x):
            stages = []
            for layer in self.features:
                if isinstance(layer, nn.MaxPool2d):
                    stages.append(x)
                x = layer(x)
            return self.classifier(x.flatten(1)), stages

    class WideBlock(nn.Module):
        def __init__(self, inputs, size, stride):
            super().__init__()
            self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(size)
            self.conv1 = nn.Conv2d(inputs, size, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(size, size, 3, 1, 1, bias=False)
            self.same = inputs == size
            self.convShortcut = None if self.same else nn.Conv2d(inputs, size, 1, stride, 0, bias=False)

        def forward(self, x):
            y = F.relu(self.bn1(x))
            shortcut = x if self.convShortcut is None else self.convShortcut(y)
            return self.conv2(F.relu(self.bn2(self.conv1(y)))) + shortcut

    class Stack(nn.Module):
        def __init__(self, *layers):
            super().__init__()
            self.layer = nn.Sequential(*layers)

        def forward(self, x):
            return self.layer(x)

    class WideResNet(nn.Module):
        def __init__(self, depth, widen):
            super().__init__()
            self.conv1, size = nn.Conv2d(3, 16, 3, 1, 1, bias=False), 16
            for i in range(3):
                layers = []
                for j in range((depth - 4) // 6):
                    layers.append(WideBlock(size, 16 * widen * 2**i, 2 if i and not j else 1))
                    size = 16 * widen * 2**i
                setattr(self, f"block{i + 1}", Stack(*layers))
            self.bn1, self.fc = nn.BatchNorm2d(size), nn.Linear(size, 10)

        def forward(self, x):
            x, stages = self.block1(self.conv1(x)), []
            for block in (self.block2, self.block3):
                stages.append(F.relu(block.layer[0].bn1(x)))
                x = block(x)
            stages.append(F.relu(self.bn1(x)))
            return self.fc(stages[-1].mean((2, 3))), stages

    return torch, ResNet, VGGNet, WideResNet


def original(model: str):
    """PyTorch and the network, in evaluation mode, with running statistics that are not those of the start."""
    torch, ResNet, VGGNet, WideResNet = modules()
    torch.manual_seed(0)
    if model in RESNET:
        network = ResNet(RESNET[model])
    elif model in VGG:
        network = VGGNet(VGG[model])
    else:
        network = WideResNet(*map(int, model.split("-")[1:]))
    return torch, disturb(torch, network)


def disturb(torch, network):
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.weight, 1, 0.25)
            torch.nn.init.normal_(layer.bias, 0, 0.25)
            layer.running_mean.normal_(0, 0.25)
            layer.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize("model", ["resnet18", "resnet34", "vgg11", "vgg13", "vgg16", "wrn-16-2", "wrn-28-4"])
def test_logits_and_stage_ends_are_pytorchs(tmp_path, model):
    torch, network = original(model)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        logits, stages = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    converted = convert_weights(read_weights(tmp_path / "teacher.pt"))
    assert (converted.model, converted.width) == (model, 1.0)
    ours = build(model, 10, pool=converted.pool)
    found, features = jax.device_get(jax.jit(ours.apply)(converted.variables, images))
    pairs = [(found, logits)] + [
        (features["stages"][f"stage{i}"], end.permute(0, 2, 3, 1)) for i, end in enumerate(stages, start=1)
    ]
    assert len(features["stages"]) == len(stages)
    for a, b in pairs:
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=1e-4 * b.abs().max().item())


def test_checkpoints_and_what_is_put_before_the_names(tmp_path):
    torch, network = original("wrn-16-2")
    plain = read_weights(_saved(torch, tmp_path, network.state_dict()))
    parallel = {f"module.{name}": x for name, x in network.state_dict().items()}
    compiled = {f"_orig_mod.{name}": x for name, x in parallel.items()}
    for content in (
        {"net": parallel, "acc": 93.0, "epoch": 7},
        {"state_dict": compiled, "best": torch.tensor(1)},
        {"model": {name: x.double() for name, x in network.state_dict().items()}},
    ):
        found = read_weights(_saved(torch, tmp_path, content))
        assert found.keys() == plain.keys()
        for name, x in plain.items():
            np.testing.assert_array_equal(found[name], x)


@pytest.mark.parametrize(
    ("model", "size"),
    [("resnet18", 64), ("resnet34", 48), ("vgg11_bn", 64), ("vgg13_bn", 32), ("vgg16_bn", 100), ("resnet20-a", 32)],
)
def test_networks_of_torchvision_and_with_option_a(tmp_path, model, size):
    """For ImageNet with 1000 classes, on images of several sizes; ResNet-20 as pytorch_resnet_cifar10 defines it."""
    torch, ResNet, *_ = modules()
    torch.manual_seed(0)
    if model == "resnet20-a":
        network = ResNet(RESNET["resnet20"], 16)
        for i in (2, 3):
            getattr(network, f"layer{i}")[0].shortcut = option_a(torch, 8 * 2**i)
    else:
        network = getattr(pytest.importorskip("torchvision").models, model)(num_classes=1000)
    disturb(torch, network)
    images = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        found = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = (found[0] if isinstance(found, tuple) else found).numpy()
    converted = convert_weights(read_weights(_saved(torch, tmp_path, network.state_dict())))
    assert converted.model == (model if model == "resnet20-a" else f"{model.removesuffix('_bn')}-imagenet")
    ours = build(converted.model, converted.num_classes, width=converted.width, pool=converted.pool)
    logits = jax.device_get(jax.jit(ours.apply)(converted.variables, images))[0]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def option_a(torch, channels):
    """As in pytorch_resnet_cifar10: every second pixel, and a quarter of the channels of zeros on both sides."""

    class Shortcut(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels // 4, channels // 4), "constant", 0)

    return Shortcut()


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_pytorch_as_trainers_leave_them(tmp_path, legacy):
    """Written by PyTorch itself: beside the weights, in half precision, in other memory layouts, on views."""
    torch, network = original("wrn-16-2")
    plain = read_weights(_saved(torch, tmp_path, network.state_dict()))
    state = network.state_dict()
    beside = {"args": argparse.Namespace(lr=0.1, when=datetime.datetime(2024, 1, 1)), "best": np.float64(1)}
    beside["optimizer"] = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9).state_dict()
    last = {name: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for name, x in state.items()}
    flat = torch.cat([x.flatten() for x in state.values() if x.is_floating_point()])
    views, i = dict(state), 0
    for name, x in state.items():
        if x.is_floating_point():
            views[name], i = flat[i : i + x.numel()].view(x.shape), i + x.numel()
    for content in (
        {"state_dict": state, **beside},
        {"ema_state_dict": state, **beside},
        {"model": torch.optim.swa_utils.AveragedModel(network).state_dict()},
        {"state_dict": {f"model.{name}": torch.nn.Parameter(x, False) for name, x in state.items()}},
        last,
        views,
    ):
        torch.save(content, tmp_path / "teacher.pt", _use_new_zipfile_serialization=not legacy)
        found = read_weights(tmp_path / "teacher.pt")
        assert found.keys() == plain.keys()
        for name, x in plain.items():
            np.testing.assert_array_equal(found[name], x)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        halves = {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}
        torch.save(halves, tmp_path / "teacher.pt", _use_new_zipfile_serialization=not legacy)
        for name, x in read_weights(tmp_path / "teacher.pt").items():
            np.testing.assert_array_equal(x, halves[name].float().numpy() if x.dtype == np.float32 else state[name])


@pytest.mark.filterwarnings("ignore:.*(deprecated|beta state)")
def test_what_pytorch_writes_and_is_not_read_is_named(tmp_path):
    torch, network = original("wrn-16-2")
    state = network.state_dict()
    quantised = torch.quantize_per_tensor(state["fc.weight"], 0.1, 0, torch.qint8)
    for value in (quantised, state["fc.weight"].to_sparse()):
        with pytest.raises(InputError, match=r"entry fc\.weight is no plain tensor \(torch\._utils\._rebuild_"):
            read_weights(_saved(torch, tmp_path, {**state, "fc.weight": value}))
    torch.serialization.set_crc32_options(False)
    try:
        _saved(torch, tmp_path, state)
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(InputError, match="without checksums"):
        read_weights(tmp_path / "teacher.pt")
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "teacher.pt")
    with pytest.raises(InputError, match="TorchScript"):
        read_weights(tmp_path / "teacher.pt")


def test_a_pytorch_module_teaches_by_a_callback():
    """The module itself is no JAX function, and is no function of NumPy arrays; in training mode it is no teacher."""
    torch, network = original("wrn-16-2")
    images = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)

    def function(x):
        with torch.no_grad():
            return network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))[0].numpy()

    teacher = callback_teacher(function, num_classes=10)
    np.testing.assert_allclose(jax.jit(teacher.apply)((), images)[0], function(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"of torch, .*callback_teacher"):
        Teacher(network)
    with pytest.raises(InputError, match=r"function raised TypeError: .*give one such as lambda x: net\(torch"):
        jax.eval_shape(callback_teacher(network, num_classes=10).apply, (), images)
    with pytest.raises(InputError, match=r"trace it; if it is of another framework, .*callback_teacher"):
        jax.eval_shape(Teacher(lambda _, x: network(x)[0]).apply, (), images)
    network.train()
    with pytest.raises(InputError, match=r"net\.eval\(\)"):
        jax.eval_shape(callback_teacher(function, num_classes=10).apply, (), images)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    torch, network = original("wrn-16-2")
    file = _saved(torch, tmp_path, network.state_dict())
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no network"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"teacher\.pt cannot be read .*torch\.save\(model\.state_dict"):
            read_weights(file)
    _saved(torch, tmp_path, torch.nn.Linear(1, 1))  # executable code
    with pytest.raises(InputError, match=r"teacher\.pt: it holds an object of torch\.nn\.modules\.linear\.Linear"):
        read_weights(file)
    for content in ({"epoch": 3}, [1, 2], {}):
        _saved(torch, tmp_path, content)
        with pytest.raises(InputError, match="holds no state dict"):
            read_weights(file)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(silent|saturated) layers.*")
def test_a_file_guides_a_student_as_the_run_does_that_trained_it(tmp_path, capsys, monkeypatch):
    """A teacher of this library, written as PyTorch would have it: the student is the same bit for bit.

    It is one of the run's networks then. With another normalisation it knows too little, and the run says so.
    """
    torch, mesh = importlib.import_module("torch"), jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    monkeypatch.setattr(experiment, "data_mesh", lambda *_: mesh)
    small = ["--dataset", "digits", "--width", "0.1", "--epochs", "1", "--no-baseline", "--preset", "kdsnn"]
    teacher = ["--teacher", "resnet20", "--teacher-width", "0.25"]
    runs = {name: tmp_path / name for name in ("teacher", "checkpoint", "file", "wrong")}
    assert main([*small, *teacher, "--teacher-epochs", "6", "--teacher-only", "--run-dir", str(runs["teacher"])]) == 0
    trained = load(runs["teacher"], "teacher")
    weights = {name: torch.from_numpy(x) for name, x in as_torch(trained.variables).items()}
    torch.save({"net": {f"module.{name}": x for name, x in weights.items()}}, tmp_path / "resnet20.pt")
    checkpoint = [*teacher, "--teacher-checkpoint", str(runs["teacher"])]
    assert main([*small, *checkpoint, "--run-dir", str(runs["checkpoint"])]) == 0
    file = ["--teacher", f"torch:{tmp_path / 'resnet20.pt'}"]
    capsys.readouterr()
    assert main([*small, *file, "--run-dir", str(runs["file"])]) == 0
    printed = capsys.readouterr()
    assert "teacher torch:resnet20.pt: validation accuracy 0." in printed.out + printed.err
    assert "teacher (torch:resnet20.pt)" in printed.out
    logs = [(runs[name] / "metrics.jsonl").read_text().splitlines() for name in ("checkpoint", "file")]
    for lines in zip(*logs, strict=True):
        entries = [json.loads(line) for line in lines]
        for entry in entries:
            del entry["seconds"], entry["images_per_second"]
        assert entries[0] == entries[1]
    kept = load(runs["file"], "teacher")
    assert kept.network.title == "resnet20, width 0.25"
    jax.tree.map(np.testing.assert_array_equal, kept.variables, trained.variables)

    wrong = [*small, *file, "--teacher-normalisation", "100/0.01", "--run-dir", str(runs["wrong"])]
    assert main(wrong) == 2
    assert "is near chance, 0.1000; give the normalisation" in capsys.readouterr().err
    assert not runs["wrong"].exists()


def as_torch(variables) -> dict[str, np.ndarray]:
    """The entries of a ResNet's state dict, as pytorch-cifar names them."""
    names = {"stem": "conv1", "norm_stem": "bn1", "head": "linear", "conv_shortcut": "shortcut.0"}
    names |= {"norm_shortcut": "shortcut.1", "norm1": "bn1", "norm2": "bn2"}
    kinds = {"scale": "weight", "kernel": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}
    found = {}
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(jax.device_get(variables))
    for (_, *path, kind), x in flat.items():
        parts = [names.get(part, part) for part in path if part != "conv"]
        if parts[0].startswith("block"):
            stage, block = parts[0].removeprefix("block").split("_")
            parts[0] = f"layer{stage}.{int(block) - 1}"
        x = x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T
        found[".".join([*parts, kinds[kind]])] = np.array(x, order="C")
    return found


def _saved(torch, folder, content):
    torch.save(content, folder / "teacher.pt")
    return folder / "teacher.pt"
