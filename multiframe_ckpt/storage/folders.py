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
from ..tree import LazyTensor, OpenedFile
from ..tree.shapes import is_small_shape, require_shape
from .consistency import read_consistently
from .files import Descriptor, read_at, require_regular

__all__ = ["Folder", "open_folder", "read_folder"]

T = TypeVar("T")
#: What tells a file that was replaced or changed: its number, its size and when it was changed.
State: TypeAlias = tuple[int, int, int]

_FOLLOW = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FOLDER = _FILE | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0)  # enough to open what lies in it, and faster
#: A file of this many bytes is not small any more.
_GLANCE = 1 << 10
#: What opening a link without following it gives: the second where a folder is asked for.
_IS_LINK = {errno.ELOOP, errno.ENOTDIR}


class Folder(Descriptor):
    """An open folder. Names in it are relative, with ``/`` between their components; ``where`` is for messages."""

    __slots__ = ("_above", "where")

    def __init__(self, number: int, where: str, above: Folder | None = None) -> None:
        self.number, self.where = number, where
        self._above = above  # the checkpoint's own, None there: a circle would hold it open until the collector comes

    def inside(self, name: str) -> Folder:
        """Return a folder in this one; UnsafeError where it leads out of the checkpoint."""
        return Folder(self._opened(name, _FOLDER), f"{self.where}/{name}", self._above or self)

    def names(self) -> dict[str, bool]:
        """Return the names in the folder, sorted, and whether a folder lies under each, and no link to one."""
        with os.scandir(self.number) as entries:
            found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        return dict(sorted(found.items()))

    def has(self, name: str) -> bool:
        """Return whether a file lies there, here or behind a link; False for a name that no disk can have."""
        try:
            return stat.S_ISREG(os.stat(name, dir_fd=self.number).st_mode)
        except (OSError, ValueError):
            return False

    def read(self, name: str, limit: int) -> bytes:
        """Return a small file's bytes; DamagedError where it has more than ``limit``, or is no file."""
        file = self._opened(name, _FILE)
        try:
            status = os.fstat(file)
            require_regular(status, f"{self.where}/{name}")
            if status.st_size > limit:
                raise DamagedError(f"{self.where}/{name}: found {status.st_size} bytes, expected at most {limit}")
            return read_at(file, status.st_size, 0)
        finally:
            os.close(file)

    def glance(self, name: str, small: str, other: str) -> tuple[bytes, os.stat_result] | None:
        """Return the bytes of a small file in a folder below, and the status of another there, in the fewest calls.

        Nothing is followed and nothing said: None where any of them is not there, or not what it usually is.
        """
        try:
            folder = _walk(self.number, name, _FOLDER)
            try:
                status = os.stat(other, dir_fd=folder, follow_symlinks=False)
                file = os.open(small, _FILE, dir_fd=folder)
                try:
                    plain = stat.S_ISREG(os.fstat(file).st_mode) and stat.S_ISREG(status.st_mode)
                    raw = os.pread(file, _GLANCE, 0) if plain else b""
                finally:
                    os.close(file)
            finally:
                os.close(folder)
        except (OSError, ValueError):
            return None
        return (raw, status) if plain and len(raw) < _GLANCE else None

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of a file in the checkpoint, or None where none lies there, here or behind a link."""
        try:
            found = os.stat(name, dir_fd=self.number, follow_symlinks=False)
        except (OSError, ValueError):
            return None
        if stat.S_ISLNK(found.st_mode) and self.has(name):
            with Descriptor(self._opened(name, _FILE)) as number:
                found = os.fstat(number)
        return found if stat.S_ISREG(found.st_mode) else None

    def tensor(
        self, name: str, seen: os.stat_result, dtype: DType, shape: tuple[int, ...], digest: str | None
    ) -> LazyTensor:
        """Return the tensor whose bytes are a whole file, of a known status; DamagedError where it has another size."""
        where = f"{self.where}/{name}"
        if not (is_small_shape(shape) and seen.st_size):
            require_shape(shape, dtype, where)
        nbytes = prod(shape) * dtype.itemsize
        if seen.st_size != nbytes:
            raise DamagedError(
                f"{where}: found {seen.st_size} bytes, expected {nbytes} for {dtype.name} {shape}; "
                "the file is cut short or damaged: fetch it again"
            )
        file = _FileOfFolder(self._above or self, where, _state(seen))
        return LazyTensor(dtype, shape, file, 0, file, None, digest)

    def opened_again(self, where: str, state: State) -> Descriptor:
        """Open a file below, whose state was seen before; ReplacedError where it is another one now."""
        try:
            file = Descriptor(self._opened(where[len(self.where) + 1 :], _FILE))
            if _state(os.fstat(file.number)) == state:
                return file
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise ReplacedError(f"{where}: found the file replaced since it was opened, expected the same; open it again")

    def _opened(self, name: str, flags: int) -> int:
        """Open a file or folder of the checkpoint, for the caller to close."""
        try:
            return _walk(self.number, name, flags)
        except OSError as problem:
            if problem.errno == errno.ENXIO:
                raise DamagedError(
                    f"{self.where}/{name}: found a socket or device, expected a file; restore it from a copy"
                ) from None
            if problem.errno not in _IS_LINK:
                raise type(problem)(problem.errno, problem.strerror, f"{self.where}/{name}") from None
        try:
            return _walk((self._above or self).number, self._resolved(name), flags)
        except OSError as problem:
            if problem.errno not in _IS_LINK:
                raise
        raise DamagedError(
            f"{self.where}/{name}: found a link that leads nowhere, expected the file itself; copy it there"
        )

    def _resolved(self, name: str) -> str:
        """Return a name, its links followed, relative to the checkpoint; UnsafeError where it leads out."""
        top = (self._above or self).where
        root = os.path.realpath(top)
        found = os.path.realpath(f"{self.where}/{name}")  # unlike Path.resolve(), takes a loop
        if not Path(found).is_relative_to(root):
            raise UnsafeError(
                f"{self.where}/{name}: found a link that leads out of {top}, expected the file itself; copy it there"
            )
        return os.path.relpath(found, root)


class _FileOfFolder(OpenedFile):
    """A file that is opened each time it is read; of so little memory as there may be many."""

    __slots__ = ("_root", "_state", "where")

    def __init__(self, root: Folder, where: str, state: State) -> None:
        self._root, self.where, self._state = root, where, state

    def descriptor(self) -> Descriptor:
        """Open the file."""
        return self._root.opened_again(self.where, self._state)

    def array(self, offset: int, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
        """Return the array, over a map."""
        nbytes = prod(shape) * dtype.itemsize
        with self.descriptor() as number:
            mapped = mmap.mmap(number, nbytes, access=mmap.ACCESS_READ, offset=offset) if nbytes else b""
        return np.frombuffer(mapped, dtype.numpy).reshape(shape)


def _state(status: os.stat_result) -> State:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _walk(start: int, name: str, flags: int) -> int:
    """Open a name below a folder, following no link."""
    while "/" in name:
        folder, _, name = name.partition("/")
        held = Descriptor(os.open(folder, _FOLDER, dir_fd=start))
        start = held.number
    return os.open(name, flags, dir_fd=start)


def open_folder(path: Path) -> Folder:
    """Open a checkpoint's folder; its user named it, so that it may be reached by a link."""
    return Folder(os.open(path, _FOLLOW), str(path))


def read_folder(path: Path, read: Callable[[Folder], T]) -> T:
    """Return what ``read`` makes of a folder; read again where the folder was replaced by another meanwhile.

    Of the one that was replaced, files may be gone already.
    """
    return read_consistently(path, lambda: read(open_folder(path)))
