"""Files as public trainers leave them: read, or refused with file, entry and reason; nothing is executed."""

import argparse
import datetime
import enum
import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
from representative import slow
from torch_files import Parameter, module, save, save_legacy, save_safetensors
from torch_nets import resnet_weights, vgg_weights, wide_resnet_weights

from snnkd_jax.errors import InputError
from snnkd_jax.models.torch_weights import convert_weights, read_weights

WEIGHTS = {name: np.asarray(x) for name, x in resnet_weights("resnet20", 4).items()}
OTHERS = {name: np.asarray(x + 1) for name, x in WEIGHTS.items()}


def prefixed(prefix, weights=WEIGHTS):
    return {prefix + name: x for name, x in weights.items()}


def assert_same(found, expected=WEIGHTS):
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x)
        assert found[name].dtype == (np.float32 if x.dtype.kind == "f" else x.dtype)


class Split(enum.Enum):
    TRAIN = "train"


BESIDE = {
    "epoch": 7,
    "best_acc": np.float64(93.1),
    "args": argparse.Namespace(lr=0.1, when=datetime.datetime(2024, 1, 1), where=Path("x"), split=Split.TRAIN),
    "optimizer": {"state": {0: {"momentum_buffer": np.ones(3, np.float32)}}, "param_groups": [{"lr": 0.1}]},
    "history": defaultdict(list, loss=[np.float32(1.0)]),
    Split.TRAIN: {1, 2},
}

LEFT = [
    WEIGHTS,
    OrderedDict(WEIGHTS),
    {"state_dict": WEIGHTS, **BESIDE},
    {"model_state_dict": OrderedDict(prefixed("module.")), **BESIDE},
    {"net": prefixed("_orig_mod.module."), **BESIDE},
    {"model": {"module": WEIGHTS}, **BESIDE},
    {"state_dict": prefixed("model."), "hyper_parameters": {"lr": 1}, "pytorch-lightning_version": "2.1", **BESIDE},
    {"state_dict": prefixed("net._orig_mod."), "callbacks": {"EarlyStopping{'mode': 'min'}": {"wait": 1}}},
    {"state_dict": prefixed("backbone.encoder."), "loops": {"fit_loop": {"state_dict": {}}}},
    {"weights": {k: Parameter(x) for k, x in WEIGHTS.items()}},
    [WEIGHTS, 3],
    {"state": {"model": {"weights": WEIGHTS}, "rng": np.zeros(3, np.uint8)}},
    prefixed("student."),
    {**WEIGHTS, "epoch": 3, "arch": "resnet20"},
]


@pytest.mark.parametrize("content", LEFT, ids=[str(i) for i in range(len(LEFT))])
@pytest.mark.parametrize("write", [save, slow(save_legacy)])
def test_what_trainers_store_beside_the_weights_is_in_nobodys_way(tmp_path, content, write):
    assert_same(read_weights(write(tmp_path / "net.pt", content)))


@pytest.mark.parametrize(
    ("content", "entry", "taken", "says"),
    [
        ({"state_dict": WEIGHTS, "state_dict_ema": OTHERS}, None, WEIGHTS, ["'state_dict'", "'state_dict_ema'"]),
        ({"state_dict": WEIGHTS, "state_dict_ema": OTHERS}, "state_dict_ema", OTHERS, ["'state_dict_ema' (a moving"]),
        ({"ema_state_dict": OTHERS, "epoch": 1}, None, OTHERS, ["'ema_state_dict' (a moving average)"]),
        ({"ema": {"module": OTHERS, "updates": 9}, "model": None}, None, OTHERS, ["'ema' (a moving average)"]),
        ({"modelEMA": OTHERS, "model": WEIGHTS}, None, WEIGHTS, ["'model'", "'modelEMA' (a moving average)"]),
        ({**prefixed("module."), "n_averaged": np.array([5])}, None, WEIGHTS, []),
        (prefixed("ema_model.", OTHERS) | prefixed("online_model."), None, WEIGHTS, ["'ema_model'"]),
        (prefixed("student.") | prefixed("teacher.", OTHERS), "teacher", OTHERS, ["'teacher'", "'student'"]),
        ({"best": {"model": WEIGHTS, "x": 1}, "last": {"model": OTHERS}}, "last", OTHERS, ["'last.model'"]),
        (prefixed("model.") | {"criterion.weight": np.ones(9, np.float32)}, "model", WEIGHTS, ["criterion.weight"]),
        (WEIGHTS | prefixed("teacher.", OTHERS), ".", WEIGHTS, ["'.'", "'teacher'"]),
    ],
)
def test_of_several_networks_one_is_taken_and_named(tmp_path, capsys, content, entry, taken, says):
    assert_same(read_weights(save(tmp_path / "net.pt", content), entry), taken)
    printed = capsys.readouterr().out
    assert all(part in printed for part in says), printed
    assert bool(printed) == bool(says)


