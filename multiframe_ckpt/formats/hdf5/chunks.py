"""Chunks of an HDF5 dataset, looked into before the HDF5 library unpacks them: none may hold more than its shape says.

The library inflates a chunk to wherever its bytes lead, and looks at their number afterwards. So each chunk that is about
to be read is read raw first, and taken through its filters backwards: deflate is undone here, as far as the chunk is large
and not further, and of the others it is enough to know how much would come of them. Source: HDF5 File Format Specification
3.0, IV.A.2.l; ``H5Zdeflate.c``, ``H5Zszip.c``, ``H5Znbit.c`` and ``H5Zscaleoffset.c`` of HDF5 1.14; ``lzf_filter.c`` of
h5py 3.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...errors import UnsafeError
from ...tree.boxes import Box
from ...tree.digests import PIECE

__all__ = ["SAFE_FILTERS", "Chunks"]

_DEFLATE, _SHUFFLE, _FLETCHER, _SZIP, _NBIT, _SCALEOFFSET, _LZF = 1, 2, 3, 4, 5, 6, 32000
#: What HDF5 and h5py decode by themselves. For any other filter HDF5 would look on the disk for a plugin, and run it.
SAFE_FILTERS = frozenset({_DEFLATE, _SHUFFLE, _FLETCHER, _SZIP, _NBIT, _SCALEOFFSET, _LZF})
#: Those that nothing is undone of here; what comes of them goes on into no other that could make it larger.
_ENDS = {_SZIP, _NBIT, _SCALEOFFSET, _LZF}
_CHECKSUM_NBYTES = 4
#: LZF makes 264 bytes of three at the most; of so few it makes little, whatever they are.
_MOST_OF_LZF, _FEW = 88, 1 << 19


@dataclass(frozen=True, slots=True)
class _Filter:
    """One filter of a dataset's pipeline, and the numbers that it was set up with."""

    code: int
    values: tuple[int, ...]


