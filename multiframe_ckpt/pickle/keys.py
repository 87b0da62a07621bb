"""Which values may be keys of a dict and members of a set: hashing and comparing them must take little time.

Hashing walks all parts of a tuple, one that is shared again each time, and has no guard of its own against depth. The
hashes of text are salted, but those of numbers and tuples are plain arithmetic, so that a file can be made of thousands
of keys that all have one hash, each compared with each.
"""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["HashCounts", "checked_key"]

#: How many keys of one container have one hash: (the container's id, the hash) → their number.
HashCounts: TypeAlias = dict[tuple[int, int], int]

_MAX_DEPTH, _MAX_PARTS = 32, 1000
_MAX_SAME_HASH = 100
#: Ints below the modulus of Python's number hash are their own hash.
_MODULUS = (1 << 61) - 1
#: Types of which no file can choose many values that have one hash.
_SPREADING = frozenset({str, bytes, bool, float, type(None)})


def checked_key(key: Any, hash_counts: HashCounts, container: int = 0) -> Any:
    """Return the key; raise TypeError or ValueError for a mutable one, and for one that no pickler writes.

    ``hash_counts`` counts the keys of each ``container``, which is given by its id.
    """
    kind = type(key)
    if kind in _SPREADING or (kind is int and -_MODULUS < key < _MODULUS):
        return key
    _require_small(key)
    slot = container, hash(key)
    hash_counts[slot] = hash_counts.get(slot, 0) + 1
    if hash_counts[slot] > _MAX_SAME_HASH:
        raise ValueError(f"more than {_MAX_SAME_HASH} keys of one hash")
    return key


def _require_small(key: object) -> None:
    groups, parts_left = [key] if isinstance(key, tuple | frozenset) else [], _MAX_PARTS
    for _ in range(_MAX_DEPTH):
        parts_left -= sum(map(len, groups))
        if not groups or parts_left < 0:
            break
        groups = [part for group in groups for part in group if isinstance(part, tuple | frozenset)]
    if groups:
        raise ValueError(f"a key with more than {_MAX_PARTS} parts, or nested deeper than {_MAX_DEPTH}")
