"""item(): what lies in a tree under a key, and which keys are nearest to one that is not there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import chain, islice

from ..errors import UnknownKeyError
from ..terminal.text import short_repr
from ..tree import MISSING, Missing, Tree, children, join_key, leaves, split_key, tensor_table

__all__ = ["item", "names_at_top"]

_MOST_SHOWN = 5
#: So many keys are compared with one that is not there; each costs some microseconds.
_MOST_COMPARED = 2_000


def item(tree: Tree, key: object, where: str) -> Tree:
    """Return the part of a tree under a name at its top, or under a key as ``tensors()`` spells them.

    Raise UnknownKeyError, naming ``where`` and the nearest keys, where nothing is.
    """
    node = _at_top(tree, key)
    if node is MISSING and isinstance(key, str):
        node = _below(tree, key)
    if node is MISSING and isinstance(key, str):
        node = tensor_table(tree).get(key, MISSING)  # of two that read the same the later one has a mark
    if node is MISSING:
        nearest = list(islice(dict.fromkeys(_nearest(tree, key)), _MOST_SHOWN))
        listed = ", ".join(map(short_repr, nearest)) or "none, as it is empty or one value"
        raise UnknownKeyError(
            f"{where}: found no key {short_repr(key)}, expected one that it has; the nearest: {listed}"
        )
    return node


def names_at_top(tree: Tree) -> Iterator[object]:
    """Yield the names of what lies at the top of a tree; none for a tree of one tensor or value."""
    return (name for name, _ in children(tree) or ())


def _at_top(tree: Tree, key: object) -> Tree | Missing:
    if isinstance(tree, list | tuple):
        if isinstance(key, int) and not isinstance(key, bool) and -len(tree) <= key < len(tree):
            child: Tree = tree[key]
            return child
        return MISSING
    if not isinstance(tree, Mapping):
        return MISSING
    try:
        return tree.get(key, MISSING)
    except TypeError:  # what cannot be hashed is no key
        return MISSING


def _below(tree: Tree, key: str) -> Tree | Missing:
    node = tree
    for part in split_key(key):
        named = _at_top(node, part)
        if named is MISSING:
            named = next(
                (child for name, child in children(node) or () if join_key((name,)) == join_key((part,))), MISSING
            )
        if named is MISSING:
            return MISSING
        node = named
    return node


def _nearest(tree: Tree, key: object) -> Iterator[object]:
    """Yield keys that end as the wanted one does, then those that are spelled much like it, then the first there are."""
    names = list(islice(names_at_top(tree), _MOST_COMPARED))
    if isinstance(key, str):
        below = list(islice((join_key(path) for path, _ in leaves(tree)), _MOST_COMPARED))
        known = list(dict.fromkeys(chain((name for name in names if isinstance(name, str)), below)))
        yield from (other for other in known if other.endswith((f"/{key}", f".{key}")))
        yield from get_close_matches(key, known, n=_MOST_SHOWN)
    yield from names
