"""Files as `torch.save` and safetensors write them, from NumPy arrays and without PyTorch.

Written from the formats: zip (`data.pkl`, `data/KEY`), legacy (five pickles and the storages), safetensors (a header of
JSON). Every array of a tree becomes a tensor in a storage of its own.
"""

import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from unittest import mock

import numpy as np

STORAGES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "u1": "Byte", "b1": "Bool"}
STORAGES |= {"c8": "ComplexFloat", "V2": "BFloat16", "i1": "QInt8"}


def module(name, *names, **values):
    """A module with classes of these names, as a pickle names them."""
    found = types.ModuleType(name)
    for n in names:
        values[n] = type(n, (), {"__module__": name, "__qualname__": n})
    vars(found).update(values)
    return found


TORCH = module("torch", *(f"{name}Storage" for name in STORAGES.values()), "device")
UTILS = module("torch._utils", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_qtensor")
MODULES = {"torch": TORCH, "torch._utils": UTILS}


class Parameter:
    def __init__(self, value):
        self.value = value


class Pickler(pickle.Pickler):
    def __init__(self, stream, storages, legacy):
        super().__init__(stream, protocol=2)
        self.storages, self.legacy = storages, legacy

    def persistent_id(self, x):
        if not isinstance(x, Storage):
            return None
        key = next((k for k, other in self.storages.items() if other is x.array), str(len(self.storages)))
        self.storages[key] = x.array
        kind = getattr(TORCH, f"{STORAGES[x.array.dtype.str[1:]]}Storage")
        return "storage", kind, key, "cuda:0", x.array.size, *([None] if self.legacy else [])

    def reducer_override(self, x):
        if isinstance(x, Parameter):
            return UTILS._rebuild_parameter, (x.value, True, OrderedDict())
        if not isinstance(x, np.ndarray):
            return NotImplemented
        strides = tuple(step // x.itemsize for step in x.strides)
        function = UTILS._rebuild_qtensor if x.dtype == np.int8 else UTILS._rebuild_tensor_v2
        return function, (Storage(x), 0, x.shape, strides, False, OrderedDict())


class Storage:
    def __init__(self, array):
        self.array = array


def in_memory(x) -> bytes:
    """The bytes of an array in the order of its memory."""
    return x.transpose(np.argsort(x.strides, stable=True)[::-1]).tobytes()


def pickled(content, storages, legacy=False, **modules) -> bytes:
    stream = io.BytesIO()
    with mock.patch.dict(sys.modules, {**MODULES, **modules}):
        Pickler(stream, storages, legacy).dump(content)
    return stream.getvalue()


def save(file: Path, content, **modules) -> Path:
    storages = {}
    data = pickled(content, storages, **modules)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", in_memory(array))
        archive.writestr("archive/version", "3\n")
    return file


def save_legacy(file: Path, content, **modules) -> Path:
    storages = {}
    data = pickled(content, storages, legacy=True, **modules)
    parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    parts += [data, pickle.dumps(list(storages), 2)]
    for array in storages.values():
        parts += [struct.pack("<q", array.size), in_memory(array)]
    file.write_bytes(b"".join(parts))
    return file


def save_safetensors(file: Path, content, **metadata) -> Path:
    names, header, body = {"f4": "F32", "f2": "F16", "i8": "I64", "V2": "BF16"}, {"__metadata__": metadata}, b""
    for name, x in content.items():
        places = [len(body), len(body) + x.nbytes]
        header[name] = {"dtype": names[x.dtype.str[1:]], "shape": list(x.shape), "data_offsets": places}
        body += x.tobytes()
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return file
