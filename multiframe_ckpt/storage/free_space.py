"""Free space: whether a disk can take a checkpoint, asked before a byte is written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..errors import NoSpaceError

__all__ = ["require_free_space"]


def require_free_space(target: Path, nbytes: int) -> None:
    """Raise NoSpaceError where the disk that ``target`` will lie on has less than ``nbytes`` free for this user."""
    target = Path(os.path.abspath(target))
    folder = next(parent for parent in target.parents if parent.exists())
    free_nbytes = shutil.disk_usage(folder).free
    if free_nbytes < nbytes:
        raise NoSpaceError(
            f"{target}: found {free_nbytes:,} bytes free on its disk, expected {nbytes:,} or more; "
            "free some, choose a folder on another disk, or save less (fewer checkpoints, or no optimizer)"
        )
