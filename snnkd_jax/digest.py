"""Digests: what tells arrays, files and functions from others."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def sha256(data: bytes) -> str:
    """The digest of bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def fingerprint(tree: Any) -> str:
    """A digest of the names, types, shapes and bits of all arrays."""
    digest = hashlib.sha256()
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        x = np.asarray(x)
        digest.update(f"{jax.tree_util.keystr(path)} {x.dtype} {x.shape}".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def checksum(tree: Any) -> jax.Array:
    """A checksum of the bits of all arrays, uint32 `[number of leaves]`: the same on any number of devices.

    Each word of a leaf is hashed together with its place (the finaliser of MurmurHash3), and the hashes are summed
    modulo 2^32, in integer arithmetic, whose result does not depend on the order of summation.
    """

    def one(x):
        x = jnp.asarray(x)
        words = x if x.dtype == jnp.uint32 else jax.lax.bitcast_convert_type(x, _UINT[x.dtype.itemsize])
        h = words.astype(jnp.uint32).ravel()
        h = h + jnp.arange(1, h.size + 1, dtype=jnp.uint32) * np.uint32(0x9E3779B9)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            h = (h ^ (h >> shift)) * np.uint32(factor)
        return jnp.sum(h, dtype=jnp.uint32)

    return jnp.stack([one(x) for x in jax.tree.leaves(tree)])


_UINT = {np.dtype(d).itemsize: d for d in (np.uint8, np.uint16, np.uint32)}
