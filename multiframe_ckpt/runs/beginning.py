"""What a later save will need, checked when a manager begins: an epoch on, and it would cost that epoch.

Nothing is written where there is something to read: it may be another's, or lie on a disk that is read-only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

from ..errors import LinkRefusedError
from ..storage.links import require_links
from .folder import CheckpointFolder
from .names import suffix_of
from .pointers import require_pointers

__all__ = ["why_none_begins", "why_none_goes_on"]


def why_none_begins(folder: CheckpointFolder, stems: Sequence[str], format: str) -> Iterator[str]:
    """Raise for what must change before any save, and yield why none can be written into a folder without checkpoints.

    Raised are NotADirectoryError for a file in the folder's place, TargetExistsError for something of another's in a
    pointer's, LinkRefusedError for a disk without links, and OSError for a name that the disk does not take.
    """
    existing = next(path for path in (folder.path, *folder.path.parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(
            f"{existing}: found a file, expected a folder for the run or a free name; choose another output_dir"
        )
    require_pointers(folder, stems, format)
    if folder.names() or folder.pointers():
        return
    try:
        require_links(folder.path, to_folders=not suffix_of(format))
    except LinkRefusedError:
        raise
    except OSError as problem:
        if problem.errno == errno.ENAMETOOLONG:
            raise
        yield _unwritable(folder, str(problem.strerror))


def why_none_goes_on(folder: CheckpointFolder) -> Iterator[str]:
    """Yield why no save can be written into the folder of a run that is there."""
    if folder.path.is_dir() and not os.access(folder.path, os.W_OK | os.X_OK):
        yield _unwritable(folder, "no permission, or a read-only disk")


def _unwritable(folder: CheckpointFolder, why: str) -> str:
    return (
        f"{folder.path}: found that nothing can be written there ({why}), expected a folder for saves; choose another "
        "output_dir, or only restore what is there"
    )