class Chunks:
    """The chunks of one dataset; :meth:`require_sound` looks at those that a box crosses, each once."""

    def __init__(self, dataset: Any, where: str) -> None:
        creation = dataset.id.get_create_plist()
        filters = (creation.get_filter(number) for number in range(creation.get_nfilters()))
        self.filters = tuple(_Filter(code, tuple(values)) for code, _, values, _ in filters)
        self._dataset, self._where = dataset, where
        self._shape: tuple[int, ...] = dataset.chunks or ()
        self.nbytes = prod(self._shape) * dataset.dtype.itemsize if self._shape else 0
        self._unseen: list[tuple[int, ...]] | None = None  # chunks that were not looked into yet

    def obstacle(self) -> str | None:
        """Return why it is not read: filters that only plugins undo, or whose order nobody can look through."""
        unknown = sorted({one.code for one in self.filters} - SAFE_FILTERS)
        if unknown:
            return f"an HDF5 dataset behind filter {unknown[0]}, which is a plugin (h5repack removes it)"
        ends = [number for number, one in enumerate(self.filters) if one.code in _ENDS]
        if ends and any(one.code in {*_ENDS, _DEFLATE} for one in self.filters[: ends[-1]]):
            codes = ", ".join(str(one.code) for one in self.filters)
            return f"an HDF5 dataset behind filters {codes}, of which one alone can compress (h5repack removes them)"
        return None

    def require_sound(self, box: Box | None = None) -> None:
        """Raise UnsafeError for a chunk, of those that a box crosses or of all, that holds more than its shape says."""
        if not any(one.code in {*_ENDS, _DEFLATE} for one in self.filters):
            return
        if self._unseen is None:
            self._unseen = self._offsets()
        wanted = [offset for offset in self._unseen if box is None or self._crosses(offset, box)]
        for offset in wanted:
            self._require_sound(offset)
        if wanted:
            self._unseen = [] if box is None else sorted({*self._unseen}.difference(wanted))

    def rows(self, row_nbytes: int) -> int:
        """Return how many rows of a dataset to read at a time: whole chunks of about a piece."""
        height = self._shape[0] if self._shape else 1
        return height * max(1, PIECE // max(1, height * row_nbytes))

    def _offsets(self) -> list[tuple[int, ...]]:
        """Return where the chunks begin that are stored."""
        identifier = self._dataset.id
        if hasattr(identifier, "chunk_iter"):
            offsets: list[tuple[int, ...]] = []
            identifier.chunk_iter(lambda chunk: offsets.append(chunk.chunk_offset))
            return offsets
        return [identifier.get_chunk_info(number).chunk_offset for number in range(identifier.get_num_chunks())]

    def _crosses(self, offset: tuple[int, ...], box: Box) -> bool:
        spans = zip(offset, self._shape, box, strict=True)
        return all(_has(entry, range(start, start + size)) for start, size, entry in spans)

    def _require_sound(self, offset: tuple[int, ...]) -> None:
        mask, raw = self._dataset.id.read_direct_chunk(offset)
        for number, one in reversed(list(enumerate(self.filters))):
            if mask >> number & 1:  # left out for this chunk
                continue
            undone = _UNDOING[one.code](raw, one.values, self._most)
            if undone is None:
                raise UnsafeError(
                    f"{self._where}: found a chunk at {offset} that unpacks to more than the {self.nbytes} bytes of its "
                    "shape, expected no more; the file is forged"
                )
            raw = undone
            if one.code in _ENDS:
                return

    @property
    def _most(self) -> int:
        """Bytes that any filter may make of a chunk: deflate adds a little to what it cannot compress, and checksums."""
        return self.nbytes + self.nbytes // 1000 + 1024


def _has(entry: range | int, span: range) -> bool:
    if isinstance(entry, int):
        return entry in span
    ends = (entry[0], entry[-1]) if entry else (0, -1)
    return min(ends) < span.stop and max(ends) >= span.start


def _inflated(raw: bytes, _: tuple[int, ...], most: int) -> bytes | None:
    """Undo deflate; what is broken is left to the library, which says so."""
    inflater = zlib.decompressobj()
    try:
        whole = inflater.decompress(raw, most + 1)
    except zlib.error:
        return b""
    return whole if len(whole) <= most else None


def _unshuffled(raw: bytes, values: tuple[int, ...], _: int) -> bytes:
    size = values[0] if values else 1
    count = len(raw) // max(1, size)
    if size <= 1 or count <= 1:
        return raw
    planes = np.frombuffer(raw, np.uint8, size * count).reshape(size, count)
    return planes.T.tobytes() + raw[size * count :]


def _without_checksum(raw: bytes, _: tuple[int, ...], __: int) -> bytes:
    return raw[:-_CHECKSUM_NBYTES]


def _as_first_bytes_say(raw: bytes, _: tuple[int, ...], most: int) -> bytes | None:
    """Look at what szip's bytes begin with: how many come of them."""
    return raw if int.from_bytes(raw[:4], "little") <= most else None


def _as_setup_says(raw: bytes, values: tuple[int, ...], most: int) -> bytes | None:
    """Look at what nbit and scaleoffset were set up with: a number of elements, and their size."""
    return raw if len(values) > 4 and values[2] * values[4] <= most else None


def _as_walk_says(raw: bytes, _: tuple[int, ...], most: int) -> bytes | None:
    """Walk through what LZF made, adding up what would come of it, where that could be much."""
    return raw if len(raw) <= _FEW or sum(_lzf_runs(raw)) <= max(most, _MOST_OF_LZF * _FEW) else None


def _lzf_runs(raw: bytes) -> Iterator[int]:
    """Yield the bytes that come of each run: literal ones, or a copy of earlier ones."""
    position, end = 0, len(raw)
    while position < end:
        control = raw[position]
        if control < 32:
            position += control + 2
            yield control + 1
            continue
        length = control >> 5
        if length == 7:
            length += raw[position + 1] if position + 1 < end else 0
            position += 1
        position += 2
        yield length + 2


_UNDOING: dict[int, Callable[[bytes, tuple[int, ...], int], bytes | None]] = {
    _DEFLATE: _inflated,
    _SHUFFLE: _unshuffled,
    _FLETCHER: _without_checksum,
    _SZIP: _as_first_bytes_say,
    _NBIT: _as_setup_says,
    _SCALEOFFSET: _as_setup_says,
    _LZF: _as_walk_says,
}
