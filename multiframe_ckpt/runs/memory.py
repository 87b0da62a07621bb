"""Memory: the host memory that snapshots are copied into, kept from one save to the next.

Fresh memory costs a page fault every few kilobytes, which takes four times as long as the copying itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

__all__ = ["Memory"]

_ALIGNMENT = 64  # a cache line, and more than any dtype asks for


class Memory:
    """One block of bytes. Whoever takes places in it must be done with those taken before."""

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self._block.nbytes

    def take(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """Return a place of each size in bytes (1-D uint8, its content whatever was there), over those taken before."""
        offsets = list(accumulate((-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes), initial=0))
        self._fit(offsets[-1])
        return [self._block[start : start + size] for start, size in zip(offsets, sizes, strict=False)]

    def _fit(self, nbytes: int) -> None:
        """Make the block anew where it is too small, or more than twice too large."""
        if nbytes <= self._block.nbytes <= 2 * nbytes:
            return
        self.free()  # first, so that there are never two
        self._block = np.empty(nbytes, np.uint8)  # from 4 MiB on NumPy asks for huge pages, which fault less often

    def free(self) -> None:
        """Give the memory back to the system."""
        self._block = np.empty(0, np.uint8)
