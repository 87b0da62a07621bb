"""Joined: one tensor whose parts are other tensors, each in a box of its own; together they fill it without overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ..dtypes import DType
from ..errors import DamagedError
from .boxes import Box, blocks, shape_of, taken
from .digests import Hashing, bytes_of, require_digest, scheme_of
from .shapes import require_shape
from .sources import Source
from .tensor import LazyTensor

__all__ = ["Joined", "Part", "joined"]

#: So many cells, between all edges of all boxes, are looked through to see that each is in one box.
_MOST_CELLS = 1 << 26


@dataclass(frozen=True, slots=True)
class Part:
    """One part: where its box begins in each dimension, and its tensor, which has the box's shape."""

    starts: tuple[int, ...]
    tensor: LazyTensor

    @property
    def stops(self) -> tuple[int, ...]:
        """Where its box ends."""
        return tuple(start + size for start, size in zip(self.starts, self.tensor.shape, strict=True))


def joined(dtype: DType, shape: tuple[int, ...], parts: Sequence[Part], *, where: str) -> LazyTensor:
    """Return the tensor of this shape that the parts make; of parts with the same box the first is read.

    Raise DamagedError, naming ``where``, unless the boxes lie inside the shape and fill it without overlap, each with a
    tensor of this dtype.
    """
    require_shape(shape, dtype, where)
    distinct = {(part.starts, part.tensor.shape): part for part in reversed(parts)}
    ordered = tuple(sorted(distinct.values(), key=lambda part: part.starts))
    for part in ordered:
        _require_inside(part, dtype, shape, where)
    _require_filled([part for part in ordered if part.tensor.size], shape, where)
    return LazyTensor(dtype, shape, Joined(dtype, shape, ordered))


def _require_inside(part: Part, dtype: DType, shape: tuple[int, ...], where: str) -> None:
    if part.tensor.dtype is not dtype:
        raise DamagedError(f"{where}: found a part of dtype {part.tensor.dtype.name}, expected {dtype.name}")
    fits = len(part.starts) == len(part.tensor.shape) == len(shape) and all(
        0 <= start <= stop <= size for start, stop, size in zip(part.starts, part.stops, shape, strict=True)
    )
    if not fits:
        raise DamagedError(
            f"{where}: found a part of shape {part.tensor.shape} at {part.starts}, expected it inside {shape}; "
            "the file is damaged: fetch it again"
        )


def _require_filled(parts: Sequence[Part], shape: tuple[int, ...], where: str) -> None:
    """Raise DamagedError where an element is in no part, or in two."""
    elements = sum(part.tensor.size for part in parts)
    if elements != prod(shape) or not _are_apart(parts, len(shape), where):
        raise DamagedError(
            f"{where}: found {len(parts)} parts of {elements} elements, expected parts that fill {shape} without overlap; "
            "a part is missing or damaged: fetch the files again"
        )


def _are_apart(parts: Sequence[Part], rank: int, where: str) -> bool:
    """Return whether no two parts overlap: each cell between the edges of all boxes is counted."""
    edges = [
        np.unique([edge for part in parts for edge in (part.starts[axis], part.stops[axis])]) for axis in range(rank)
    ]
    cells = tuple(max(0, len(axis_edges) - 1) for axis_edges in edges)
    if prod(cells) > _MOST_CELLS:
        raise DamagedError(f"{where}: found parts cut at {prod(cells)} cells, expected at most {_MOST_CELLS}")
    count = np.zeros(cells, np.uint8)
    for part in parts:
        spans = zip(edges, part.starts, part.stops, strict=True)
        box = tuple(slice(*np.searchsorted(axis_edges, (start, stop))) for axis_edges, start, stop in spans)
        if count[box].any():
            return False
        count[box] = 1
    return True


