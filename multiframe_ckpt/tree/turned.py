"""Sources that lay another tensor's elements out otherwise: its axes in another order, some of its rows, another shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from .bands import IN_BLOCKS, bands, rectangles
from .boxes import Box, shape_of
from .derived import Derived
from .digests import chunks_of
from .sources import Extent, InFile, InMemory, Source
from .tensor import LazyTensor

__all__ = ["Reshaped", "Rows", "Turned"]


class Turned(Derived):
    """Another tensor with its axes in another order: axis ``i`` is its axis ``axes[i]``, as NumPy's transpose has it."""

    __slots__ = ("axes", "dtype", "shape")

    def __init__(self, base: LazyTensor, axes: Sequence[int]) -> None:
        if sorted(axes) != list(range(len(base.shape))):
            raise ValueError(f"found axes {tuple(axes)}, expected each of {len(base.shape)} axes once")
        self.base, self.axes, self.dtype = base, tuple(axes), base.dtype
        self.shape = tuple(base.shape[axis] for axis in axes)

    def array(self) -> np.ndarray:
        """Return the turned array, over the other's."""
        return self.base.numpy().transpose(self.axes)

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Read and turn one band after another; the other tensor is compared with its digest before."""
        if not (self.shape and self.base.source.reads_parts):
            yield from chunks_of(np.asarray(self.array(), order="C"))
            return
        self.base.compare(buffer)
        for band in self.bands():
            yield from chunks_of(band)

    def bands(self) -> Iterator[np.ndarray]:
        """Yield the elements in C order, band by band, each good until the next; the other tensor is not compared."""
        return bands(self.base.source, self.axes)

    @property
    def prefers_blocks(self) -> bool:
        """Whether a target that can be written anywhere takes less time in :meth:`blocks` than in :meth:`bands`."""
        least_nbytes, least_rows = IN_BLOCKS
        return self.axes == (1, 0) and self.base.nbytes >= least_nbytes and self.base.shape[0] >= least_rows

    def blocks(self) -> Iterator[tuple[range, range, np.ndarray]]:
        """Yield the rows, the columns and the elements of blocks that fill a matrix, each good until the next.

        The other tensor is not compared with its digest.
        """
        return rectangles(self.base.source)

    def part(self, box: Box) -> Source:
        """Turn a part of the other tensor."""
        turned = dict(zip(self.axes, box, strict=True))
        inner = tuple(turned[axis] for axis in range(len(box)))
        kept = [axis for axis, entry in enumerate(inner) if isinstance(entry, range)]
        part = LazyTensor(self.dtype, shape_of(inner), self.base.source.part(inner))
        order = [kept.index(axis) for axis, entry in zip(self.axes, box, strict=True) if isinstance(entry, range)]
        return Turned(part, order)

    def over(self, bases: Sequence[LazyTensor]) -> Turned:
        """Return another tensor laid out in the same way."""
        return Turned(bases[0], self.axes)


class Rows(Derived):
    """The rows from ``start`` to before ``stop`` of another tensor, all of which is compared with its digest once."""

    __slots__ = ("_part", "dtype", "shape", "start", "stop")

    def __init__(self, base: LazyTensor, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= base.shape[0]:
            raise ValueError(f"found rows {start}:{stop}, expected some of the {base.shape[0]} that there are")
        self.base, self.start, self.stop, self.dtype = base, start, stop, base.dtype
        self.shape = (stop - start, *base.shape[1:])
        self._part = base.source.part((range(start, stop), *map(range, base.shape[1:])))

    @property
    def extent(self) -> Extent | None:
        """Where the bytes lie whole in a file, unless the other tensor must be read to compare it."""
        return self._part.extent if self.base.was_compared else None

    def array(self) -> np.ndarray:
        """Read the rows."""
        if self.base.was_compared:
            return self._part.array()
        return self.base.numpy()[self.start : self.stop]

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Read the rows piece by piece."""
        self.base.compare_once(buffer)
        yield from self._part.pieces(buffer)

    def part(self, box: Box) -> Source:
        """Return a part of the rows."""
        return self._part.part(box)

    def over(self, bases: Sequence[LazyTensor]) -> Rows:
        """Return another tensor laid out in the same way."""
        return Rows(bases[0], self.start, self.stop)


class Reshaped(Derived):
    """Another tensor's elements in the same order, in another shape."""

    __slots__ = ("dtype", "shape")

    def __init__(self, base: LazyTensor, shape: tuple[int, ...]) -> None:
        if prod(shape) != base.size:
            raise ValueError(f"found shape {shape}, expected one of {base.size} elements")
        self.base, self.dtype, self.shape = base, base.dtype, shape

    @property
    def extent(self) -> Extent | None:
        """Where the bytes lie, unless they are to be compared with a digest of the other tensor's."""
        return self.base.extent if self.base.was_compared else None

    @property
    def reads_parts(self) -> bool:
        """Whether parts are read alone: only where they lie in a file or in memory, since a box is none of the other's."""
        return self.base.extent is not None or self.base.source.is_in_memory

    def array(self) -> np.ndarray:
        """Read the other tensor."""
        return self.base.numpy().reshape(self.shape)

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Read the other tensor piece by piece."""
        return self.base.pieces(buffer)

    def part(self, box: Box) -> Source:
        """Return a part, read alone where the elements lie in a file."""
        extent = self.base.extent
        if extent is not None:
            return InFile(extent.file, self.dtype, self.shape, extent.offset).part(box)
        if self.base.source.is_in_memory:
            return InMemory(np.asarray(self.base.source.array(), order="C").reshape(self.shape)).part(box)
        return super().part(box)

    def over(self, bases: Sequence[LazyTensor]) -> Reshaped:
        """Return another tensor laid out in the same way."""
        return Reshaped(bases[0], self.shape)
