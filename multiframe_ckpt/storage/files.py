"""Files opened for reading, and tensors that lie in them.

A file is held open from the moment its headers are read, as long as a tensor of it lives, so a checkpoint that is replaced
meanwhile is still read whole from the file that was opened. Headers are read by position; the file is mapped only when an
array over it is asked for. One that is cut short in place cannot be defended against then: the system ends a process
that reads past a map's end.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Hashable
from functools import cached_property
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..dtypes import DType
from ..errors import DamagedError
from ..tree import LazyTensor, OpenedFile
from ..tree.shapes import is_small_shape, require_shape

__all__ = ["Descriptor", "MappedFile", "open_regular", "read_at", "require_regular"]

_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # without it, opening a pipe waits for a writer


class Descriptor:
    """A number of the system's for an open file, given back when nobody holds this any more.

    As a context manager it gives the number, and is held meanwhile.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> int:
        return self.number

    def __exit__(self, *_: object) -> None:
        pass

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # os may be gone when the interpreter exits
        close(self.number)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; DamagedError for a pipe or device, which could keep the reader waiting for ever."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAITING))  # noqa: SIM115
    try:
        require_regular(os.fstat(file.fileno()), str(path))
    except DamagedError:
        file.close()
        raise
    return file


def require_regular(status: os.stat_result, where: str) -> None:
    """Raise DamagedError unless the status is that of a file with bytes of its own."""
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"{where}: found a pipe, device or folder, expected a file; copy what it gives into one")


def read_at(descriptor: int, nbytes: int, offset: int) -> bytes:
    """Return the bytes at an offset, as many as are there: the system may give fewer than asked for in one call."""
    piece = os.pread(descriptor, nbytes, offset)
    if len(piece) in (0, nbytes):
        return piece
    return piece + read_at(descriptor, nbytes - len(piece), offset + len(piece))


class MappedFile(OpenedFile):
    """An open file; gives bytes and tensors of it after checking that they lie inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular(path) as file:
            self._descriptor = Descriptor(os.dup(file.fileno()))
        self.status = os.fstat(self._descriptor.number)
        self.size = self.status.st_size
        self.where = str(path)

    @cached_property
    def buffer(self) -> mmap.mmap | bytes:
        """The file mapped read-only; an empty one cannot be."""
        return mmap.mmap(self._descriptor.number, 0, access=mmap.ACCESS_READ) if self.size else b""

    def descriptor(self) -> Descriptor:
        """Return the descriptor of the file that was opened, whatever its path leads to by now."""
        return self._descriptor

    def require(self, offset: int, nbytes: int, what: str) -> None:
        """Raise DamagedError unless the bytes lie inside the file."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise DamagedError(
                f"{self.path}: {what}: found {self.size} bytes in the file, expected {nbytes} at offset {offset}; "
                "the file is cut short or damaged: fetch it again"
            )

    def bytes(self, offset: int, nbytes: int, what: str) -> bytes:
        """Read a small piece of the file, such as a header."""
        self.require(offset, nbytes, what)
        piece = read_at(self._descriptor.number, nbytes, offset)
        if len(piece) != nbytes:
            raise DamagedError(f"{self.path}: {what}: found the file cut short while it was read; fetch it again")
        return piece

    def raw(self, offset: int, nbytes: int, what: str) -> np.ndarray:
        """Return a piece of the file as a read-only 1-D uint8 array over the map."""
        self.require(offset, nbytes, what)
        if os.fstat(self._descriptor.number).st_size < offset + nbytes:  # a map is read past its end only once
            raise DamagedError(f"{self.path}: {what}: found the file cut short since it was opened; fetch it again")
        return np.frombuffer(self.buffer, np.uint8, nbytes, offset) if nbytes else np.empty(0, np.uint8)

    def array(self, offset: int, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array, over the map where that is aligned."""
        array = self.raw(offset, prod(shape) * dtype.itemsize, "values").view(dtype.numpy).reshape(shape)
        return array if array.flags.aligned else array.copy()

    def tensor(
        self,
        dtype: DType,
        shape: tuple[int, ...],
        offset: int,
        *,
        what: str,
        alias: Hashable | None = None,
        digest: str | None = None,
    ) -> LazyTensor:
        """Return the tensor whose little-endian, C-ordered bytes begin at ``offset``."""
        if not (is_small_shape(shape) and 0 not in shape):
            require_shape(shape, dtype, f"{self.path}: {what}")
        nbytes = prod(shape) * dtype.itemsize
        self.require(offset, nbytes, what)
        return LazyTensor(dtype, shape, self, offset, alias, None, digest)
