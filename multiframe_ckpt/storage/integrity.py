"""Digests of tensor bytes, written ``scheme:hex``.

This library writes ``xxh3`` (XXH3, 128 bits) and also checks ``crc32`` (IEEE 802.3), which zip files carry. A digest tells
damage, not malice: whoever can change the bytes can change the digest beside them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import xxhash

from ..errors import DamagedError
from ..tensor import LazyTensor
from ..tree import Tree, map_leaves, tensors_of

__all__ = ["checked", "chunks_of", "digest_of", "digest_of_bytes", "guarded", "unguarded", "write_bytes"]

#: Small enough to stay in cache between hashing and writing, large enough to keep system calls rare.
CHUNK = 1 << 20


def chunks_of(array: np.ndarray) -> Iterator[memoryview]:
    """Gives the bytes of a C-ordered array piece by piece, without copying them."""
    flat = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    for start in range(0, len(flat), CHUNK):
        yield flat[start : start + CHUNK]


def digest_of(array: np.ndarray, scheme: str = "xxh3") -> str:
    """Gives the digest of a C-ordered array's bytes."""
    if scheme == "crc32":
        crc = 0
        for chunk in chunks_of(array):
            crc = zlib.crc32(chunk, crc)
        return f"crc32:{crc:08x}"
    state = xxhash.xxh3_128()
    for chunk in chunks_of(array):
        state.update(chunk)
    return f"xxh3:{state.hexdigest()}"


def digest_of_bytes(raw: bytes | memoryview) -> str:
    """Gives the digest of bytes that are no tensor, such as a header."""
    return f"xxh3:{xxhash.xxh3_128_hexdigest(raw)}"


def write_bytes(array: np.ndarray, file: BinaryIO) -> str:
    """Writes a C-ordered array's bytes and gives their digest, reading memory once."""
    state = xxhash.xxh3_128()
    for chunk in chunks_of(array):
        state.update(chunk)
        file.write(chunk)
    return f"xxh3:{state.hexdigest()}"


def guarded(tree: Tree, where: str) -> Tree:
    """Gives the tree of the file ``where`` with every tensor that has a digest :func:`checked` whenever it is read."""
    keys = {id(tensor): f"{where}: {key}" for key, tensor in tensors_of(tree).items()}
    return map_leaves(tree, lambda _, leaf: checked(keys[id(leaf)], leaf) if isinstance(leaf, LazyTensor) else leaf)


def unguarded(tree: Tree) -> Tree:
    """Gives the tree without digests: its tensors are taken as they are."""
    return map_leaves(tree, lambda _, leaf: replace(leaf, digest=None) if isinstance(leaf, LazyTensor) else leaf)


def checked(key: str, tensor: LazyTensor) -> LazyTensor:
    """Gives the tensor so that reading it raises DamagedError where its bytes are not the ones its file promised."""
    promised = tensor.digest
    if promised is None:
        return tensor

    def source() -> np.ndarray:
        array = tensor.numpy()
        found = digest_of(array, promised.partition(":")[0])
        if found != promised:
            raise DamagedError(
                f"{key}: found bytes with digest {found}, expected {promised}; "
                "the file was damaged after it was written: restore it from a copy"
            )
        return array

    return replace(tensor, source=source)
