"""path_of(): what callers name a place by, as a path: a home directory in it is spelled out, an open file is none."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["path_of"]


def path_of(place: str | os.PathLike[str]) -> Path:
    """Return the path, ``~`` spelled out; raise TypeError, which says what to give instead, for an open file."""
    try:
        return Path(place).expanduser()
    except TypeError:
        name = getattr(place, "name", None)
    advice = f"give its path, {name!r}" if isinstance(name, str) else "write it to a file, and give the path of that"
    raise TypeError(f"found a {type(place).__name__} where a path stands, expected text or a pathlib.Path; {advice}")
