"""Folders that checkpoints lie in, and those on this machine, held open while they are read.

Files of a local folder are opened from its own descriptor, a component at a time and without following links, so that
whatever is renamed or linked meanwhile, nothing outside it is opened. A link that stays inside is resolved first. The files
are not held open: one is opened when its tensor is read, with a check that it is the one that was seen before.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DamagedError, FormatError, MissingFileError, ReplacedError, UnsafeError
from ..tree.sources import File
from .files import Descriptor, Identity, LocalFile, identity_of, require_regular

__all__ = [
    "Folder",
    "FolderFile",
    "LocalFolder",
    "files_below",
    "leads_out",
    "missing_file",
    "open_folder",
    "require_below",
]

_FOLLOW = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_DIRECTORY", 0)
_FILE = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FOLDER = _FILE | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0)  # enough to open what lies in it, and faster
#: A file of this many bytes is not small any more.
_SMALL = 1 << 10
#: Smaller files are read where larger ones are mapped: a map holds its file open, and a folder may have thousands.
_MAPPED = 1 << 20
#: Components of names that no folder gives to what lies in it.
_OUTSIDE = {"", ".", ".."}
#: What opening a link without following it gives: the second where a folder is asked for.
_IS_LINK = {errno.ELOOP, errno.ENOTDIR}


class Folder(ABC):
    """A folder of a checkpoint. It never leads outside itself; names in it have ``/`` between their components.

    ``where`` is for messages.
    """

    __slots__ = ()

    where: str

    @abstractmethod
    def names(self) -> dict[str, bool]:
        """Return the names in the folder, sorted, and whether a folder lies under each, and no link to one."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Return whether a file lies there; False for a name that no disk can have, or that leads out."""

    @abstractmethod
    def file(self, name: str) -> File:
        """Return a file below; raise MissingFileError, UnsafeError where it leads out, DamagedError for what is no file."""

    @abstractmethod
    def folder(self, name: str) -> Folder:
        """Return a folder below; raise as :meth:`file` does."""


def leads_out(name: str) -> bool:
    """Return whether a name has components that no folder gives, such as ``..``: a file's own text may be forged."""
    return not _OUTSIDE.isdisjoint(name.split("/"))


def require_below(folder: Folder, name: str) -> None:
    """Raise UnsafeError for a name that leads out of a folder."""
    if leads_out(name):
        raise UnsafeError(
            f"{folder.where}: found the name {name!r}, expected one of what lies in the folder; the checkpoint is forged"
        )


def missing_file(folder: Folder, name: str) -> MissingFileError:
    """Return the error for a name under which nothing lies."""
    message = (
        f"{folder.where}/{name}: found nothing there, expected it, as the checkpoint names it; restore it from a copy"
    )
    return MissingFileError(message, missing=(name,))


def files_below(folder: Folder) -> Iterator[str]:
    """Yield the name of every file in a folder and its folders, however deep; no link to a folder is followed."""
    left = [(folder, "", name, is_folder) for name, is_folder in reversed(folder.names().items())]
    while left:
        above, prefix, name, is_folder = left.pop()
        if not is_folder:
            yield f"{prefix}{name}"
            continue
        below, prefix = above.folder(name), f"{prefix}{name}/"
        left += [(below, prefix, inner, is_folder) for inner, is_folder in reversed(below.names().items())]


