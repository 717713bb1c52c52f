"""Files of PyTorch and of safetensors, read without PyTorch and without running code of theirs.

| format      | written by                | content                                               | checksums        |
| ----------- | ------------------------- | ----------------------------------------------------- | ---------------- |
| zip         | `torch.save`, since 1.6   | `data.pkl`, and the bytes of each storage in `data/`  | CRC-32, verified |
| legacy      | `torch.save`, before 1.6  | five pickles, then the bytes of each storage          | none             |
| safetensors | `safetensors.torch`       | names, dtypes, shapes and places in JSON, then bytes  | none             |

A name such as `resnet18-f37072fd.pth` has the first digits of the file's SHA-256, as `torch.hub` reads it, and they are
verified. Without either, a changed value in the bytes cannot be noticed.

A pickle calls functions and classes by name. Here names are looked up in a table of this module and nowhere else:
containers and tensors are built, and anything else becomes a `Foreign`, which knows its name and does nothing.
"""

import dataclasses
import hashlib
import io
import json
import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from snnkd_jax.errors import InputError

SAVE = "save it by torch.save(model.state_dict(), FILE)"

_STORAGES = {
    **{"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16},
    **{"LongStorage": np.int64, "IntStorage": np.int32, "ShortStorage": np.int16, "CharStorage": np.int8},
    **{"ByteStorage": np.uint8, "BoolStorage": np.bool_, "UntypedStorage": np.uint8, "BFloat16Storage": jnp.bfloat16},
    **{"ComplexFloatStorage": np.complex64, "ComplexDoubleStorage": np.complex128},
}
_SAFETENSORS = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "BOOL": np.bool_},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8},
}

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""The contents of the first two pickles of a legacy file."""

_OTHERS = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file; fetch it by git lfs pull",
    b"<": "it is a web page or XML, not the file; download it again",
    b"\x1f\x8b": "it is compressed by gzip; decompress it",
    b"\x89HDF": "it is an HDF5 file, as of Keras; PyTorch's are read",
}
"""The first bytes of files that are often found in the place of a PyTorch file, and what to do."""


Order = Literal["<", ">"]
"""The order of the bytes of a number: little-endian or big-endian."""


class FormatError(Exception):
    """A file that has no format of the table above, or is damaged."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file: element i is at `offset + i . stride` of the storage `key`, which has `size` elements."""

    dtype: np.dtype
    key: str
    size: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def is_floating(self) -> bool:
        """Whether its values are real floating-point numbers."""
        return jnp.issubdtype(self.dtype, jnp.floating)


