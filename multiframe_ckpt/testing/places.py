"""Files and folders over bytes in memory: a second implementation of what formats read from, which leans on no path."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path

from ..storage.files import open_file
from ..storage.folders import Folder, files_below, missing_file, open_folder, require_below
from ..tree import File

__all__ = ["MemoryFile", "MemoryFolder", "in_memory", "place_at"]


class MemoryFile(File):
    """A file of bytes in memory; ``read_bytes`` counts what was read of it."""

    def __init__(self, content: bytes, where: str = "memory") -> None:
        self.content, self.where, self.size = content, where, len(content)
        self.identity: Hashable = id(content)
        self.read_bytes = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Copy the bytes into a buffer."""
        piece = self.content[offset : offset + len(buffer)]
        if offset < 0 or len(piece) < len(buffer):
            raise self.cut_short(offset)
        buffer[:] = piece
        self.read_bytes += len(piece)


class MemoryFolder(Folder):
    """A folder of such files, by their names, with ``/`` between the components."""

    def __init__(self, contents: Mapping[str, bytes], where: str = "memory") -> None:
        self.contents, self.where = dict(contents), where

    def names(self) -> dict[str, bool]:
        """Return the names in the folder, and whether folders lie under them."""
        parts = (name.partition("/") for name in sorted(self.contents))
        return {first: bool(slash) for first, slash, _ in parts}

    def has(self, name: str) -> bool:
        """Return whether a file lies there."""
        return name in self.contents

    def file(self, name: str) -> MemoryFile:
        """Return a file."""
        require_below(self, name)
        if name not in self.contents:
            raise missing_file(self, name)
        return MemoryFile(self.contents[name], f"{self.where}/{name}")

    def folder(self, name: str) -> MemoryFolder:
        """Return a folder below."""
        require_below(self, name)
        below = {key[len(name) + 1 :]: raw for key, raw in self.contents.items() if key.startswith(f"{name}/")}
        if not below:
            raise missing_file(self, name)
        return MemoryFolder(below, f"{self.where}/{name}")


def place_at(path: Path) -> File | Folder:
    """Open a file or folder of this machine."""
    return open_folder(path) if path.is_dir() else open_file(path)


def in_memory(path: Path) -> MemoryFile | MemoryFolder:
    """Return a copy in memory of a file or folder of this machine."""
    if not path.is_dir():
        return MemoryFile(path.read_bytes())
    names = files_below(open_folder(path))
    return MemoryFolder({name: (path / name).read_bytes() for name in names})
