"""What a later save will need, checked when a manager begins: an epoch on, and it would cost that epoch."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence

from ..errors import LinkRefusedError
from ..storage.links import require_links
from .folder import CheckpointFolder
from .names import suffix_of
from .pointers import require_pointers

__all__ = ["why_no_save"]


def why_no_save(folder: CheckpointFolder, stems: Sequence[str], format: str) -> Iterator[str]:
    """Raise for what must change before any save, and yield why none can be written now: what is there can be read.

    Raised are NotADirectoryError for a file in the folder's place, TargetExistsError for something of another's in a
    pointer's, LinkRefusedError for a disk without links, and OSError for a name that the disk does not take.
    """
    existing = next(path for path in (folder.path, *folder.path.parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(
            f"{existing}: found a file, expected a folder for the run or a free name; choose another output_dir"
        )
    require_pointers(folder, stems, format)
    try:
        require_links(folder.path, to_folders=not suffix_of(format))
    except LinkRefusedError:
        raise
    except OSError as problem:
        if problem.errno == errno.ENAMETOOLONG:
            raise
        yield (
            f"{folder.path}: found that nothing can be written there ({problem.strerror}), expected a folder for saves; "
            "choose another output_dir, or only restore what is there"
        )
