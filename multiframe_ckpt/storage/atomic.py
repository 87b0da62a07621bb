"""staged(): every write is all-or-nothing; discard(): and so is every deletion.

The commit protocol. A target ``model.pt`` (a file or a folder) is written as

    .model.pt.<random>.multiframe-tmp/model.pt      in the target's own folder, so on its own file system

whose files and folders are then flushed to the disk (many of them by one flush of the file system), renamed to
``model.pt`` in one step, and the target's folder is flushed. A process that dies earlier leaves the old target, or none, as
it was; one that dies later leaves the new one.
Replacing a folder swaps the two names in one step (Linux ``renameat2``); the old folder is deleted only after the new
one is durable. Where the system cannot swap, the old folder steps aside first, and comes back if the rename fails, or
with the next save if the process dies between the two.

The owner holds a lock on its temporary folder. The next save to the same target removes those whose owner is dead, and
nothing else; :func:`sweep` does so for all targets of a folder.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import TargetExistsError
from ..forks import call_in_children
from .parallel import Workers

try:
    import fcntl
except ImportError:  # no such locks on Windows: temporaries of killed runs then stay until removed by hand
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "STAGE_SUFFIX",
    "current_path",
    "discard",
    "flush",
    "flush_tree",
    "is_abandoned",
    "move_to_free",
    "stage_for",
    "stage_prefix",
    "staged",
    "sweep",
    "target_exists",
]

STAGE_SUFFIX = ".multiframe-tmp"
_ASIDE = ".replaced"  # the folder of a stage in which a replaced folder waits
_AT_FDCWD = -100  # fcntl.h
_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h: RENAME_NOREPLACE, RENAME_EXCHANGE
_FLUSH_THREADS = 8  # more threads flush a thousand small files hardly faster
_FEW_PATHS = 64  # files and folders of one checkpoint: from here on one flush of the whole file system is faster
_LINUX_VERSION = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) if sys.platform == "linux" else (0, 0)
_locks: set[int] = set()  # descriptors of our own stages
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def staged(target: Path, *, overwrite: bool = False, durable: bool = True) -> Iterator[Path]:
    """Yield a fresh path to write to; on a clean exit it becomes ``target`` whole and durable, else nothing changes.

    ``durable=False`` flushes nothing: whole for every process, but not after a power cut. Raise TargetExistsError before
    anything is written where ``target`` exists and ``overwrite`` is False.
    """
    target = Path(os.path.abspath(target))
    if not overwrite and os.path.lexists(target):
        raise target_exists(target)
    _make_folder(target.parent)
    sweep(target.parent, prefix=stage_prefix(target))
    with stage_for(target) as stage:
        fresh = stage / target.name
        yield fresh
        if durable:
            flush_tree(fresh)
        _commit(fresh, target, overwrite=overwrite)
        if durable:
            flush(target.parent)


@contextmanager
def stage_for(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``target``, on its file system, ours until it is deleted on leaving."""
    stage, lock = _make_stage(target)
    _locks.add(lock)
    try:
        yield stage
    finally:
        if lock in _locks:  # else this is a child of fork, and the stage its parent's
            _locks.remove(lock)
            shutil.rmtree(stage, ignore_errors=True)
            os.close(lock)


@call_in_children
def _release_locks() -> None:
    """Close a child's copies of the locks: while one is open, the temporaries of a parent that was killed seem in use."""
    while _locks:
        os.close(_locks.pop())


def discard(path: Path) -> None:
    """Delete a file or folder; a folder is renamed away first, so that nobody ever sees a part of it."""
    path = Path(os.path.abspath(path))
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        with stage_for(path) as stage:
            os.rename(path, stage / path.name)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it; each is in its own parent for good before anything is in it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    flush(folder.parent)


def current_path(target: Path) -> Path:
    """Return the target, or the folder that stepped aside for it where nothing came after: that save died in between."""
    if os.path.lexists(target) or not target.parent.is_dir():
        return target
    with suppress(UnicodeEncodeError):  # a name that no disk can have
        prefix = stage_prefix(target)
        for name in os.listdir(target.parent):
            aside = target.parent / name / _ASIDE / target.name
            if name.startswith(prefix) and name.endswith(STAGE_SUFFIX) and aside.is_dir():
                return aside
    return target


def target_exists(target: Path) -> TargetExistsError:
    """Return the error that says of a target what stands in the way, and how to replace it."""
    return TargetExistsError(
        f"{target}: found something there already, expected a free path; choose another, or replace it: overwrite=True"
    )


