"""Edits: trees made of other trees in one pass each, with tensors dropped, exchanged, renamed or waited for."""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import KeyRefusedError
from .keys import Path, key_of, split_key, text_path
from .nodes import MISSING, Entries, Missing, Tree, Unknown, Visit, is_leaf, map_leaves, rebuild, tensor_paths, walk
from .tensor import LazyTensor

__all__ = ["edit", "insert", "key_is_taken", "replaced", "synchronized", "unknown_as_dicts"]

_NONE: Mapping[str, Any] = {}


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


def edit(
    tree: Tree,
    *,
    drop: Container[str] = (),
    exchange: Mapping[str, LazyTensor] = _NONE,
    rename: Mapping[str, str] = _NONE,
) -> Tree:
    """Return the tree without the tensors called ``drop``, with others for those in ``exchange``, under new keys.

    All keys are those of the tree given. A list or tuple keeps its length: None stands for what was dropped; a dict
    that becomes empty so is dropped too. A tensor whose new key lies in its own dict keeps its place there; for others
    dicts are made as needed. Raise KeyRefusedError where a new key is taken, or an old one is an item of a list.
    """
    paths = tensor_paths(tree)
    moves = _moves(rename, paths)
    keys = iter(paths)  # in the order of the walk, so that tensors of one path are told apart
    inserts: list[tuple[tuple[str, ...], LazyTensor]] = []

    def visit(path: Path, node: Tree, on: Visit) -> Tree | Missing:
        if isinstance(node, LazyTensor):
            key = next(keys)
            if key in drop:
                return MISSING
            tensor = exchange.get(key, node)
            if key not in moves.far:
                return tensor
            inserts.append((moves.far[key], tensor))
            return MISSING
        if is_leaf(node):
            return node
        moves.require_dict(path, node)
        kept = rebuild(node, on, path)
        if path in moves.within and isinstance(kept, Mapping):
            kept = moves.renamed(path, kept)
        is_emptied = isinstance(node, Mapping) and node and not kept and path not in moves.left
        return MISSING if is_emptied else kept

    edited = walk(tree, visit)
    edited = {} if edited is MISSING else edited
    for parts, tensor in inserts:
        insert(edited, parts, tensor, f"rename to {'/'.join(parts)!r}")
    return edited


@dataclass(frozen=True, slots=True)
class _Moves:
    """Where renamed tensors go: ``within`` the dict at a path, old name → new one; ``far`` from it, key → new path."""

    within: dict[Path, dict[Hashable, str]] = field(default_factory=dict)
    far: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left: set[Path] = field(default_factory=set)  # the dicts that those far ones go away from
    holders: dict[Path, str] = field(default_factory=dict)  # the path of whatever holds a renamed tensor → its key

    def require_dict(self, path: Path, node: Tree) -> None:
        """Raise KeyRefusedError for a tensor to be renamed that is no entry of a dict."""
        if path in self.holders and not isinstance(node, Mapping):
            raise KeyRefusedError(f"rename {self.holders[path]!r}: found an item of a list, expected a key of a dict")

    def renamed(self, path: Path, node: Entries) -> Entries:
        """Return the rebuilt dict at a path with tensors under their new names in it."""
        names = self.within[path]
        renamed = {names.get(name, name): child for name, child in node.items()}
        if len(renamed) < len(node):
            raise KeyRefusedError(f"rename: found a new name in {key_of(path)} that is taken, expected a free one")
        return renamed


def _moves(new_keys: Mapping[str, str], paths: Mapping[str, Path]) -> _Moves:
    moves = _Moves()
    for key, new_key in new_keys.items():
        *holder, name = paths[key] or ("",)
        path, parts = tuple(holder), split_key(new_key)
        moves.holders[path] = key
        if parts[:-1] == text_path(path):
            moves.within.setdefault(path, {})[name] = parts[-1]
        else:
            moves.far[key] = parts
            moves.left.add(path)
    return moves


def insert(tree: Tree, parts: tuple[str, ...], tensor: LazyTensor, what: str) -> None:
    """Put a tensor into a tree of dicts, which are made as needed; raise KeyRefusedError, of ``what``, for a key taken."""
    for part in parts[:-1]:
        tree = tree.setdefault(part, {}) if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or parts[-1] in tree:
        raise key_is_taken(what)
    tree[parts[-1]] = tensor


def key_is_taken(what: str) -> KeyRefusedError:
    """Return the error for a new key under which something stands."""
    return KeyRefusedError(f"{what}: found something there already, expected a free key")
