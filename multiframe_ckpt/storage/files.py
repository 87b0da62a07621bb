"""Files on this machine, opened for reading.

A file is held open from the moment its headers are read, as long as a tensor of it lives, so a checkpoint that is replaced
meanwhile is still read whole from the file that was opened. Bytes are read by position; the file is mapped only when an
array over it is asked for. One that is cut short in place cannot be defended against then: the system ends a process
that reads past a map's end.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import numpy as np

from ..errors import DamagedError
from ..tree.sources import File

__all__ = ["Descriptor", "Identity", "LocalFile", "identity_of", "open_file", "require_regular"]

_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # without it, opening a pipe waits for a writer
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | _NO_WAITING

#: What tells a file that was replaced or changed: its device, its number, its size and when it was changed.
Identity: TypeAlias = tuple[int, int, int, int]


class Descriptor:
    """A number of the system's for an open file, given back when nobody holds this any more."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # os may be gone when the interpreter exits
        close(self.number)


def identity_of(status: os.stat_result) -> Identity:
    """Return what is another for a file that was replaced or changed."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def require_regular(status: os.stat_result, where: str) -> None:
    """Raise DamagedError unless the status is that of a file with bytes of its own."""
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"{where}: found a pipe, device or folder, expected a file; copy what it gives into one")


def open_file(path: Path) -> LocalFile:
    """Open a file for reading; raise DamagedError for a pipe or device, which could keep the reader waiting for ever."""
    descriptor = Descriptor(os.open(path, _FLAGS))
    status = os.fstat(descriptor.number)
    require_regular(status, str(path))
    return LocalFile(descriptor, str(path), identity_of(status))


class LocalFile(File):
    """An open file; as a context manager it is itself, so that it can be used where files are opened for a while."""

    __slots__ = ("_descriptor", "_map", "identity", "size", "where")

    def __init__(self, descriptor: Descriptor, where: str, identity: Identity) -> None:
        self._descriptor, self.where = descriptor, where
        self.size, self.identity = identity[2], identity
        self._map: mmap.mmap | None = None

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @property
    def descriptor(self) -> int:
        """The number of the file that was opened, whatever its path leads to by now."""
        return self._descriptor.number

    @property
    def is_unchanged(self) -> bool:
        """Whether its size and the time of its last change are those of when it was opened."""
        return identity_of(os.fstat(self._descriptor.number)) == self.identity

    def opened(self) -> LocalFile:
        """Return the file, which is open."""
        return self

    def data_spans(self, offset: int, nbytes: int) -> Iterator[tuple[int, int]]:
        """Ask the system, where it knows of holes."""
        status = os.fstat(self._descriptor.number)
        if status.st_blocks * 512 >= status.st_size or not hasattr(os, "SEEK_DATA"):
            yield offset, nbytes
            return
        end = offset + nbytes
        while offset < end:
            try:
                start = os.lseek(self._descriptor.number, offset, os.SEEK_DATA)
                stop = os.lseek(self._descriptor.number, start, os.SEEK_HOLE)
            except OSError as problem:
                if problem.errno != errno.ENXIO:  # not that there is none behind
                    yield offset, end - offset
                return
            if start < end:
                yield start, min(stop, end) - start
            offset = stop

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer; the system may read fewer bytes than it is asked for in one call."""
        while buffer:
            count = os.preadv(self._descriptor.number, [buffer], offset)
            if count == 0:
                raise self.cut_short(offset)
            buffer, offset = buffer[count:], offset + count

    def read_rows_into(self, offset: int, step: int, rows: np.ndarray) -> None:
        """Fill rows from places that lie ``step`` bytes apart: a call of the system for each, and nothing else."""
        descriptor, nbytes, read = self._descriptor.number, rows.shape[1], os.preadv
        for row in rows:
            if read(descriptor, (row,), offset) != nbytes:
                self.read_into(offset, memoryview(row))
            offset += step

    def read_at(self, offset: int, nbytes: int, what: str = "its bytes") -> bytes:
        """Return bytes of a header or the like."""
        self.require(offset, nbytes, what)
        piece = os.pread(self._descriptor.number, nbytes, offset)
        if len(piece) == nbytes:
            return piece
        if not piece:
            raise self.cut_short(offset)
        return piece + self.read_at(offset + len(piece), nbytes - len(piece), what)

    def mapped(self, offset: int, nbytes: int) -> memoryview:
        """Return bytes over a map of the file; a map is read past its end only once, so its size is asked for again."""
        self.require(offset, nbytes, "values")
        if os.fstat(self._descriptor.number).st_size < offset + nbytes:
            raise self.cut_short(offset)
        return memoryview(self.contents() if nbytes else b"")[offset : offset + nbytes]

    def contents(self) -> bytes | mmap.mmap:
        """Return the file mapped read-only, as far as it reached when it was opened; an empty one cannot be."""
        if self._map is None and self.size:
            nbytes = min(self.size, os.fstat(self._descriptor.number).st_size)
            try:
                self._map = mmap.mmap(self._descriptor.number, nbytes, access=mmap.ACCESS_READ)
            except ValueError:  # nothing is left of it, or less than just now
                raise self.cut_short(0) from None
        return b"" if self._map is None else self._map
