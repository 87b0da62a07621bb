"""Digests of tensor bytes: XXH3 with 128 bits, written ``xxh3:<32 hex digits>``.

A digest tells damage, not malice: whoever can change the bytes can change the digest beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import xxhash

from ..errors import DamagedError
from ..tensor import LazyTensor

__all__ = ["check_digest", "chunks_of", "digest_of", "write_bytes"]

#: Small enough to stay in cache between hashing and writing, large enough to keep system calls rare.
CHUNK = 1 << 20


def chunks_of(array: np.ndarray) -> Iterator[memoryview]:
    """Gives the bytes of a C-ordered array piece by piece, without copying them."""
    flat = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    for start in range(0, len(flat), CHUNK):
        yield flat[start : start + CHUNK]


def digest_of(array: np.ndarray) -> str:
    """Gives the digest of a C-ordered array's bytes."""
    state = xxhash.xxh3_128()
    for chunk in chunks_of(array):
        state.update(chunk)
    return f"xxh3:{state.hexdigest()}"


def write_bytes(array: np.ndarray, file: BinaryIO) -> str:
    """Writes a C-ordered array's bytes and gives their digest, reading memory once."""
    state = xxhash.xxh3_128()
    for chunk in chunks_of(array):
        state.update(chunk)
        file.write(chunk)
    return f"xxh3:{state.hexdigest()}"


def check_digest(key: str, tensor: LazyTensor, found: str) -> None:
    """Raises DamagedError where the tensor's file promised another digest than ``found``."""
    if tensor.digest is not None and tensor.digest != found:
        raise DamagedError(
            f"{key}: found bytes with digest {found}, expected {tensor.digest}; "
            "the file was damaged after it was written: restore it from a copy"
        )
