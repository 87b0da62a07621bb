"""Sources made of another tensor: a view into its storage, or its elements changed one by one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from math import prod

import numpy as np

from ..dtypes import DType
from .boxes import Box, c_strides, shape_of
from .digests import bytes_of
from .sources import Extent, InFile, Source, strided_in_file
from .tensor import LazyTensor

__all__ = ["Derived", "Elementwise", "Strided", "elementwise"]


class Strided(Source):
    """A view into a storage that other tensors may look into: offset and strides in elements.

    ``storage`` is 1-D uint8: every byte of it. A view of less than all of it cannot be compared with the storage's digest,
    so that the storage is, once, when the first such view is read.
    """

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(
        self, storage: LazyTensor, dtype: DType, shape: tuple[int, ...], offset: int, strides: tuple[int, ...]
    ) -> None:
        self.storage, self.dtype, self.shape, self.offset, self.strides = storage, dtype, shape, offset, strides

    @property
    def region(self) -> Hashable:
        """Offset and strides: equal for views of one place."""
        return self.offset, self.strides

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie one behind the other in C order."""
        return self.strides == c_strides(self.shape) or prod(self.shape) <= 1

    @property
    def is_expanded(self) -> bool:
        """Whether the elements are more than the storage has bytes for, so that some lie on each other."""
        return prod(self.shape) * self.dtype.itemsize > self.storage.nbytes

    @property
    def covers(self) -> bool:
        """Whether the view is all of its storage, in C order."""
        return self.is_dense and prod(self.shape) * self.dtype.itemsize == self.storage.nbytes

    @property
    def extent(self) -> Extent | None:
        """Where the bytes lie whole in a file, unless the storage must be read to compare them."""
        whole = self.storage.source.extent if self.is_dense else None
        if whole is None:
            return None
        nbytes = prod(self.shape) * self.dtype.itemsize
        if nbytes == whole.nbytes:
            return whole
        start = self.offset * self.dtype.itemsize if nbytes else 0
        return Extent(whole.file, whole.offset + start, nbytes) if self.storage.was_compared else None

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        """The storage."""
        return (self.storage,)

    def over(self, bases: Sequence[LazyTensor]) -> Strided:
        """Return the same view into another storage."""
        return Strided(bases[0], self.dtype, self.shape, self.offset, self.strides)

    @property
    def reads_parts(self) -> bool:
        """Whether parts are read alone: of a storage that lies in a file or in memory."""
        return self.storage.extent is not None or self.storage.source.is_in_memory

    @property
    def place(self) -> Hashable | None:
        """The file, and where in it, for a view that lies whole there."""
        return self.extent and (self.extent.file, self.extent.offset, self.extent.nbytes)

    def array(self) -> np.ndarray:
        """Return the view over the storage's bytes."""
        extent = self.extent
        if extent is not None:
            return InFile(extent.file, self.dtype, self.shape, extent.offset).array()
        needs_no_check = self.covers or self.storage.was_compared
        raw = self.storage.source.array() if needs_no_check else self.storage.numpy()
        return self._over(np.asarray(raw, order="C"))

    def _over(self, raw: np.ndarray) -> np.ndarray:
        size = self.dtype.itemsize
        steps = tuple(step * size for step in self.strides)
        start = self.offset * size if prod(self.shape) else 0
        array = np.ndarray(self.shape, self.dtype.numpy, raw, start, steps)
        if array.flags.aligned:
            return array
        return self._over(raw.copy()) if self.is_expanded else array.copy()

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Read piece by piece where the bytes lie whole in a file."""
        extent = self.extent
        if extent is None:
            return super().pieces(buffer)
        return InFile(extent.file, self.dtype, self.shape, extent.offset).pieces(buffer)

    def part(self, box: Box) -> Source:
        """Return the part as a view of its own, or where it lies in a file, as what is to be read there."""
        whole, size = self.storage.extent, self.dtype.itemsize
        if whole is not None:
            steps = tuple(step * size for step in self.strides)
            return strided_in_file(whole.file, self.dtype, whole.offset + self.offset * size, steps, box)
        starts = (entry if isinstance(entry, int) else entry.start if entry else 0 for entry in box)
        offset = self.offset + sum(start * step for start, step in zip(starts, self.strides, strict=True))
        pairs = zip(box, self.strides, strict=True)
        strides = tuple(entry.step * step for entry, step in pairs if isinstance(entry, range))
        return Strided(self.storage, self.dtype, shape_of(box), offset, strides)


class Derived(Source):
    """A source that makes its elements of those of one other tensor, ``base``."""

    __slots__ = ("base",)

    base: LazyTensor

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        """The other tensor."""
        return (self.base,)

    @property
    def reads_parts(self) -> bool:
        """Whether the other tensor is read in parts."""
        return self.base.source.reads_parts


class Elementwise(Derived):
    """What ``change`` makes of another tensor's elements, each by itself, so that it can be made piece by piece."""

    __slots__ = ("change", "dtype", "shape")

    def __init__(self, base: LazyTensor, dtype: DType, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.base, self.dtype, self.change, self.shape = base, dtype, change, base.shape

    def over(self, bases: Sequence[LazyTensor]) -> Elementwise:
        """Return what ``change`` makes of another tensor."""
        return Elementwise(bases[0], self.dtype, self.change)

    def array(self) -> np.ndarray:
        """Read the other tensor, and change it."""
        return self.change(self.base.numpy())

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Change piece by piece."""
        dtype = self.base.dtype.numpy
        for piece in self.base.pieces(_of_whole_elements(buffer, dtype.itemsize)):
            yield bytes_of(self.change(np.frombuffer(piece, np.uint8).view(dtype)))

    def part(self, box: Box) -> Elementwise:
        """Change a part of the other tensor."""
        part = LazyTensor(self.base.dtype, shape_of(box), self.base.source.part(box))
        return Elementwise(part, self.dtype, self.change)


def _of_whole_elements(buffer: memoryview, itemsize: int) -> memoryview:
    """Return as much of a buffer as whole elements fill, or another where it is too small for one."""
    count = len(buffer) // itemsize
    return buffer[: count * itemsize] if count else memoryview(bytearray(itemsize))


def elementwise(
    base: LazyTensor,
    dtype: DType,
    change: Callable[[np.ndarray], np.ndarray],
    *,
    alias: Hashable | None = None,
    digest: str | None = None,
) -> LazyTensor:
    """Return a tensor of ``base``'s shape whose elements are what ``change`` makes of base's, when they are asked for."""
    return LazyTensor(dtype, base.shape, Elementwise(base, dtype, change), alias, digest)