class Foreign:
    """An object of a pickle that is neither a container nor a tensor: its class has the name, and nothing is done."""

    def __new__(cls, *_: Any, **__: Any) -> "Foreign":
        """Ignores the arguments."""
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any): ...

    def ignore(self, *_: Any, **__: Any) -> "Foreign":
        """Ignores what a pickle does to the object."""
        return self

    __call__ = __setstate__ = __setitem__ = append = extend = add = ignore  # pyright: ignore


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a file holds: dictionaries, lists and numbers with `Tensor` and `Foreign` in them, and its storages.

    `checked` is whether damage of the storages would have been noticed.
    """

    content: Any
    storage: Callable[[str], bytes]
    checked: bool

    def array(self, tensor: Tensor) -> NDArray:
        """The values of a tensor; raises `FormatError` if its storage is damaged or too small."""
        data = self.storage(tensor.key)
        if len(data) != tensor.size * tensor.dtype.itemsize:
            raise FormatError(f"storage {tensor.key} has {len(data)} bytes for {tensor.size} values")
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True))
        if math.prod(tensor.shape) > tensor.size or (math.prod(tensor.shape) and last >= tensor.size):
            raise FormatError(f"a tensor of shape {tensor.shape} exceeds its storage of {tensor.size} values")
        flat = np.frombuffer(data, tensor.dtype)[min(tensor.offset, tensor.size) :]
        strides = [step * tensor.dtype.itemsize for step in tensor.stride]
        return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)


def open_torch_file(file: Path) -> TorchFile:
    """Reads a file of one of the formats above; raises `InputError`, which names it, if it is damaged or of another."""
    teacher = f"teacher torch:{file}"
    if not file.is_file():
        raise InputError(f"{teacher} {'is a directory; name a file' if file.is_dir() else 'does not exist'}")
    try:
        data = file.read_bytes()
        hashed = _check_name(file.name, data)
        found = _parse(data)
        return dataclasses.replace(found, checked=found.checked or hashed)
    except (Exception, RecursionError) as error:  # pickle, zip and JSON each raise their own for a damaged file
        raise unreadable(file, error) from error


def unreadable(file: Path, error: BaseException) -> InputError:
    """The `InputError` for a file that raised `error` when it was read."""
    reason = (str(error).splitlines() or [""])[0][:300]
    reason = reason if isinstance(error, FormatError) else f"{type(error).__name__}: {reason}"
    advice = "" if ";" in reason else f"; copy it again, or {SAVE}"
    return InputError(f"teacher torch:{file} cannot be read ({reason}){advice}")


def _check_name(name: str, data: bytes) -> bool:
    """Whether the name has digits of the SHA-256; raises `FormatError` if they are those of another file."""
    digits = re.search(r"-([0-9a-f]{8,64})(?=\.[a-z.]+$)", name)
    if digits is None or digits[1].isdecimal():  # a date
        return False
    if not (found := hashlib.sha256(data).hexdigest()).startswith(digits[1]):
        raise FormatError(
            f"its name says that its SHA-256 begins with {digits[1]}, and it begins with {found[:8]}: it is damaged or "
            "another file; download it again, or rename it"
        )
    return True


def _parse(data: bytes) -> TorchFile:
    if data[:4] == b"PK\x03\x04":
        return _parse_zip(data)
    if data[:2] == b"\x80\x02" and _MAGIC.to_bytes(10, "little") in data[:20]:
        return _parse_legacy(data)
    if data[8:9] == b"{":
        return _parse_safetensors(data)
    for start, reason in _OTHERS.items():
        if data.startswith(start):
            raise FormatError(reason)
    raise FormatError(f"it begins with {data[:8]!r}: it was written neither by torch.save nor by safetensors")


def _parse_zip(data: bytes) -> TorchFile:
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise FormatError("two of its records have the same name")
    roots = [name.removesuffix("data.pkl") for name in names if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(roots) != 1:
        raise FormatError("it is a zip file without a record data.pkl, which torch.save writes")
    if f"{roots[0]}constants.pkl" in names:
        raise FormatError(f"it is a TorchScript program; load it by torch.jit.load and {SAVE}")

    if not any(record.CRC for record in archive.infolist()):
        again = "load it in PyTorch, and save it again after torch.serialization.set_crc32_options(True)"
        raise FormatError(f"it was written without checksums, so that damage could not be noticed; {again}")

    def read(name: str) -> bytes:
        return archive.read(roots[0] + name)  # which verifies the CRC-32

    big = f"{roots[0]}byteorder" in names and read("byteorder") == b"big"
    content = _unpickle(io.BytesIO(read("data.pkl")), ">" if big else "<")
    return TorchFile(content, lambda key: read(f"data/{key}"), checked=True)


def _parse_legacy(data: bytes) -> TorchFile:
    stream = io.BytesIO(data)
    if (_unpickle(stream), _unpickle(stream)) != (_MAGIC, _PROTOCOL):
        raise FormatError("it is of an unknown version of the legacy format")
    order = "<" if _unpickle(stream)["little_endian"] else ">"
    sizes: dict[str, int] = {}
    content, keys = _unpickle(stream, order, sizes), _unpickle(stream)
    storages = {}
    for key in keys:
        (size,) = struct.unpack("<q", stream.read(8))
        storages[key] = stream.read(max(size, 0) * sizes[key])
        if len(storages[key]) != size * sizes[key]:
            raise FormatError(f"storage {key} is truncated")
    if stream.read(1):
        raise FormatError("it has more bytes than its storages")
    return TorchFile(content, storages.__getitem__, checked=False)


def _parse_safetensors(data: bytes) -> TorchFile:
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size].decode(), object_pairs_hook=_unique)
    body, content, end = data[8 + size :], {}, 0
    entries = ((name, entry) for name, entry in header.items() if name != "__metadata__")
    for name, entry in sorted(entries, key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end:
            raise FormatError(f"{name} begins at byte {start}, where the entry before it ends at {end}")
        end = stop
        if (dtype := _SAFETENSORS.get(entry["dtype"])) is None:
            content[name] = _foreign("safetensors", entry["dtype"])()
            continue
        shape = tuple(entry["shape"])
        strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        content[name] = _tensor(_Storage(np.dtype(dtype), name, math.prod(shape)), 0, shape, strides)
    if end != len(body):
        raise FormatError(f"its entries end at byte {end} of {len(body)}")
    return TorchFile(content, lambda name: body[slice(*header[name]["data_offsets"])], checked=False)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise FormatError("two of its entries have the same name")
    return found


@dataclasses.dataclass(frozen=True)
class _Storage:
    dtype: np.dtype
    key: str
    size: int
    offset: int = 0


@dataclasses.dataclass(frozen=True)
class _StorageType:
    dtype: np.dtype


def _unpickle(stream: io.BytesIO, order: Order = "<", sizes: dict[str, int] | None = None) -> Any:
    """The next pickle of a stream; `sizes` receives the bytes per element of its storages, by key."""
    start = stream.tell()
    for operation, argument, _ in pickletools.genops(stream):
        # The unpickler would reserve as much memory as the largest number of a memo says.
        if operation.name.endswith("PUT") and (argument or 0) > stream.getbuffer().nbytes:
            raise FormatError("its pickle is damaged")
    return _Unpickler(stream.getvalue()[start : stream.tell()], order, {} if sizes is None else sizes).load()


class _Unpickler(pickle.Unpickler):
    """Builds containers and tensors; names are looked up in `_KNOWN` and `_STORAGES` alone."""

    def __init__(self, data: bytes, order: Order, sizes: dict[str, int]):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._order: Order = order
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.cuda", "torch.storage") and name in _STORAGES:
            return _StorageType(np.dtype(_STORAGES[name]).newbyteorder(self._order))
        return _KNOWN.get((module, name)) or _foreign(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":  # the class of a module, with its source code, in the legacy format
            return pid[1]
        _, kind, key, _, size, *views = pid
        if not isinstance(kind, _StorageType):
            return kind()  # a `Foreign`, such as torch.QInt8Storage
        if not isinstance(key, str) or not _is_size(size):
            raise FormatError("a storage has a name or a size that is none")
        self._sizes[key] = kind.dtype.itemsize
        view = next((view for view in views if view is not None), (None, 0))
        return _Storage(kind.dtype, key, size, view[1])


def _foreign(module: str, name: str) -> type[Foreign]:
    return type(f"{module}.{name}", (Foreign,), {})


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n < 2**48


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_tensor_v2`, and its predecessor."""
    if isinstance(storage, Foreign):
        return storage
    shape, stride = tuple(shape), tuple(stride)
    if not all(map(_is_size, (offset, storage.offset, *shape, *stride))) or len(shape) != len(stride):
        raise FormatError("a tensor has a shape or a stride that is none")
    return Tensor(storage.dtype, storage.key, storage.size, storage.offset + offset, shape, stride)


def _first(value: Any, *_: Any) -> Any:
    """What keeps a tensor and adds something to it, such as `torch._utils._rebuild_parameter`."""
    return value


def _called(function: Callable[..., Any], _: Any, arguments: tuple[Any, ...], *__: Any) -> Any:
    """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes, or of a subclass."""
    return function(*arguments)


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _first,
    ("torch.nn.parameter", "Parameter"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _called,
}
