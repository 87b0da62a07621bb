"""Sources: where a tensor's elements come from, and files that they lie in.

A source gives its elements whole, into memory that is there already, piece by piece, or in part. Those here stand by
themselves; the ones of ``derived`` and ``joined`` are made of other tensors.
"""

from __future__ import annotations

import io
import mmap
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..dtypes import DType, dtype_of_numpy
from ..errors import DamagedError, DtypeRefusedError
from .boxes import Box, blocks, c_strides, shape_of, taken
from .digests import PIECE, bytes_of, chunks_of

if TYPE_CHECKING:  # a tensor has a source, and a source may be made of tensors
    from .tensor import LazyTensor

__all__ = ["Computed", "Extent", "File", "InFile", "InMemory", "Source", "StridedInFile", "native"]

#: Bytes between two runs that are read with them: asking for the second costs more.
_GAP = 256


class File(ABC):
    """One open file: the very one whose headers were read, whatever its name leads to by now.

    ``where`` is its name when it was opened, for messages, ``size`` its bytes then, and ``identity`` equal for a file that
    nobody wrote to between two openings.
    """

    __slots__ = ()

    where: str
    size: int
    identity: Hashable

    @property
    def descriptor(self) -> int | None:
        """The number by which the system knows the open file; None for a file elsewhere, or one that is not held open."""
        return None

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody wrote to the file since it was opened, as far as one can tell."""
        return True

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes from ``offset`` on; raise DamagedError where there are not so many any more."""

    def read_rows_into(self, offset: int, step: int, rows: np.ndarray) -> None:
        """Fill the rows of a 2-D uint8 array, each C-ordered, from places in the file that lie ``step`` bytes apart."""
        for row in rows:
            self.read_into(offset, memoryview(row))
            offset += step

    def read_at(self, offset: int, nbytes: int, what: str = "its bytes") -> bytes:
        """Return bytes of a header or the like; raise DamagedError, naming ``what``, where they do not lie in the file."""
        self.require(offset, nbytes, what)
        buffer = bytearray(nbytes)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def mapped(self, offset: int, nbytes: int) -> memoryview:
        """Return bytes, read-only: over a map where the file lies on this machine, else read now."""
        return memoryview(self.read_at(offset, nbytes))

    def contents(self) -> bytes | mmap.mmap:
        """Return the whole file for parsers that walk it: mapped where it lies on this machine, else read now."""
        return self.read_at(0, self.size)

    def data_spans(self, offset: int, nbytes: int) -> Iterator[tuple[int, int]]:
        """Yield where, of these bytes, some are stored, and how many; between them are holes, which are read as zeros.

        All of them, where nobody tells.
        """
        yield offset, nbytes

    def opened(self) -> AbstractContextManager[File]:
        """Hold the file open for several reads one after another."""
        return nullcontext(self)

    def stream(self) -> io.RawIOBase:
        """Return the file as a stream, for libraries that ask for one."""
        return _Stream(self)

    def require(self, offset: int, nbytes: int, what: str) -> None:
        """Raise DamagedError unless the bytes lie inside the file."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise DamagedError(
                f"{self.where}: {what}: found {self.size} bytes in the file, expected {nbytes} at offset {offset}; "
                "the file is cut short or damaged: fetch it again"
            )

    def cut_short(self, offset: int) -> DamagedError:
        """Return the error for a file that lost bytes since it was opened."""
        return DamagedError(
            f"{self.where}: found the file cut short since it was opened, expected bytes at {offset}; fetch it again"
        )


class _Stream(io.RawIOBase):
    """A file read from where the last read ended."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        nbytes = max(0, min(len(buffer), self._file.size - self._position))
        self._file.read_into(self._position, memoryview(buffer)[:nbytes])
        self._position += nbytes
        return nbytes


class Extent(NamedTuple):
    """Where a tensor's bytes lie whole in one file, little-endian and in C order."""

    file: File
    offset: int
    nbytes: int

    @property
    def where(self) -> str:
        """The file's name when it was opened."""
        return self.file.where

    @property
    def path(self) -> Path:
        """The file's path when it was opened."""
        return Path(self.file.where)


