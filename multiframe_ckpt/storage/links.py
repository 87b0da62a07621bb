"""Pointers: names such as ``best_model.pth`` that stand for a sibling without a second copy of its bytes.

A pointer is a relative symbolic link, so that a folder can be moved or copied whole. Where the file system has none, a
file gets a second name (a hard link). It is made in a stage and renamed into place in one step: whoever looks sees the old
target or the new one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import LinkRefusedError
from .atomic import flush, stage_for

__all__ = ["make_pointer", "pointer_target"]

#: The errors of systems and file systems without such links; EPERM is Linux's for vfat.
_UNSUPPORTED = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL}


def make_pointer(pointer: Path, name: str) -> None:
    """Make ``pointer`` stand for its sibling ``name``, durably; raise LinkRefusedError where the disk has no links."""
    with stage_for(pointer) as stage:
        fresh = stage / pointer.name
        _link(fresh, pointer, name)
        os.replace(fresh, pointer)
        flush(pointer.parent)


def _link(fresh: Path, pointer: Path, name: str) -> None:
    try:
        os.symlink(name, fresh)
        return
    except OSError as problem:
        if problem.errno not in _UNSUPPORTED:
            raise
    target = pointer.parent / name
    try:
        if not target.is_dir():
            os.link(target, fresh)
            return
    except OSError as problem:
        if problem.errno not in _UNSUPPORTED:
            raise
    raise LinkRefusedError(
        f"{pointer}: found a file system without {'symbolic' if target.is_dir() else 'any'} links, expected one that "
        f"can make a pointer to {name}, which is saved; use another disk, or for folders format='torch'"
    )


def pointer_target(pointer: Path, names: Iterable[str]) -> str | None:
    """Return for which of the siblings ``names`` the pointer stands, or None for none of them."""
    if pointer.is_symlink():
        name = os.readlink(pointer)
        return name if name in set(names) else None
    try:
        status = os.stat(pointer)
    except OSError:
        return None
    siblings = [pointer.parent / name for name in names]
    same_file = (path.name for path in siblings if os.path.lexists(path) and os.path.samestat(status, os.lstat(path)))
    return next(same_file, None) if status.st_nlink > 1 else None
