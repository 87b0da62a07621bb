"""Folder: a checkpoint that is a folder of files, held open while it is read.

Its files are opened from its own descriptor, a component at a time and without following links, so that whatever is
renamed or linked meanwhile, nothing outside it is opened. A link that stays inside is resolved first. The files are not
held open: one is opened when its tensor is read, with a check that it is the one whose size was seen.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from ..dtypes import DType
from ..errors import DamagedError, ReplacedError, UnsafeError
from ..tensor import Extent, LazyTensor
from .extents import Descriptor, read_at, require_regular
from .replaced import one_of_them

__all__ = ["Folder", "read_folder"]

T = TypeVar("T")
#: What tells a file that was replaced or changed: its number, its size and when it was changed.
State: TypeAlias = tuple[int, int, int]

_FOLLOW = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FOLDER = _FILE | getattr(os, "O_DIRECTORY", 0)
#: What opening a link without following it gives: the second where a folder is asked for.
_IS_LINK = {errno.ELOOP, errno.ENOTDIR}


class Folder:
    """An open folder. Names in it are relative, with ``/`` between their components; ``where`` is for messages."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._descriptor = Descriptor(os.open(path, _FOLLOW))  # its user named it: it may be reached by a link
        self._root, self._place = self, ""

    def inside(self, name: str) -> Folder:
        """Gives a folder in this one; UnsafeError where it leads out of the checkpoint."""
        found = Folder.__new__(Folder)
        found.where, found._descriptor = f"{self.where}/{name}", self._opened(name, _FOLDER)
        found._root, found._place = self._root, f"{self._place}{name}/"
        return found

    def names(self) -> dict[str, bool]:
        """Gives the names in the folder, sorted, and whether a folder lies under each, and no link to one."""
        with os.scandir(self._descriptor.number) as entries:
            found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        return dict(sorted(found.items()))

    def has(self, name: str) -> bool:
        """Says whether a file lies there, here or behind a link; False for a name that no disk can have."""
        try:
            return stat.S_ISREG(os.stat(name, dir_fd=self._descriptor.number).st_mode)
        except (OSError, ValueError):
            return False

    def read(self, name: str, limit: int) -> bytes:
        """Gives a small file's bytes; DamagedError where it has more than ``limit``, or is no file."""
        file = self._opened(name, _FILE)
        status = os.fstat(file.number)
        require_regular(status, f"{self.where}/{name}")
        if status.st_size > limit:
            raise DamagedError(f"{self.where}/{name}: found {status.st_size} bytes, expected at most {limit}")
        return read_at(file.number, status.st_size, 0)

    def status(self, name: str) -> os.stat_result | None:
        """Gives the status of a file in the checkpoint, or None where none lies there, here or behind a link."""
        try:
            found = os.stat(name, dir_fd=self._descriptor.number, follow_symlinks=False)
        except (OSError, ValueError):
            return None
        if stat.S_ISLNK(found.st_mode) and self.has(name):
            found = os.fstat(self._opened(name, _FILE).number)
        return found if stat.S_ISREG(found.st_mode) else None

    def tensor(
        self, name: str, seen: os.stat_result, dtype: DType, shape: tuple[int, ...], digest: str | None
    ) -> LazyTensor:
        """Gives the tensor whose bytes are a whole file, of a known status; DamagedError where it has another size."""
        where, nbytes = f"{self.where}/{name}", prod(shape) * dtype.itemsize
        if seen.st_size != nbytes:
            raise DamagedError(
                f"{where}: found {seen.st_size} bytes, expected {nbytes} for {dtype.name} {shape}; "
                "the file is cut short or damaged: fetch it again"
            )
        source = _Mapped(self._root, f"{self._place}{name}", _state(seen), dtype, shape)
        return LazyTensor(dtype, shape, source, Extent(where, 0, nbytes, source.descriptor), object(), None, digest)

    def opened_again(self, name: str, state: State) -> Descriptor:
        """Opens a file whose state was seen before; ReplacedError where it is another one now."""
        try:
            file = self._opened(name, _FILE)
            if _state(os.fstat(file.number)) == state:
                return file
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise ReplacedError(
            f"{self.where}/{name}: found the file replaced since it was opened, expected the same; open it again"
        )

    def _opened(self, name: str, flags: int) -> Descriptor:
        try:
            return _walk(self._descriptor.number, name, flags)
        except OSError as problem:
            if problem.errno == errno.ENXIO:
                raise DamagedError(
                    f"{self.where}/{name}: found a socket or device, expected a file; restore it from a copy"
                ) from None
            if problem.errno not in _IS_LINK:
                raise type(problem)(problem.errno, problem.strerror, f"{self.where}/{name}") from None
        try:
            return _walk(self._root._descriptor.number, self._resolved(name), flags)
        except OSError as problem:
            if problem.errno not in _IS_LINK:
                raise
        raise DamagedError(
            f"{self.where}/{name}: found a link that leads nowhere, expected the file itself; copy it there"
        )

    def _resolved(self, name: str) -> str:
        """Gives a name, its links followed, relative to the checkpoint; UnsafeError where it leads out."""
        root = os.path.realpath(self._root.where)
        found = os.path.realpath(f"{self.where}/{name}")  # unlike Path.resolve(), takes a loop
        if not Path(found).is_relative_to(root):
            raise UnsafeError(
                f"{self.where}/{name}: found a link that leads out of {self._root.where}, expected the file itself; "
                "copy it there"
            )
        return os.path.relpath(found, root)


class _Mapped:
    """Reads a tensor that is a whole file, which is opened for it; of so little memory as there may be many."""

    __slots__ = ("_dtype", "_name", "_root", "_shape", "_state")

    def __init__(self, root: Folder, name: str, state: State, dtype: DType, shape: tuple[int, ...]) -> None:
        self._root, self._name, self._state, self._dtype, self._shape = root, name, state, dtype, shape

    def descriptor(self) -> Descriptor:
        """Opens the file."""
        return self._root.opened_again(self._name, self._state)

    def __call__(self) -> np.ndarray:
        """Gives the array, over a map."""
        nbytes = prod(self._shape) * self._dtype.itemsize
        with self.descriptor() as number:
            mapped = mmap.mmap(number, nbytes, access=mmap.ACCESS_READ) if nbytes else b""
        return np.frombuffer(mapped, self._dtype.numpy).reshape(self._shape)


def _state(status: os.stat_result) -> State:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _walk(start: int, name: str, flags: int) -> Descriptor:
    """Opens a name below a folder, following no link."""
    *folders, last = name.split("/")
    held = None
    for folder in folders:
        held = Descriptor(os.open(folder, _FOLDER, dir_fd=held.number if held else start))
    return Descriptor(os.open(last, flags, dir_fd=held.number if held else start))


def read_folder(path: Path, read: Callable[[Folder], T]) -> T:
    """Gives what ``read`` makes of a folder; reads again where the folder was replaced by another meanwhile.

    Of the one that was replaced, files may be gone already.
    """
    return one_of_them(path, lambda: read(Folder(path)))
