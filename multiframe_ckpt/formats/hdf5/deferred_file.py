"""DeferredErrorFile: a file to give to a library that cannot bear a write that fails.

HDF5 cannot close a file that it could not write: h5py prints tracebacks of objects that are never freed, the file stays
open, and the process dies of a segmentation fault when it exits (HDF5 1.14, h5py 3.x, a full disk).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

__all__ = ["DeferredErrorFile"]


class DeferredErrorFile(io.FileIO):
    """A fresh file whose writes always seem to succeed; :meth:`check` raises what went wrong, which the owner must call."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")
        self._problem: BaseException | None = None

    def write(self, data: Any) -> int:
        """Write all of the data, unless a write failed before."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            while self._problem is None and written < len(view):
                written += super().write(view[written:])
        except BaseException as problem:  # a KeyboardInterrupt would be a failed write to the library as well
            self._problem = problem
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size, unless a write failed before."""
        try:
            return super().truncate(size) if self._problem is None else 0
        except BaseException as problem:
            self._problem = problem
            return 0

    def check(self) -> None:
        """Raise the first error there was."""
        if self._problem is not None:
            raise self._problem
