"""Edits: trees made of other trees in one pass each, with tensors dropped, exchanged, renamed or waited for."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..errors import KeyRefusedError, UnsafeError
from .keys import Path, key_of, split_key, text_path
from .nodes import MISSING, Missing, Tree, Unknown, Visit, has_unknown, is_leaf, map_leaves, rebuild, tensor_paths, walk
from .tensor import LazyTensor

__all__ = ["Placed", "edit", "known", "replaced", "synchronized", "unknown_as_dicts", "unknown_refused"]

_SHOWN_PLACES, _SHOWN_PLACE = 50, 300

#: Tensors with their keys, in the order in which they are to stand.
Placed: TypeAlias = "Sequence[tuple[str, LazyTensor]]"


def synchronized(tree: Tree) -> Tree:
    """Return the tree for reading now: whatever a framework still does to its live tensors has been waited for."""

    return map_leaves(tree, lambda _, leaf: leaf.ready() if type(leaf) is LazyTensor else leaf)


def unknown_as_dicts(tree: Tree) -> tuple[Tree, list[str]]:
    """Return the tree with each Unknown as its plain dict, and the ``key: type`` of each: what writing them loses."""
    types: list[str] = []

    def visit(path: Path, node: Tree, on: Visit) -> Tree:
        if is_leaf(node):
            return node
        if isinstance(node, Unknown):
            types.append(f"{key_of(path)}: {node.type_name}")
            node = node.plain()
        return rebuild(node, on, path)

    return walk(tree, visit), types


def known(tree: Tree, where: str, remedy: str, *, allow_unknown: bool) -> Tree:
    """Return the tree where all of it is known, with ``allow_unknown`` each Unknown as its plain dict.

    Raise UnsafeError that names the place of every Unknown, and says that there is ``remedy`` besides ``allow_unknown``.
    """
    if not has_unknown(tree):
        return tree
    plain, places = unknown_as_dicts(tree)
    if not allow_unknown:
        raise unknown_refused(places, where, remedy)
    return plain


def unknown_refused(places: Sequence[str], where: str, remedy: str) -> UnsafeError:
    """Return the error for objects, ``key: type`` each, that were not built and that somebody asks for."""
    shown = "; ".join(place[:_SHOWN_PLACE] for place in places[:_SHOWN_PLACES])
    more = f"; and {len(places) - _SHOWN_PLACES:,} more" if len(places) > _SHOWN_PLACES else ""
    return UnsafeError(
        f"{where}: found objects of types that this library does not build ({shown}{more}), expected tensors and plain "
        f"values; nothing was run. {remedy}, or have the objects as plain dicts of their parts: allow_unknown=True"
    )


def replaced(tree: Tree, changes: Mapping[Path, Tree | Missing]) -> Tree:
    """Return the tree with other nodes at some paths, and without those that are MISSING.

    What is not touched is the very same object. A list keeps its length; dicts are made for a path that is not there. A
    tree that is itself left out becomes an empty dict.
    """
    changing: dict[
        Path, dict[Hashable, None]
    ] = {}  # a container's path → the names in it below which something changes
    for path in changes:
        for depth, name in enumerate(path):
            changing.setdefault(path[:depth], {})[name] = None

    def visit(path: Path, node: Tree, on: Visit) -> Tree | Missing:
        if path in changes:
            return changes[path]
        if path not in changing:
            return node
        if isinstance(node, Mapping):
            node = {**node, **{name: {} for name in changing[path] if name not in node}}
        return rebuild(node, on, path)

    changed = walk(tree, visit)
    return {} if changed is MISSING else changed


def edit(tree: Tree, placed: Mapping[str, Placed], *, what: str) -> Tree:
    """Return the tree with the tensors of ``placed`` where its own of these keys were: none, one or several for each.

    All keys are those of the tree given; a tensor that is not in ``placed`` stays. One whose new key lies in its own dict
    stands there; for others dicts are made as needed. A list or tuple keeps its length: None stands for what was dropped; a
    dict that becomes empty so is dropped too. Raise KeyRefusedError, of ``what``, where a new key is taken, or an old one
    is an item of a list.
    """
    edited = _Edit(what, placed, iter(tensor_paths(tree)))
    kept = walk(tree, edited.visit)
    kept = {} if kept is MISSING else kept
    for key, tensor in edited.far:
        edited.insert(kept, key, tensor)
    return kept


@dataclass(frozen=True, slots=True)
class _Edit:
    """One edit under way; ``far`` are the tensors that go to another dict."""

    what: str
    placed: Mapping[str, Placed]
    keys: Iterator[str]  # in the order of the walk, so that tensors of one path are told apart
    far: list[tuple[str, LazyTensor]] = field(default_factory=list)

    def visit(self, path: Path, node: Tree, on: Visit) -> Tree | Missing:
        """Return what stands for a node; MISSING for nothing."""
        if isinstance(node, LazyTensor):
            return self._alone(next(self.keys), node, is_top=not path)
        if is_leaf(node) or not isinstance(node, Mapping):
            return node if is_leaf(node) else rebuild(node, on, path)
        kept: dict[Hashable, Tree] = {}
        far = len(self.far)
        for name, child in node.items():
            if isinstance(child, LazyTensor):
                self._add(kept, path, name, child)
            elif (new := on((*path, name), child)) is not MISSING:
                self._put(kept, name, new, key_of((*path, name)))
        is_emptied = node and not kept and len(self.far) == far
        return MISSING if is_emptied else kept

    def _alone(self, key: str, tensor: LazyTensor, *, is_top: bool) -> LazyTensor | Missing:
        """Return what stands for a tensor that is no entry of a dict."""
        entries = self.placed.get(key, ((key, tensor),))
        if [new_key for new_key, _ in entries] == [key]:
            return entries[0][1]
        if entries and not is_top:
            raise KeyRefusedError(f"{self.what} {key!r}: found an item of a list, expected a key of a dict")
        self.far.extend(entries)
        return MISSING

    def _add(self, kept: dict[Hashable, Tree], path: Path, name: Hashable, tensor: LazyTensor) -> None:
        """Put what stands for the tensor called ``name`` in the dict at a path where it belongs."""
        key = next(self.keys)
        for new_key, new in self.placed.get(key, ((key, tensor),)):
            if new_key == key:
                self._put(kept, name, new, key)
                continue
            *holder, new_name = split_key(new_key)
            if tuple(holder) == text_path(path):
                self._put(kept, new_name, new, new_key)
            else:
                self.far.append((new_key, new))

    def _put(self, kept: dict[Hashable, Tree], name: Hashable, child: Tree, key: str) -> None:
        if name in kept:
            raise self._is_taken(key)
        kept[name] = child

    def insert(self, tree: Tree, key: str, tensor: LazyTensor) -> None:
        """Put a tensor into a tree of dicts, which are made as needed."""
        *holder, name = split_key(key)
        for part in holder:
            tree = tree.setdefault(part, {}) if isinstance(tree, dict) else None
        if not isinstance(tree, dict) or name in tree:
            raise self._is_taken(key)
        tree[name] = tensor

    def _is_taken(self, key: str) -> KeyRefusedError:
        return KeyRefusedError(f"{self.what} {key!r}: found something there already, expected a free key")