@pytest.mark.parametrize(
    ("content", "entry", "told"),
    [
        (
            prefixed("student.") | prefixed("teacher."),
            None,
            ["several networks", "teacher_entry", "'student', 'teacher'"],
        ),
        ({"encoder_q": WEIGHTS, "encoder_k": OTHERS}, None, ["'encoder_q', 'encoder_k'"]),
        ({"ema": WEIGHTS, "swa": OTHERS}, None, ["'ema' (a moving average), 'swa' (a moving average)"]),
        ({"a": WEIGHTS, "b": OTHERS}, "c", ["teacher_entry='c' is no network", "'a', 'b'"]),
        ({"x": {"a": WEIGHTS, "b": OTHERS}}, "x", ["teacher_entry='x' is several networks", "'x.a', 'x.b'"]),
        (
            prefixed("1.") | {"0.mean": np.ones(3, np.float32)},
            None,
            ["0.mean beside the network '1'", "teacher_entry='1'"],
        ),
        (WEIGHTS | {"module.conv1.weight": WEIGHTS["conv1.weight"]}, None, ["conv1.weight twice"]),
        ({"shadow_params": [np.ones(3, np.float32)], "decay": 1}, None, ["no state dict, only shadow_params, decay"]),
        ({"epoch": 3}, None, ["no state dict, only epoch", "torch.save(model.state_dict()"]),
        ({}, None, ["holds no state dict;"]),
        (3, None, ["holds no state dict;"]),
        ({"blocks.0.attn": np.ones(3, np.float32)}, None, ["no known network", "blocks.0.attn"]),
        (
            {**WEIGHTS, "fc.weight": np.ones((2, 2), np.int8)},
            None,
            ["entry fc.weight", "torch._utils._rebuild_q"],
        ),
    ],
)
def test_what_cannot_be_chosen_or_read_is_named(tmp_path, content, entry, told):
    with pytest.raises(InputError) as error:
        read_weights(save(tmp_path / "net.pt", content), entry)
    assert all(part in str(error.value) for part in ["teacher torch:", "net.pt", *told]), error.value
    assert "\n" not in str(error.value)


def test_a_pickled_module_is_not_run_and_named(tmp_path):
    """Nor is anything else that a pickle names: here a file that would be made."""
    nets = module("nets", "ResNet")
    with pytest.raises(InputError, match=r"an object of nets\.ResNet, .* torch\.save\(model\.state_dict"):
        read_weights(save(tmp_path / "net.pt", nets.ResNet(), nets=nets))
    made = tmp_path / "made"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(made),)

    assert pickle.loads(pickle.dumps(Evil())) is None
    assert made.is_dir()
    made.rmdir()
    for write in (save, save_legacy):
        assert_same(read_weights(write(tmp_path / "net.pt", {"state_dict": WEIGHTS, "evil": [Evil(), {Evil()}]})))
        with pytest.raises(InputError, match=r"posix\.mkdir"):
            read_weights(write(tmp_path / "net.pt", {"evil": Evil()}))
    assert not made.exists()


@pytest.mark.parametrize("write", [save, save_legacy, save_safetensors])
@pytest.mark.parametrize("dtype", ["f2", "bf16"])
def test_halves_are_read(tmp_path, write, dtype):
    """A bfloat16 is the upper half of a float32."""
    x = {name: x for name, x in WEIGHTS.items() if x.ndim}
    expected = {name: (v.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, v in x.items()}
    stored = {name: (v.view(np.uint32) >> 16).astype(np.uint16).view("V2") for name, v in x.items()}
    if dtype == "f2":
        stored = {name: v.astype(np.float16) for name, v in x.items()}
        expected = {name: v.astype(np.float32) for name, v in stored.items()}
    found = read_weights(write(tmp_path / "net.pt", stored))
    for name, v in expected.items():
        np.testing.assert_array_equal(found[name], v)


def test_views_of_a_storage_are_read(tmp_path):
    """Transposed kernels, as of channels_last, and shared entries."""
    x = dict(WEIGHTS)
    x["conv1.weight"] = x["conv1.weight"].transpose(1, 2, 3, 0).copy().transpose(3, 0, 1, 2)
    x["layer1.0.conv2.weight"] = x["layer1.0.conv1.weight"]
    assert x["conv1.weight"].strides[0] == 4
    found = read_weights(save(tmp_path / "net.pt", x))
    assert_same(found, x)


@pytest.mark.parametrize("kind", ["complex64", "float64"])
def test_what_is_no_number_here_is_refused(tmp_path, kind):
    value = WEIGHTS["fc.weight"].astype(kind) * (1e300 if kind == "float64" else 1)
    weights = read_weights(save(tmp_path / "net.pt", {**WEIGHTS, "fc.weight": value}))
    with pytest.raises(InputError, match=r"fc\.weight (holds complex64|has values that are not finite)"):
        convert_weights(weights)


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"", "it begins with b''"),
        (pickle.dumps({"conv1.weight": [1]}), "neither by torch.save nor"),
        (b"\x89HDF\r\n", "HDF5"),
    ],
)
def test_other_files_are_named(tmp_path, start, told):
    (tmp_path / "net.pt").write_bytes(start + b" " * 100 * bool(start))
    with pytest.raises(InputError, match=f"net.pt cannot be read .*{told}"):
        read_weights(tmp_path / "net.pt")


