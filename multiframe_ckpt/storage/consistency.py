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

_TRIES = 100


def read_consistently(path: Path, read: Callable[[], T]) -> T:
    """Return what ``read`` makes of what lies at ``path``; read again where that was replaced by another meanwhile.

    For what opens files by their names several times: some could come from the old checkpoint and some from the new.
    """

    def attempt() -> T:
        seen = _identity(path)
        try:
            found = read()
        except (FormatError, OSError):
            if _identity(path) == seen:
                raise
            raise _replaced(path) from None
        if _identity(path) != seen:
            raise _replaced(path)
        return found

    return retry_if_replaced(path, attempt)


def retry_if_replaced(path: Path, read: Callable[[], T]) -> T:
    """Return what ``read`` gives, which is called again where it raises ReplacedError."""
    for _ in range(_TRIES):
        try:
            return read()
        except ReplacedError:
            continue
    raise ReplacedError(f"{path}: found it replaced again and again while it was read; stop the saves to it")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is another after a replacement; None where nothing is, which ``read`` has better words for."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a path no system can have
        return None
    return status.st_dev, status.st_ino


def _replaced(path: Path) -> ReplacedError:
    return ReplacedError(f"{path}: found it replaced while it was read, expected the same; open it again")