def stage_prefix(target: Path) -> str:
    """Return what the names of a target's temporary folders begin with."""
    return f".{os.fsdecode(os.fsencode(target.name)[:100])}."  # a name may have 255 bytes in all


def _make_stage(target: Path) -> tuple[Path, int]:
    while True:
        stage = Path(tempfile.mkdtemp(prefix=stage_prefix(target), suffix=STAGE_SUFFIX, dir=target.parent))
        try:
            lock = os.open(stage, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another process took it for a dead one before it could be locked
        if _try_lock(lock) and stage.exists():
            return stage, lock
        os.close(lock)  # the same, a call later; or it looked whether the folder is a dead one's, and leaves it
        with suppress(OSError):
            stage.rmdir()


def _try_lock(descriptor: int) -> bool:
    """Return whether the lock is ours now; where the file system knows no locks every caller is told yes."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def sweep(folder: Path, *, prefix: str = ".") -> None:
    """Remove the temporaries that killed saves left in ``folder``: those of which nobody holds the lock."""
    if fcntl is None:
        return
    for name in os.listdir(folder):
        if not (name.startswith(prefix) and name.endswith(STAGE_SUFFIX)):
            continue
        stage = folder / name
        with suppress(OSError):
            lock = os.open(stage, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its owner lives
                _restore_replaced(stage / _ASIDE, folder)
                shutil.rmtree(stage, ignore_errors=True)
            finally:
                os.close(lock)


def is_abandoned(stage: Path) -> bool:
    """Return whether the owner of a temporary folder is dead; False where the system does not tell."""
    if fcntl is None:
        return False
    try:
        lock = os.open(stage, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _restore_replaced(aside: Path, folder: Path) -> None:
    """Return a folder that stepped aside its name again, unless its successor took it."""
    for name in os.listdir(aside) if aside.is_dir() else ():
        if not os.path.lexists(folder / name):
            os.rename(aside / name, folder / name)
            flush(folder)


def flush_tree(path: Path) -> None:
    """Flush a file, or every file and folder of a folder, to the disk."""
    if not path.is_dir():
        flush(path)
        return
    paths = [Path(folder, name) for folder, _, names in os.walk(path, onerror=_raise) for name in ("", *names)]
    if len(paths) > _FEW_PATHS and _flush_file_system(path):
        return
    with Workers(_FLUSH_THREADS) as pool:
        for _ in pool.map(flush, paths):
            pass  # a failed flush raises here


def _flush_file_system(path: Path) -> bool:
    """Flush all that the file system holds back, in one call; return False where that tells of no failed write.

    Linux does since 5.8 (``sync(2)``). Earlier ones, and other systems, may lose a write and say nothing.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None or _LINUX_VERSION < (5, 8):
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)
    return True


def _raise(problem: OSError) -> None:
    raise problem  # os.walk would take a folder that it cannot list for an empty one


def flush(path: Path) -> None:
    """Flush a file, or the list of what a folder holds, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _commit(fresh: Path, target: Path, *, overwrite: bool) -> None:
    if not (overwrite and os.path.lexists(target)):
        try:
            _rename_new(fresh, target)
        except TargetExistsError:
            if not overwrite:
                raise
            _commit(fresh, target, overwrite=True)  # another save was quicker: replace what it made
    elif fresh.is_dir() or target.is_dir():
        _swap(fresh, target)
    else:
        os.replace(fresh, target)


def move_to_free(path: Path, target: Path) -> None:
    """Rename durably within a folder; raise TargetExistsError where something has the name."""
    _rename_new(path, target)
    flush(target.parent)


def _rename_new(fresh: Path, target: Path) -> None:
    try:
        if _renameat2(fresh, target, _NOREPLACE):
            return
    except FileExistsError:
        raise target_exists(target) from None
    if os.path.lexists(target):
        raise target_exists(target)
    os.rename(fresh, target)


def _swap(fresh: Path, target: Path) -> None:
    if _renameat2(fresh, target, _EXCHANGE):
        return
    aside = fresh.parent / _ASIDE / fresh.name
    aside.parent.mkdir()
    os.rename(target, aside)
    try:
        os.rename(fresh, target)
    except BaseException:
        os.rename(aside, target)
        raise


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    """Rename with flags; return False where the system or the file system has no such call."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))