def test_other_zip_files_are_named(tmp_path):
    """TorchScript, an archive, and a file without checksums, whose damage could not be noticed."""
    for names, told in (
        (["net/data.pkl", "net/constants.pkl"], "TorchScript"),
        (["a.txt"], "without a record data.pkl"),
    ):
        with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
            for name in names:
                archive.writestr(name, "x")
        with pytest.raises(InputError, match=told):
            read_weights(tmp_path / "net.pt")
    file = save(tmp_path / "net.pt", WEIGHTS)
    with zipfile.ZipFile(file) as archive:
        checksums = {record.CRC.to_bytes(4, "little") for record in archive.infolist()}
    data = file.read_bytes()
    for checksum in checksums:
        data = data.replace(checksum, bytes(4))
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"without checksums.*set_crc32_options\(True\)"):
        read_weights(file)
    with pytest.raises(InputError, match="is a directory"):
        read_weights(tmp_path)


@pytest.mark.parametrize("write", [save_legacy, save_safetensors])
def test_a_file_without_checksums_is_verified_by_its_name(tmp_path, capsys, write):
    """As torch.hub names them; without, it is said that damage could not be noticed."""
    weights = {name: x for name, x in WEIGHTS.items() if x.ndim}
    plain = write(tmp_path / "net-20240101.pth", weights)
    assert_same(read_weights(plain), weights)
    assert "without checksums" in capsys.readouterr().out
    named = tmp_path / f"net-{hashlib.sha256(plain.read_bytes()).hexdigest()[:8]}.pth"
    named.write_bytes(plain.read_bytes())
    assert_same(read_weights(named), weights)
    assert capsys.readouterr().out == ""
    named.write_bytes(plain.read_bytes()[:-1] + bytes([plain.read_bytes()[-1] ^ 1]))
    with pytest.raises(InputError, match=r"its SHA-256 begins with .* download it again, or rename it"):
        read_weights(named)


def damaged(data: bytes, rng) -> bytes:
    """The data with a bit or a block changed, removed or inserted somewhere, or cut off."""
    kind, i, n = rng.integers(7), int(rng.integers(len(data))), int(rng.integers(1, 200))
    block = rng.integers(0, 256, n, np.uint8).tobytes()
    j = int(rng.integers(len(data)))
    return {
        0: data[:i] + bytes([data[i] ^ 1 << int(rng.integers(8))]) + data[i + 1 :],
        1: data[:i] + block + data[i + n :],
        2: data[:i] + bytes(n) + data[i + n :],
        3: data[:i] + data[i + n :],
        4: data[:i] + block + data[i:],
        5: data[:i],
        6: data[:i] + data[j : j + n] + data[i + n :],
    }[int(kind)]


NETWORKS = [resnet_weights("resnet20", 2), vgg_weights("vgg11", 1 / 64), wide_resnet_weights(16, 2, 1)]


def attempt(file, expected):
    """The arrays of a file, or the line of its refusal; others than the expected ones are a network too."""
    try:
        found = read_weights(file)
        if str(found) != str(expected):
            convert_weights(found)
    except InputError as error:
        return str(error)
    return found


@pytest.mark.parametrize("count", [40, slow(400)])
def test_a_damaged_file_is_the_same_network_or_refused(tmp_path, count):
    """Nothing else, and never another network: zip files, and legacy ones whose name has their SHA-256.

    Where damage is dense: half of it is in the first and the last kilobytes, where names and places are.
    """
    files = []
    for i, network in enumerate(NETWORKS):
        weights = {name: np.asarray(x) for name, x in network.items()}
        content = {"state_dict": weights, "args": argparse.Namespace(x=1)}
        files += [(w, weights, w(tmp_path / f"{i}", content).read_bytes()) for w in (save, save, save, save_legacy)]
    read = 0
    for i in range(count):
        rng = np.random.default_rng(i)
        write, weights, data = files[i % len(files)]
        edge = 8000 if i % 2 else len(data)
        changed = damaged(data[:edge], rng) + data[edge:] if i % 8 < 4 else data[:-edge] + damaged(data[-edge:], rng)
        name = f"net-{hashlib.sha256(data).hexdigest()[:12]}.pt" if write is save_legacy else "net.pt"
        (tmp_path / name).write_bytes(changed)
        if isinstance(found := attempt(tmp_path / name, weights), str):
            assert "\n" not in found
        else:
            assert_same(found, weights)
            read += 1
    assert read < count / 2


@pytest.mark.parametrize("count", [10, slow(60)])
def test_damage_of_the_structure_of_a_legacy_file_is_no_other_error(tmp_path, count):
    """Of files whose values nothing verifies: in the pickles, where each byte has a meaning."""
    file = save_legacy(tmp_path / "net.pt", {"state_dict": WEIGHTS, "args": argparse.Namespace(x=1)})
    data = file.read_bytes()
    edge = len(data) - sum(x.nbytes for x in WEIGHTS.values())
    for i in range(count):
        file.write_bytes(damaged(data[:edge], np.random.default_rng(i)) + data[edge:])
        found = attempt(file, WEIGHTS)
        assert not isinstance(found, str) or "\n" not in found
