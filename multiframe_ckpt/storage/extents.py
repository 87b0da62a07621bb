"""Read-only maps of files, and tensors that lie in them.

A file is mapped when its headers are read and stays mapped as long as a tensor of it lives, so a checkpoint that is
replaced meanwhile is still read whole from the file that was opened. One that is cut short in place cannot be defended
against: the system ends a process that reads past a map's end.

A folder of many files is not held open: a file of it is mapped when its tensor is read, with a check that it is the one
whose size was seen.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Hashable
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from ..dtypes import DType
from ..errors import DamagedError, FormatError
from ..tensor import Extent, LazyTensor

__all__ = ["MappedFile", "open_regular", "read_folder", "require_shape"]

T = TypeVar("T")

_TRIES = 100
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # without it, opening a pipe waits for a writer

_MAX_DIMENSIONS = 64 if int(np.__version__.split(".")[0]) >= 2 else 32  # NumPy's own limits


def require_shape(shape: tuple[int, ...], dtype: DType, where: str) -> None:
    """Raises DamagedError for a shape that no array has; NumPy counts an empty array's other dimensions too."""
    if any(dim < 0 for dim in shape):
        raise DamagedError(f"{where}: found shape {shape}, expected no negative dimension")
    if len(shape) > _MAX_DIMENSIONS:
        raise DamagedError(f"{where}: found {len(shape)} dimensions, expected at most {_MAX_DIMENSIONS}")
    if prod(dim for dim in shape if dim) * dtype.itemsize >= 1 << 63:
        raise DamagedError(f"{where}: found shape {shape}, expected one of fewer than 2**63 bytes")


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading; DamagedError for a pipe or device, which could keep the reader waiting for ever."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAITING))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise DamagedError(f"{path}: found a pipe or device, expected a file; copy what it gives into one")
    return file


class MappedFile:
    """A file mapped read-only; gives bytes and tensors of it after checking that they lie inside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular(path) as file:
            self.status = os.fstat(file.fileno())
            self.size = self.status.st_size
            # An empty file cannot be mapped.
            self.buffer: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""

    def require(self, offset: int, nbytes: int, what: str) -> None:
        """Raises DamagedError unless the bytes lie inside the file."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise DamagedError(
                f"{self.path}: {what}: found {self.size} bytes in the file, expected {nbytes} at offset {offset}; "
                "the file is cut short or damaged: fetch it again"
            )

    def bytes(self, offset: int, nbytes: int, what: str) -> bytes:
        """Copies a small piece of the file, such as a header."""
        self.require(offset, nbytes, what)
        return self.buffer[offset : offset + nbytes]

    def raw(self, offset: int, nbytes: int, what: str) -> np.ndarray:
        """Gives a piece of the file as a read-only 1-D uint8 array over the map."""
        self.require(offset, nbytes, what)
        return np.frombuffer(self.buffer, np.uint8, nbytes, offset) if nbytes else np.empty(0, np.uint8)

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
        """Gives the tensor whose little-endian, C-ordered bytes begin at ``offset``."""
        require_shape(shape, dtype, f"{self.path}: {what}")
        nbytes = prod(shape) * dtype.itemsize
        self.require(offset, nbytes, what)

        def source() -> np.ndarray:
            array = self.raw(offset, nbytes, what).view(dtype.numpy).reshape(shape)
            return array if array.flags.aligned else array.copy()

        return LazyTensor(dtype, shape, source, Extent(self.path, offset, nbytes), alias, digest=digest)


def read_folder(path: Path, read: Callable[[], T]) -> T:
    """Gives what ``read`` makes of a folder's files; reads again where the folder was replaced by another meanwhile.

    Files are found by their names, so that otherwise some could come from the old folder and some from the new one.
    """
    for _ in range(_TRIES):
        seen = os.stat(path)
        try:
            found = read()
        except (FormatError, OSError):
            if _same_folder(path, seen):
                raise
            continue
        if _same_folder(path, seen):
            return found
    raise DamagedError(f"{path}: found the folder replaced again and again while it was read; stop the saves to it")


def _same_folder(path: Path, seen: os.stat_result) -> bool:
    now = os.stat(path)
    return (now.st_dev, now.st_ino) == (seen.st_dev, seen.st_ino)


def whole_file(path: Path, dtype: DType, shape: tuple[int, ...], *, alias: Hashable, digest: str | None) -> LazyTensor:
    """Gives the tensor whose bytes are a whole file; the file is mapped when the tensor is read.

    Raises DamagedError now where the size is not the shape's, and on reading where the file was replaced meanwhile.
    """
    seen = os.stat(path)
    nbytes = prod(shape) * dtype.itemsize
    if any(dim < 0 for dim in shape) or seen.st_size != nbytes:
        raise DamagedError(
            f"{path}: found {seen.st_size} bytes, expected {nbytes} for {dtype.name} {shape}; "
            "the file is cut short or damaged: fetch it again"
        )

    def source() -> np.ndarray:
        file = MappedFile(path)
        now = file.status
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (seen.st_ino, seen.st_size, seen.st_mtime_ns):
            raise DamagedError(f"{path}: found the file replaced since it was opened, expected the same; open it again")
        return file.raw(0, nbytes, "values").view(dtype.numpy).reshape(shape)

    return LazyTensor(dtype, shape, source, Extent(path, 0, nbytes), alias, digest=digest)
