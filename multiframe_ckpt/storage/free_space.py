"""Room: whether a disk has place for a checkpoint, asked before a byte is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..dtypes import dtype_named
from ..errors import NoSpaceError
from ..tree import LazyTensor, shared_storages

__all__ = ["bytes_needed", "require_free_space"]


def bytes_needed(
    tensors: Mapping[str, LazyTensor],
    *,
    widened: Mapping[str, str] = {},
    written_apart: Sequence[Sequence[str]] = (),
) -> int:
    """Return the least that the tensors take on disk: one storage once, but for groups that are ``written_apart``.

    ``widened`` has the dtypes of those that are stored wider.
    """
    apart = {key for group in written_apart for key in group}
    wider = {key: dtype_named(name) for key, name in widened.items()}
    sizes = {key: tensor.size * (wider.get(key) or tensor.dtype).itemsize for key, tensor in tensors.items()}
    needed = sum(sizes.values())
    for group in shared_storages({key: tensor for key, tensor in tensors.items() if key not in apart}):
        parts = {tensors[key].identity: sizes[key] for key in group}
        storages = [view.storage.nbytes for view in (tensors[key].view for key in group) if view is not None]
        needed += min([sum(parts.values()), *storages]) - sum(sizes[key] for key in group)
    return needed


def require_free_space(target: Path, nbytes: int) -> None:
    """Raise NoSpaceError where the disk that ``target`` will lie on has less than ``nbytes`` free for this user."""
    target = Path(os.path.abspath(target))
    folder = next(parent for parent in target.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise NoSpaceError(
            f"{target}: found {free:,} bytes free on its disk, expected {nbytes:,} or more; "
            "free some, choose a folder on another disk, or save less (fewer checkpoints, or no optimizer)"
        )