class Joined(Source):
    """The source of such a tensor; :func:`joined` checks the parts and makes it."""

    __slots__ = ("dtype", "parts", "shape")

    def __init__(self, dtype: DType, shape: tuple[int, ...], parts: tuple[Part, ...]) -> None:
        self.dtype, self.shape, self.parts = dtype, shape, parts

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        """The tensors of the parts."""
        return tuple(part.tensor for part in self.parts)

    def over(self, bases: Sequence[LazyTensor]) -> Joined:
        """Return other tensors in the boxes of these."""
        parts = tuple(Part(part.starts, tensor) for part, tensor in zip(self.parts, bases, strict=True))
        return Joined(self.dtype, self.shape, parts)

    @property
    def reads_parts(self) -> bool:
        """Whether every part is read in parts."""
        return all(part.tensor.source.reads_parts for part in self.parts)

    def array(self) -> np.ndarray:
        """Read every part into its box."""
        out = np.empty(self.shape, self.dtype.numpy)
        self.into(out)
        return out

    def into(self, out: np.ndarray) -> None:
        """Read every part into its box of the array, and compare it with its digest."""
        for part in self.parts:
            target = taken(out, tuple(map(range, part.starts, part.stops)))
            if part.tensor.digest is None:
                part.tensor.source.into(target)
            else:
                np.copyto(target, part.tensor.numpy())

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Read in blocks of rows, each from the parts that it crosses; digests of parts are compared at their ends.

        A part that is made of tensors with digests of their own is read once more before, to compare these.
        """
        checks = [_Check(part.tensor) for part in self.parts]
        covering = [tensor for base in self.bases if base.digest is None for tensor in base.covering()]
        for tensor in {id(tensor): tensor for tensor in covering}.values():
            tensor.compare(buffer)
        for block in blocks(self.shape, self.dtype.itemsize, len(buffer)):
            nbytes = prod(shape_of(block)) * self.dtype.itemsize
            raw = buffer[:nbytes] if nbytes <= len(buffer) else memoryview(bytearray(nbytes))
            out = np.frombuffer(raw, np.uint8).view(self.dtype.numpy).reshape(shape_of(block))
            for part, check in zip(self.parts, checks, strict=True):
                _fill(out, block, part, check)
            yield raw
        for check in checks:
            check.finish()

    def part(self, box: Box) -> Source:
        """Return the parts of the parts that a box crosses, joined."""
        crossed = [_crossed(part, box) for part in self.parts]
        parts = tuple(part for part in crossed if part is not None)
        if len(parts) == 1 and parts[0].tensor.shape == shape_of(box):
            return parts[0].tensor.source
        return Joined(self.dtype, shape_of(box), parts)


class _Check:
    """The digest of a part under way: blocks take a part's elements in its own order."""

    def __init__(self, tensor: LazyTensor) -> None:
        self._tensor = tensor
        self._hashing = None if tensor.digest is None else Hashing([scheme_of(tensor.digest)])

    def update(self, array: np.ndarray) -> None:
        if self._hashing is not None:
            self._hashing.update(bytes_of(np.asarray(array, order="C")))

    def finish(self) -> None:
        if self._hashing is not None and self._tensor.digest is not None:
            digest = self._hashing.digests()[scheme_of(self._tensor.digest)]
            require_digest(self._tensor.place(), digest, self._tensor.digest)


def _fill(out: np.ndarray, block: tuple[range, ...], part: Part, check: _Check) -> None:
    """Read what a block and a part have in common into the block's array."""
    starts = tuple(map(max, (entry.start for entry in block), part.starts))
    stops = tuple(map(min, (entry.stop for entry in block), part.stops))
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        return
    inner = tuple(map(range, _less(starts, part.starts), _less(stops, part.starts)))
    origin = tuple(entry.start for entry in block)
    target = taken(out, tuple(map(range, _less(starts, origin), _less(stops, origin))))
    part.tensor.source.part(inner).into(target)
    check.update(target)


def _less(positions: tuple[int, ...], starts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(position - start for position, start in zip(positions, starts, strict=True))


def _crossed(part: Part, box: Box) -> Part | None:
    """Return what a box takes of a part, where that stands in the box's result; None for nothing."""
    starts: list[int] = []
    inner: list[range | int] = []
    for entry, start, stop in zip(box, part.starts, part.stops, strict=True):
        if isinstance(entry, int):
            if not start <= entry < stop:
                return None
            inner.append(entry - start)
            continue
        first, last = _inside(entry, start, stop)
        if first >= last:
            return None
        taken = entry[first:last]
        starts.append(first)
        inner.append(range(taken.start - start, taken.stop - start, taken.step))
    index = tuple(inner)
    return Part(tuple(starts), LazyTensor(part.tensor.dtype, shape_of(index), part.tensor.source.part(index)))


def _inside(entry: range, start: int, stop: int) -> tuple[int, int]:
    """Return which positions of ``entry``, from one number to before another, lie between ``start`` and ``stop``."""
    if entry.step < 0:
        first, last = _inside(entry[::-1], start, stop)
        return len(entry) - last, len(entry) - first
    first = max(0, -(-(start - entry.start) // entry.step))
    last = min(len(entry), -(-(stop - entry.start) // entry.step))
    return first, last
