"""Digests of arrays, files and functions."""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_ADDRESS = re.compile(" at 0x[0-9a-f]+")


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(tree: Any) -> str:
    """A digest of the paths, dtypes, shapes and bits of all arrays."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        x = np.asarray(_numbers(x))
        digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def checksum(tree: Any) -> jax.Array:
    """A checksum of the bits of all arrays, uint32 `[number of leaves]`: the same on any number of devices.

    Each word of a leaf is hashed together with its position (the finaliser of MurmurHash3), and the hashes are summed
    modulo 2^32, which does not depend on the order of summation.
    """

    def one(x):
        x = jnp.asarray(_numbers(x))
        x = x.astype(jnp.uint8) if x.dtype == bool else x
        words = x if x.dtype == jnp.uint32 else jax.lax.bitcast_convert_type(x, np.dtype(f"uint{8 * x.dtype.itemsize}"))
        h = words.astype(jnp.uint32).ravel()
        h = h + jnp.arange(1, h.size + 1, dtype=jnp.uint32) * np.uint32(0x9E3779B9)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            h = (h ^ (h >> shift)) * np.uint32(factor)
        return jnp.sum(h, dtype=jnp.uint32)

    return jnp.array([one(x) for x in jax.tree.leaves(tree)], jnp.uint32)


def _numbers(x: Any) -> Any:
    """The array, or the integers of a typed PRNG key, which is no NumPy array."""
    return jax.random.key_data(x) if jnp.issubdtype(jnp.result_type(x), jax.dtypes.prng_key) else x


def jaxpr_digest(function: Callable[..., Any], *arguments: Any) -> str:
    """A digest of a function's jaxpr and its constants for arguments of these shapes; it depends on JAX's version."""
    closed = jax.make_jaxpr(function)(*arguments)
    digest = hashlib.sha256(_ADDRESS.sub("", str(closed.jaxpr)).encode())
    for constant in _constants(closed):
        digest.update(fingerprint(constant).encode())
    return digest.hexdigest()


def _constants(closed: Any) -> Iterator[Any]:
    """The arrays that a jaxpr and those inside it have captured."""
    yield from closed.consts
    for equation in closed.jaxpr.eqns:
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(value, "consts"):
                yield from _constants(value)


def title(x: Any) -> str:
    """The name of a function or object, the same in every process: without memory addresses."""
    if isinstance(x, functools.partial):
        inside = [title(x.func), *map(repr, x.args), *(f"{name}={value!r}" for name, value in x.keywords.items())]
        return _ADDRESS.sub("", f"partial({', '.join(inside)})")
    return _ADDRESS.sub("", getattr(x, "__qualname__", None) or repr(x))
