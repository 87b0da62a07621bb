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

__all__ = ["make_pointer", "pointer_target", "require_links"]

#: The errors of systems and file systems without such links; EPERM is Linux's for vfat.
_UNSUPPORTED = {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EINVAL}


def make_pointer(pointer: Path, name: str) -> None:
    """Make ``pointer`` stand for its sibling ``name``, durably; raise LinkRefusedError where the disk has no links."""
    with stage_for(pointer) as stage:
        fresh = stage / pointer.name
        if not _link(fresh, pointer.parent / name):
            raise _no_links(pointer, f"can make a pointer to {name}, which is saved", (pointer.parent / name).is_dir())
        os.replace(fresh, pointer)
        flush(pointer.parent)


def require_links(folder: Path, *, to_folders: bool) -> None:
    """Raise LinkRefusedError where no pointer can be made in a folder, which may not exist yet; OSError for no writing."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    with stage_for(existing / "pointer") as stage:
        inside = stage.joinpath(*folder.relative_to(existing).parts)  # a name that the disk does not take is found here
        inside.mkdir(parents=True, exist_ok=True)
        target = inside / "target"
        target.mkdir() if to_folders else target.touch()
        if not _link(inside / "link", target):
            raise _no_links(folder, "can make pointers to checkpoints", to_folders)


def _link(fresh: Path, target: Path) -> bool:
    """Make a link to what will be its sibling; return False where the file system has none for it."""
    try:
        os.symlink(target.name, fresh)
        return True
    except OSError as problem:
        if problem.errno not in _UNSUPPORTED:
            raise
    try:
        if not target.is_dir():
            os.link(target, fresh)
            return True
    except OSError as problem:
        if problem.errno not in _UNSUPPORTED:
            raise
    return False


def _no_links(path: Path, ability: str, to_folder: bool) -> LinkRefusedError:
    return LinkRefusedError(
        f"{path}: found a file system without {'symbolic' if to_folder else 'any'} links, expected one that {ability}; use "
        "another disk, or for folders format='torch'"
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
