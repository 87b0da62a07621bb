"""Which values may be keys of a dict and members of a set: hashing and comparing them must take little time.

Hashing walks all parts of a tuple, one that is shared again each time, and has no guard of its own against depth. The
hashes of text are salted, but those of numbers and tuples are plain arithmetic, so that a file can be made of thousands
of keys that all hash alike, each compared with each.
"""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Alike", "hashable"]

#: How many keys of one owner have one hash.
Alike: TypeAlias = dict[tuple[int, int], int]

_DEPTH, _PARTS = 32, 1000
_ALIKE = 100
#: Ints below the modulus of Python's number hash are their own hash.
_MODULUS = (1 << 61) - 1
_SPREAD = frozenset({str, bytes, bool, float, type(None)})


def hashable(key: Any, alike: Alike, owner: int = 0) -> Any:
    """Return the key; raise TypeError or ValueError for a mutable one, and for one that no pickler writes.

    ``alike`` counts the keys of each ``owner``.
    """
    kind = type(key)
    if kind in _SPREAD or (kind is int and -_MODULUS < key < _MODULUS):
        return key
    _require_small(key)
    slot = owner, hash(key)
    alike[slot] = alike.get(slot, 0) + 1
    if alike[slot] > _ALIKE:
        raise ValueError(f"more than {_ALIKE} keys of one hash")
    return key


def _require_small(key: Any) -> None:
    groups, left = [key] if isinstance(key, tuple | frozenset) else [], _PARTS
    for _ in range(_DEPTH):
        left -= sum(map(len, groups))
        if not groups or left < 0:
            break
        groups = [part for group in groups for part in group if isinstance(part, tuple | frozenset)]
    if groups:
        raise ValueError(f"a key with more than {_PARTS} parts, or nested deeper than {_DEPTH}")
