"""Room: whether a disk has place for a checkpoint, asked before a byte is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from ..dtypes import dtype_named
from ..errors import NoRoomError
from ..tensor import LazyTensor

__all__ = ["bytes_needed", "require_room"]


def bytes_needed(
    tensors: Mapping[str, LazyTensor],
    *,
    widened: Mapping[str, str] = {},
    written_apart: Sequence[Sequence[str]] = (),
) -> int:
    """Gives the least that the tensors take on disk: one storage once, but for groups that are ``written_apart``.

    ``widened`` has the dtypes of those that are stored wider.
    """
    apart = {key for group in written_apart for key in group}
    total = 0
    shared: dict[Hashable, dict[Hashable, int]] = {}
    storages: dict[Hashable, int] = {}
    for key, tensor in tensors.items():
        wider = dtype_named(widened[key]) if key in widened else None
        nbytes = tensor.size * (wider or tensor.dtype).itemsize
        if tensor.alias is None or key in apart:
            total += nbytes
            continue
        shared.setdefault(tensor.alias, {})[tensor.identity] = nbytes
        if tensor.view is not None:
            storages[tensor.alias] = tensor.view.storage.nbytes
    sums = {alias: sum(parts.values()) for alias, parts in shared.items()}
    return total + sum(min(nbytes, storages.get(alias, nbytes)) for alias, nbytes in sums.items())


def require_room(target: Path, nbytes: int) -> None:
    """Raises NoRoomError where the disk that ``target`` will lie on has less than ``nbytes`` free for this user."""
    target = Path(os.path.abspath(target))
    folder = next(parent for parent in target.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise NoRoomError(
            f"{target}: found {free:,} bytes free on its disk, expected {nbytes:,} or more; "
            "free some, choose a folder on another disk, or save less (fewer checkpoints, or no optimizer)"
        )
