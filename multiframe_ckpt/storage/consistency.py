"""Reading a path that other processes save to: what is read is the old checkpoint or the new one, never of both.

Saves replace in one step, so that it is enough to notice that one came between, and to read again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import FormatError, ReplacedError

__all__ = ["read_consistently", "retry_if_replaced"]

T = TypeVar("T")

_MAX_TRIES = 100


def read_consistently(path: Path, read: Callable[[], T]) -> T:
    """Return what ``read`` makes of what lies at ``path``; read again where that was replaced by another meanwhile.

    For what opens files by their names several times: some could come from the old checkpoint and some from the new.
    """

    def attempt() -> T:
        identity = _identity(path)
        try:
            result = read()
        except (FormatError, OSError):
            if _identity(path) == identity:
                raise
            raise _replaced(path) from None
        if _identity(path) != identity:
            raise _replaced(path)
        return result

    return retry_if_replaced(path, attempt)


def retry_if_replaced(path: Path, read: Callable[[], T]) -> T:
    """Return what ``read`` gives, which is called again where it raises ReplacedError."""
    for _ in range(_MAX_TRIES):
        try:
            return read()
        except ReplacedError:
            continue
    raise ReplacedError(f"{path}: found it replaced again and again while it was read; stop the saves to it")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode, which differ after a replacement; None where nothing is, of which ``read`` tells better."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a path no system can have
        return None
    return status.st_dev, status.st_ino


def _replaced(path: Path) -> ReplacedError:
    return ReplacedError(f"{path}: found it replaced while it was read, expected the same; open it again")
