"""Digests of tensor bytes, written ``scheme:hex``.

This library writes ``xxh3`` (XXH3, 128 bits) and also checks ``crc32`` (IEEE 802.3), which zip files carry; ``crc32-<hex>``
is one that goes on from that of bytes before, such as a header in the same member. A digest tells damage, not malice:
whoever can change the bytes can change the digest beside them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import xxhash

from ..errors import DamagedError

try:
    from isal.isal_zlib import crc32  # ten times as fast
except ImportError:  # no wheel for this machine
    from zlib import crc32

__all__ = [
    "PIECE",
    "XXH3_PATTERN",
    "Hashing",
    "bytes_of",
    "chunks_of",
    "crc32",
    "digest_of",
    "digest_of_bytes",
    "is_digest",
    "is_own_digest",
    "require_digest",
    "scheme_of",
]

#: So many bytes at a time are moved and hashed: few enough to stay in cache in between, enough to keep calls rare.
PIECE = 1 << 20

Bytes: TypeAlias = bytes | bytearray | memoryview

#: The regular expression of a digest that this library writes.
XXH3_PATTERN = r"xxh3:[0-9a-f]{32}"
_XXH3 = re.compile(XXH3_PATTERN)
_DIGEST = re.compile(rf"{XXH3_PATTERN}|crc32(?:-[0-9a-f]{{8}})?:[0-9a-f]{{8}}")


class Hashing:
    """Digests of bytes that pass piece by piece, in several schemes."""

    def __init__(self, schemes: Iterable[str]) -> None:
        self._crcs: dict[str, int] = {}
        self._xxh3 = None
        for scheme in schemes:
            if scheme.startswith("crc32"):
                self._crcs[scheme] = int(scheme.partition("-")[2] or "0", 16)
            else:
                self._xxh3 = xxhash.xxh3_128()

    def update(self, piece: Bytes) -> None:
        """Add the next piece."""
        if self._xxh3 is not None:
            self._xxh3.update(piece)
        for scheme, crc in self._crcs.items():
            self._crcs[scheme] = crc32(piece, crc)

    def digests(self) -> dict[str, str]:
        """Return scheme → digest of what has passed."""
        digests = {scheme: f"{scheme}:{crc:08x}" for scheme, crc in self._crcs.items()}
        return digests if self._xxh3 is None else digests | {"xxh3": f"xxh3:{self._xxh3.hexdigest()}"}


def bytes_of(array: np.ndarray) -> memoryview:
    """Return a C-ordered array's bytes, without a copy."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def chunks_of(array: np.ndarray) -> Iterator[memoryview]:
    """Yield the bytes of a C-ordered array in pieces of at most PIECE bytes, without a copy."""
    flat = bytes_of(array)
    for start in range(0, len(flat), PIECE):
        yield flat[start : start + PIECE]


def scheme_of(digest: str) -> str:
    """Return the scheme of a digest."""
    return digest.partition(":")[0]


def digest_of(array: np.ndarray, scheme: str = "xxh3") -> str:
    """Return the digest of a C-ordered array's bytes."""
    hashing = Hashing([scheme])
    for chunk in chunks_of(array):
        hashing.update(chunk)
    return hashing.digests()[scheme]


def digest_of_bytes(raw: Bytes, scheme: str = "xxh3", head: bytes = b"") -> str:
    """Return the digest of bytes at once: of a header, or of a small tensor; a CRC also covers a ``head`` before them."""
    if scheme == "xxh3":
        return f"xxh3:{xxhash.xxh3_128_hexdigest(raw)}"
    start = int(scheme.partition("-")[2] or "0", 16)
    return f"{scheme}:{crc32(raw, crc32(head, start)):08x}"


def is_digest(text: str) -> bool:
    """Return whether a file's text is a digest of a scheme that is checked here."""
    return _DIGEST.fullmatch(text) is not None


def is_own_digest(text: str) -> bool:
    """Return whether a file's text is a digest as this library writes them."""
    return _XXH3.fullmatch(text) is not None


def require_digest(where: str, digest: str, expected: str) -> None:
    """Raise DamagedError unless the digest of what was read is the expected one."""
    if digest != expected:
        raise DamagedError(
            f"{where}: found bytes with digest {digest}, expected {expected}; "
            "the file was damaged after it was written: restore it from a copy"
        )