def native(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Return an array with its bytes in this machine's order, as the dtype's are: itself where they are."""
    return array if array.dtype == dtype.numpy else array.astype(dtype.numpy)


def pieces_of(array: np.ndarray, dtype: DType, buffer: memoryview) -> Iterator[memoryview]:
    """Yield an array's bytes in C order and of this machine; of any other layout no more is copied than a buffer holds.

    So an expanded array, whose few bytes stand for many, is never spelled out.
    """
    if array.flags.c_contiguous and array.dtype == dtype.numpy:
        yield from chunks_of(array)
        return
    for box in blocks(array.shape, dtype.itemsize, len(buffer)):
        part = taken(array, box)
        raw = buffer[: part.nbytes] if part.nbytes <= len(buffer) else memoryview(bytearray(part.nbytes))
        np.copyto(np.frombuffer(raw, np.uint8).view(dtype.numpy).reshape(part.shape), part, casting="equiv")
        yield raw


class Source(ABC):
    """Where the elements of a tensor come from. Nothing is read until it is asked for."""

    __slots__ = ("_digest_seen",)

    dtype: DType
    shape: tuple[int, ...]

    @property
    def digest_seen(self) -> str | None:
        """The digest that all its bytes were seen to have, if they were read whole and compared."""
        digest: str | None = getattr(self, "_digest_seen", None)
        return digest

    def note_digest(self, digest: str) -> None:
        """Remember that all its bytes were read, and have this digest: who reads parts of them need not compare again."""
        self._digest_seen = digest

    @property
    def extent(self) -> Extent | None:
        """Where the bytes lie whole in a file, or None."""
        return None

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        """The tensors that the elements are made of, which have digests of their own; none for a source by itself."""
        return ()

    @property
    def is_in_memory(self) -> bool:
        """Whether :meth:`array` gives memory that is there already, and makes none."""
        return False

    @property
    def reads_parts(self) -> bool:
        """Whether :meth:`part` reads little more than the part, and not the whole once again for each."""
        return False

    @property
    def place(self) -> Hashable | None:
        """Equal for sources that read the same bytes of the same file; None for those that read others."""
        return None

    @property
    def region(self) -> Hashable | None:
        """Equal for views of the same elements of one storage; None for a tensor that is no view."""
        return None

    @abstractmethod
    def array(self) -> np.ndarray:
        """Return the elements now, in this machine's byte order, with any strides; read-only where they are mapped."""

    def into(self, out: np.ndarray) -> None:
        """Fill an array of the source's dtype and shape, which may have any strides."""
        np.copyto(out, self.array())

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the bytes in C order, each piece good until the next is asked for; ``buffer`` may be used for them."""
        return pieces_of(self.array(), self.dtype, buffer)

    def part(self, box: Box) -> Source:
        """Return the source of a part, which reads no more than it must."""
        return Computed(self.dtype, shape_of(box), lambda: taken(self.array(), box))

    def view_as(self, dtype: DType) -> Source:
        """Return the same bytes as elements of another dtype of the same size."""
        return Computed(dtype, self.shape, lambda: self._viewed_as(dtype))

    def _viewed_as(self, dtype: DType) -> np.ndarray:
        return np.asarray(native(self.array(), self.dtype), order="C").view(dtype.numpy)

    def over(self, bases: Sequence[LazyTensor]) -> Source:
        """Return the source that is made of other tensors in the same way."""
        return self

    def ready(self) -> Source:
        """Wait until an asynchronous framework has the elements; return a source that need not wait."""
        bases = [base.ready() for base in self.bases]
        return self if all(map(operator.is_, bases, self.bases)) else self.over(bases)


class InMemory(Source):
    """An array that is there. It is not copied: who reads later reads what it holds by then."""

    __slots__ = ("_array", "dtype", "shape")

    def __init__(self, array: np.ndarray, *, name: str = "array", dtype: DType | None = None) -> None:
        dtype = dtype or dtype_of_numpy(array.dtype)
        if dtype is None:
            raise DtypeRefusedError(
                f"{name}: found NumPy dtype {array.dtype}, expected one of multiframe_ckpt.dtypes.DTYPES; "
                "store it as plain values, or cast it first"
            )
        self._array, self.dtype, self.shape = array, dtype, array.shape

    @property
    def is_in_memory(self) -> bool:
        """Whether the array is there: yes, unless its bytes are in another order than this machine's."""
        return self._array.dtype == self.dtype.numpy

    @property
    def reads_parts(self) -> bool:
        """Whether a part is read without the rest: yes."""
        return True

    def array(self) -> np.ndarray:
        """Return the array itself, in this machine's byte order."""
        return native(self._array, self.dtype)

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the bytes, put into this machine's order piece by piece."""
        return pieces_of(self._array, self.dtype, buffer)

    def part(self, box: Box) -> InMemory:
        """Return a view of the array."""
        return InMemory(taken(self._array, box), dtype=self.dtype)


class Computed(Source):
    """An array that a function makes when asked: inflated, parsed, or read by a library."""

    __slots__ = ("_read", "dtype", "shape")

    def __init__(self, dtype: DType, shape: tuple[int, ...], read: Callable[[], np.ndarray]) -> None:
        self.dtype, self.shape, self._read = dtype, shape, read

    def array(self) -> np.ndarray:
        """Make the array."""
        return native(self._read(), self.dtype)


class InFile(Source):
    """Elements that lie in a file from byte ``offset`` on, little-endian and in C order."""

    __slots__ = ("dtype", "file", "offset", "shape")

    def __init__(self, file: File, dtype: DType, shape: tuple[int, ...], offset: int = 0) -> None:
        self.file, self.dtype, self.shape, self.offset = file, dtype, shape, offset

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def extent(self) -> Extent:
        """Where the bytes lie."""
        return Extent(self.file, self.offset, self.nbytes)

    @property
    def place(self) -> Hashable:
        """The file, and where in it."""
        return self.file, self.offset, self.nbytes

    @property
    def reads_parts(self) -> bool:
        """Whether a part is read without the rest: yes."""
        return True

    def array(self) -> np.ndarray:
        """Return the elements over a map of the file where it lies on this machine, else read."""
        raw = (
            np.frombuffer(self.file.mapped(self.offset, self.nbytes), np.uint8)
            if self.nbytes
            else np.empty(0, np.uint8)
        )
        array = raw.view(self.dtype.numpy).reshape(self.shape)
        return array if array.flags.aligned else array.copy()

    def into(self, out: np.ndarray) -> None:
        """Read into the array without a copy in between where it is C-ordered."""
        if out.flags.c_contiguous:
            self.file.read_into(self.offset, bytes_of(out))
        else:
            strides = c_strides(self.shape, self.dtype.itemsize)
            StridedInFile(self.file, self.dtype, self.shape, self.offset, strides).into(out)

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Read piece by piece into the buffer."""
        with self.file.opened() as file:
            for start in range(0, self.nbytes, len(buffer)):
                piece = buffer[: min(len(buffer), self.nbytes - start)]
                file.read_into(self.offset + start, piece)
                yield piece

    def part(self, box: Box) -> Source:
        """Return the source of a part: of rows that follow each other by their offset, of other boxes in runs."""
        strides = c_strides(self.shape, self.dtype.itemsize)
        return strided_in_file(self.file, self.dtype, self.offset, strides, box)

    def view_as(self, dtype: DType) -> InFile:
        """Return the same bytes as another dtype."""
        return InFile(self.file, dtype, self.shape, self.offset)


def strided_in_file(file: File, dtype: DType, offset: int, strides: tuple[int, ...], box: Box) -> Source:
    """Return the part that ``box`` takes of elements in a file; ``offset`` and ``strides`` are in bytes."""
    starts = (entry if isinstance(entry, int) else entry.start if entry else 0 for entry in box)
    first = offset + sum(start * stride for start, stride in zip(starts, strides, strict=True))
    kept = [(entry, stride) for entry, stride in zip(box, strides, strict=True) if isinstance(entry, range)]
    shape = tuple(len(entry) for entry, _ in kept)
    steps = tuple(entry.step * stride for entry, stride in kept)
    if 0 in shape or all(size == 1 or step == dense for size, step, dense in _dims(shape, steps, dtype)):
        return InFile(file, dtype, shape, offset if 0 in shape else first)
    return StridedInFile(file, dtype, shape, first, steps)


def _dims(shape: tuple[int, ...], steps: tuple[int, ...], dtype: DType) -> Iterator[tuple[int, int, int]]:
    return zip(shape, steps, c_strides(shape, dtype.itemsize), strict=True)


class StridedInFile(Source):
    """Elements that lie in a file with gaps between them; they are read in runs. Offset and strides are in bytes."""

    __slots__ = ("dtype", "file", "offset", "shape", "strides")

    def __init__(self, file: File, dtype: DType, shape: tuple[int, ...], offset: int, strides: tuple[int, ...]) -> None:
        self.file, self.dtype, self.shape, self.offset, self.strides = file, dtype, shape, offset, strides

    @property
    def reads_parts(self) -> bool:
        """Whether a part is read without the rest: yes."""
        return True

    def array(self) -> np.ndarray:
        """Read the elements into memory of their own, in the order in which they lie in the file."""
        order = sorted(range(len(self.shape)), key=lambda axis: -abs(self.strides[axis]))
        out = np.empty([self.shape[axis] for axis in order], self.dtype.numpy)
        self._fill(out, tuple(self.strides[axis] for axis in order))
        return out.transpose(np.argsort(order)) if order else out

    def into(self, out: np.ndarray) -> None:
        """Read into the array without a copy in between where its elements lie as the file's do."""
        inner = out[:1] if out.ndim else out
        ordered = all(abs(a) >= abs(b) for a, b in pairwise(self.strides))
        if ordered and inner.flags.c_contiguous and out.flags.aligned:
            self._fill(out, self.strides)
        else:
            np.copyto(out, self.array())

    def _fill(self, out: np.ndarray, strides: tuple[int, ...]) -> None:
        if out.size:
            with self.file.opened() as file:
                self._read(file, out, self.offset, strides)

    def _read(self, file: File, out: np.ndarray, offset: int, strides: tuple[int, ...]) -> None:
        """Fill ``out``, along its first axis: by pieces of what lies close together, else by one entry after another."""
        span = self._span(out.shape, strides)
        close = span - out.nbytes <= _GAP * _runs(out.shape, strides, out.itemsize)
        if out.ndim == 0 or (close and span <= PIECE):
            _read_span(file, out, offset, strides, span)
            return
        if not close and _runs(out.shape[1:], strides[1:], out.itemsize) == 1:
            file.read_rows_into(offset, strides[0], _rows_as_bytes(out))
            return
        step = max(1, PIECE // max(1, abs(strides[0]))) if close else 1
        for start in range(0, out.shape[0], step):
            rows, first = out[start : start + step], offset + start * strides[0]
            if len(rows) == 1:
                self._read(file, rows.reshape(out.shape[1:]), first, strides[1:])
            else:
                _read_span(file, rows, first, strides, self._span(rows.shape, strides))

    def _span(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
        return sum((size - 1) * abs(step) for size, step in zip(shape, strides, strict=True)) + self.dtype.itemsize

    def part(self, box: Box) -> Source:
        """Return a part of the part."""
        return strided_in_file(self.file, self.dtype, self.offset, self.strides, box)


def _rows_as_bytes(out: np.ndarray) -> np.ndarray:
    """Return an array whose entries along the first axis are C-ordered as 2-D uint8, over the same memory."""
    return out.reshape(len(out), -1, 1).view(np.uint8).reshape(len(out), -1)


def _runs(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """Return the number of runs of bytes that follow each other."""
    axis, dense = len(shape), itemsize
    while axis and (shape[axis - 1] == 1 or strides[axis - 1] == dense):
        axis -= 1
        dense *= shape[axis]
    return prod(shape[:axis])


def _read_span(file: File, out: np.ndarray, offset: int, strides: tuple[int, ...], span: int) -> None:
    """Read from the lowest byte to the highest, and take the elements from these."""
    if out.flags.c_contiguous and _runs(out.shape, strides, out.itemsize) == 1:
        file.read_into(offset, bytes_of(out))
        return
    below = sum((size - 1) * -step for size, step in zip(out.shape, strides, strict=True) if step < 0)
    raw = bytearray(span)
    file.read_into(offset - below, memoryview(raw))
    np.copyto(out, np.ndarray(out.shape, out.dtype, raw, below, strides))