class LocalFolder(Folder):
    """An open folder of this machine."""

    __slots__ = ("_descriptor", "_names", "_top", "where")

    def __init__(self, number: int, where: str, top: LocalFolder | None = None) -> None:
        self._descriptor, self.where = Descriptor(number), where
        self._top = top  # the checkpoint's own, None there: a circle would hold it open until the collector comes
        self._names: dict[str, bool] | None = None

    @property
    def top(self) -> LocalFolder:
        """The checkpoint's own folder, out of which nothing leads."""
        return self._top or self

    def names(self) -> dict[str, bool]:
        """Return the names, which are listed once: what is read is the folder as it was then."""
        if self._names is None:
            # The checkpoint's own was opened to be listed, one in it only to be walked through.
            listing = (
                Descriptor(os.open(".", _FOLLOW, dir_fd=self._descriptor.number)) if self._top else self._descriptor
            )
            with os.scandir(listing.number) as entries:
                listed = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
            self._names = dict(sorted(listed.items()))
        return self._names

    def has(self, name: str) -> bool:
        """Return whether a file lies there, itself or behind a link."""
        try:
            return stat.S_ISREG(os.stat(name, dir_fd=self._descriptor.number).st_mode) and not leads_out(name)
        except (OSError, ValueError):
            return False

    def file(self, name: str) -> FolderFile:
        """Return a file, to be opened when it is read."""
        with self._required(name):
            status = os.stat(name, dir_fd=self._descriptor.number, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                held = Descriptor(self._open(name, _FILE))
                status = os.fstat(held.number)
        require_regular(status, f"{self.where}/{name}")
        return self.file_seen(name, status)

    def file_seen(self, name: str, status: os.stat_result) -> FolderFile:
        """Return a file whose status was just seen."""
        return FolderFile(self._top or self, f"{self.where}/{name}", identity_of(status))

    def folder(self, name: str) -> LocalFolder:
        """Return a folder below."""
        with self._required(name):
            return LocalFolder(self._open(name, _FOLDER), f"{self.where}/{name}", self.top)

    @contextmanager
    def _required(self, name: str) -> Iterator[None]:
        """Look for a name below; MissingFileError where the system says that there is none, or that none can be."""
        require_below(self, name)
        try:
            yield
        except FormatError:
            raise
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: NUL, or what no bytes stand for
            raise missing_file(self, name) from None
        except OSError as problem:
            if problem.errno != errno.ENAMETOOLONG:
                raise
            raise missing_file(self, name) from None

    def read_fast(self, name: str, small: str, other: str) -> tuple[bytes, os.stat_result] | None:
        """Return the bytes of a small file in a folder below, and the status of another there, in the fewest calls.

        Nothing is followed and nothing said: None where any of them is not there, or not what it usually is. Whether the
        small one is a file is not asked for: of a pipe or folder nothing can be read at an offset, and a device gives no
        bytes or too many.
        """
        try:
            folder = _walk(self._descriptor.number, name, _FOLDER)
            try:
                status = os.stat(other, dir_fd=folder, follow_symlinks=False)
                file = os.open(small, _FILE, dir_fd=folder)
                try:
                    raw = os.pread(file, _SMALL, 0)
                finally:
                    os.close(file)
            finally:
                os.close(folder)
        except (OSError, ValueError):
            return None
        return (raw, status) if stat.S_ISREG(status.st_mode) and 0 < len(raw) < _SMALL else None

    def reopened(self, where: str, identity: Identity) -> LocalFile:
        """Open a file below that was seen before; raise ReplacedError where it is another one now."""
        try:
            descriptor = Descriptor(self._open(where[len(self.where) + 1 :], _FILE))
            if identity_of(os.fstat(descriptor.number)) == identity:
                return LocalFile(descriptor, where, identity)
        except (FileNotFoundError, NotADirectoryError):
            pass
        raise ReplacedError(f"{where}: found the file replaced since it was opened, expected the same; open it again")

    def _open(self, name: str, flags: int) -> int:
        """Open a file or folder of the checkpoint, for the caller to close."""
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
            return _walk(self.top._descriptor.number, self._resolved(name), flags)
        except OSError as problem:
            if problem.errno not in _IS_LINK:
                raise
        raise DamagedError(
            f"{self.where}/{name}: found a link that leads nowhere, expected the file itself; copy it there"
        )

    def _resolved(self, name: str) -> str:
        """Return a name, its links followed, relative to the checkpoint; raise UnsafeError where it leads out."""
        root = os.path.realpath(self.top.where)
        target = os.path.realpath(f"{self.where}/{name}")  # unlike Path.resolve(), takes a loop
        if not Path(target).is_relative_to(root):
            raise UnsafeError(
                f"{self.where}/{name}: found a link that leads out of {self.top.where}, expected the file itself; copy it "
                "there"
            )
        return os.path.relpath(target, root)


class FolderFile(File):
    """A file that is opened each time it is read; of so little memory as there may be many."""

    __slots__ = ("_top", "identity", "size", "where")

    identity: Identity

    def __init__(self, top: LocalFolder, where: str, identity: Identity) -> None:
        self._top, self.where, self.identity = top, where, identity
        self.size = identity[2]

    def opened(self) -> LocalFile:
        """Open the file; it is closed when nobody holds what is returned any more."""
        return self._top.reopened(self.where, self.identity)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Open the file and fill the buffer."""
        self.opened().read_into(offset, buffer)

    def read_at(self, offset: int, nbytes: int, what: str = "its bytes") -> bytes:
        """Open the file and return bytes of it."""
        return self.opened().read_at(offset, nbytes, what)

    def mapped(self, offset: int, nbytes: int) -> memoryview:
        """Open the file and map it, or read few bytes."""
        return self.opened().mapped(offset, nbytes) if nbytes >= _MAPPED else memoryview(self.read_at(offset, nbytes))

    def contents(self) -> bytes | mmap.mmap:
        """Open the file and map all of it."""
        return self.opened().contents()


def _walk(start: int, name: str, flags: int) -> int:
    """Open a name below a folder, following no link."""
    while "/" in name:
        folder, _, name = name.partition("/")
        held = Descriptor(os.open(folder, _FOLDER, dir_fd=start))
        start = held.number
    return os.open(name, flags, dir_fd=start)


def open_folder(path: Path) -> LocalFolder:
    """Open a checkpoint's folder; its user named it, so that it may be reached by a link."""
    return LocalFolder(os.open(path, _FOLLOW), str(path))
