"""Bands: boxes of a source whose axes are in another order, read one after another in little memory.

The elements of a turned matrix's row lie far apart in a file, a few bytes in each row there. A band is as many rows of the
turned matrix as memory allows; to make one, every row of the file is touched once, tile by tile, each small enough to stay
in the processor's cache while it is turned. Where what a band takes of a row is so little that to skip the rest costs more
than to read it, the rest is read as well.

Of very many rows a target that can be written anywhere is better served with blocks: what is read and what is written lies
in longer runs, so that a matrix twice as large takes twice as long, where bands would take four times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt, prod
from threading import Lock

import numpy as np

from ..forks import call_in_children
from .boxes import blocks, positions, shape_of
from .digests import PIECE
from .sources import Source

__all__ = ["IN_BLOCKS", "bands", "rectangles"]

#: Bytes of all bands at once. A stream that finds none left still gets the least; a copy has up to four streams.
_MOST, _LEAST = 54 << 20, 2 << 20
#: Bytes and rows of a matrix from which on blocks are worth it: bands take less time to write, and no reading again.
IN_BLOCKS = 2 * _MOST, 24_000
#: Bytes of a tile, which a core's second cache holds beside what it is turned into.
_TILE = PIECE // 2
#: To skip so many bytes takes as long as to read them: a call of the system, 1 µs, at 8 GB/s.
_SKIP = 8 << 10
#: To write a run takes so many times as long as to read one, on ext4, where 4 µs go for the pages it begins and ends in.
_WRITE_COST = 5
#: Rows of a multiple of so many bytes begin in few lines of the cache.
_LINES = 256


def bands(base: Source, axes: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield what ``base`` with its axes in this order consists of, in C order; each array is good until the next.

    There is at least one axis.
    """
    reader = _Reader(base, axes)
    shape = tuple(base.shape[axis] for axis in axes)
    axis = _axis_of_rows(shape, base.dtype.itemsize)
    rest = tuple(map(range, shape[axis + 1 :]))
    row_nbytes = prod(shape[axis + 1 :]) * base.dtype.itemsize
    with _memory.stream():
        for head in positions(shape[:axis]) if 0 not in shape else ():
            start = 0
            while start < shape[axis]:
                with _memory.band() as nbytes:
                    rows = range(start, min(shape[axis], start + max(1, nbytes // row_nbytes)))
                    yield reader.read((*head, rows, *rest))
                start = rows.stop


def rectangles(base: Source) -> Iterator[tuple[range, range, np.ndarray]]:
    """Yield what a matrix turned consists of, block by block: its rows, its columns, and the elements, in C order."""
    reader = _Reader(base, (1, 0))
    columns, rows = base.shape
    with _memory.stream():
        start = 0
        while start < rows:
            with _memory.band() as nbytes:
                count = nbytes // base.dtype.itemsize
                high = min(rows, max(isqrt(count // _WRITE_COST), count // columns))
                block_rows = range(start, min(rows, start + high))
                for left in range(0, columns, count // high):
                    block_columns = range(left, min(columns, left + count // high))
                    yield block_rows, block_columns, reader.read((block_rows, block_columns))
            start = block_rows.stop


def _axis_of_rows(shape: tuple[int, ...], itemsize: int) -> int:
    """Return the first axis that bands can be cut along: an entry of it takes no more than the least memory."""
    axis = 0
    while axis < len(shape) - 1 and prod(shape[axis + 1 :]) * itemsize > _LEAST:
        axis += 1
    return axis


class _Memory:
    """The memory of all bands. Nobody waits for it: who has some may be waiting for who has none."""

    def __init__(self) -> None:
        self._lock, self._streams, self._taken = Lock(), 0, 0

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Count a stream of bands: each gets the same share."""
        with self._lock:
            self._streams += 1
        try:
            yield
        finally:
            with self._lock:
                self._streams -= 1

    @contextmanager
    def band(self) -> Iterator[int]:
        """Take a share of the memory until the band is done with; yield its bytes."""
        with self._lock:
            nbytes = max(_LEAST, min(_MOST - self._taken, _MOST // self._streams))
            self._taken += nbytes
        try:
            yield nbytes
        finally:
            with self._lock:
                self._taken -= nbytes


_memory = _Memory()


@call_in_children
def _forget_bands() -> None:
    """Let a child of fork begin with no bands: those of its parent are read by threads that it does not have."""
    global _memory
    _memory = _Memory()


class _Reader:
    """Reads boxes of a turned source, one after another, into the same memory."""

    def __init__(self, base: Source, axes: tuple[int, ...]) -> None:
        self._base, self._back = base, tuple(int(axis) for axis in np.argsort(axes))
        self._band = self._tile = np.empty(0, np.uint8)

    def read(self, box: tuple[range, ...]) -> np.ndarray:
        """Return what a box takes of the turned source, in C order."""
        if len(self._band) < prod(shape_of(box)) * self._base.dtype.itemsize:
            self._band = np.empty(0, np.uint8)  # before there is a larger one: two would take twice the memory
        self._band, band = _shaped(self._band, self._base.dtype.numpy, shape_of(box))
        target, box = band.transpose(self._back), tuple(box[axis] for axis in self._back)
        wide = self._widened(box)
        for block in blocks(shape_of(wide), band.itemsize, _TILE):
            tile_box = tuple(whole[entry.start : entry.stop] for whole, entry in zip(wide, block, strict=True))
            taken = tuple(map(_common, box, tile_box))
            if all(taken):
                target[_inside(taken, box)] = self._read_tile(tile_box)[_inside(taken, tile_box)]
        return band

    def _widened(self, box: tuple[range, ...]) -> tuple[range, ...]:
        """Return the box with the rest of each row where it takes all but a little of the row."""
        shape = self._base.shape
        axis = max((i for i, entry in enumerate(box) if len(entry) < shape[i]), default=0)
        skipped = (shape[axis] - len(box[axis])) * prod(shape[axis + 1 :]) * self._base.dtype.itemsize
        if self._base.extent is None or skipped > _SKIP:
            return box
        return (*box[:axis], range(shape[axis]), *box[axis + 1 :])

    def _read_tile(self, box: tuple[range, ...]) -> np.ndarray:
        """Read a tile into rows of which no column falls into few lines of the cache, as rows of 2**n bytes would."""
        *outer, inner = shape_of(box)
        itemsize = self._base.dtype.itemsize
        padded = inner if inner * itemsize % _LINES else inner + _LINES // 4 // itemsize
        self._tile, tile = _shaped(self._tile, self._base.dtype.numpy, (*outer, padded))
        self._base.part(box).into(tile[..., :inner])
        return tile[..., :inner]


def _shaped(raw: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes, the same if they are enough, and an array of this dtype and shape over the first of them."""
    nbytes = prod(shape) * dtype.itemsize
    if len(raw) < nbytes:
        raw = np.empty(nbytes, np.uint8)
    return raw, raw[:nbytes].view(dtype).reshape(shape)


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _inside(box: tuple[range, ...], outer: tuple[range, ...]) -> tuple[slice, ...]:
    """Return where a box stands in one around it."""
    pairs = zip(box, outer, strict=True)
    return tuple(slice(entry.start - whole.start, entry.stop - whole.start) for entry, whole in pairs)
