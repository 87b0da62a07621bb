"""Keys: how a path in a tree reads as text.

A tensor's key is its path: components joined by ``/``, each escaped as JSON Pointer (RFC 6901) does, ``~0`` for ``~`` and
``~1`` for ``/``. A flat state dict's keys are therefore its own (``l1.weight``).
"""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["TOP", "Path", "join_key", "key_of", "split_key", "text_path"]

#: What is said in place of the key of a whole tree, which has none: one tensor, or one value, and nothing else.
TOP = "(top)"

Path: TypeAlias = tuple[Any, ...]


def join_key(path: Path) -> str:
    """Return the key of a path: its components escaped and joined by ``/``."""
    return _escaped(path[0]) if len(path) == 1 else "/".join(map(_escaped, path))


def key_of(path: Path) -> str:
    """Return the key of a path as a message says it: that of the whole tree is ``(top)``."""
    return join_key(path) or TOP


def text_path(path: Path) -> tuple[str, ...]:
    """Return a path as its key tells it: every component as text."""
    return tuple(part if type(part) is str else _part_text(part) for part in path)


def _escaped(part: Any) -> str:
    text = part if type(part) is str else _part_text(part)
    return text.replace("~", "~0").replace("/", "~1") if "~" in text or "/" in text else text


def _part_text(part: Any) -> str:
    try:
        return str(part)
    except ValueError:  # an int of more decimal digits than Python spells, or a tuple that holds one
        return hex(part) if isinstance(part, int) else f"({', '.join(map(_part_text, part))})"


def split_key(key: str) -> tuple[str, ...]:
    """Return the components of a key, unescaped, all of them str."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in key.split("/"))
