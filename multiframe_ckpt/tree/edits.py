"""Edits: trees made of other trees, with some of their tensors dropped, renamed or waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import KeyRefusedError
from .keys import Path, join_key, split_key
from .nodes import _LEAVES, TensorRef, Tree, Unknown, map_leaves, partition, tensors
from .tensor import LazyTensor

__all__ = ["drop", "rename_keys", "synchronized", "unknown_as_dicts"]


def synchronized(tree: Tree) -> Tree:
    """Return the tree for reading now: whatever a framework still does to its live tensors has been waited for."""

    return map_leaves(tree, lambda _, leaf: leaf.ready() if type(leaf) is LazyTensor else leaf)


def unknown_as_dicts(tree: Tree) -> tuple[Tree, list[str]]:
    """Return the tree with each Unknown as its plain dict, and the ``key: type`` of each: what writing them loses."""
    found: list[str] = []

    def flatten(node: Tree, path: Path) -> Tree:
        if isinstance(node, Unknown):
            found.append(f"{join_key(path) or '(top)'}: {node.type_name}")
            node = node.plain()
        if type(node) in _LEAVES:
            return node
        if isinstance(node, Mapping):
            return {name: flatten(child, (*path, name)) for name, child in node.items()}
        if isinstance(node, list | tuple):
            nodes = [flatten(child, (*path, i)) for i, child in enumerate(node)]
            return nodes if isinstance(node, list) else tuple(nodes)
        return node

    return flatten(tree, ()), found


def drop(tree: Tree, keys: set[str]) -> Tree:
    """Return the tree without the tensors called ``keys``, and without the dicts that become empty so.

    A list or tuple keeps its length: None stands in the place.
    """
    skeleton, table = partition(tree)
    gone = object()

    def prune(node: Tree) -> Tree:
        if isinstance(node, TensorRef):
            return gone if node.key in keys else table[node.key]
        if isinstance(node, dict):
            kept = {name: child for name, child in ((n, prune(c)) for n, c in node.items()) if child is not gone}
            return kept if kept or not node else gone
        if isinstance(node, list | tuple):
            nodes = [None if child is gone else child for child in map(prune, node)]
            return nodes if isinstance(node, list) else tuple(nodes)
        return node

    pruned = prune(skeleton)
    return {} if pruned is gone else pruned


def rename_keys(tree: Tree, renames: Mapping[str, str]) -> Tree:
    """Return the tree with tensors under other keys; one that keeps its dict keeps its place in it.

    Raise KeyRefusedError where a new key is taken by a plain value, or an old one is an item of a list.
    """
    skeleton, table = partition(tree)
    far: list[tuple[tuple[str, ...], LazyTensor]] = []

    def rebuild(node: Tree, path: tuple[str, ...]) -> Tree:
        if isinstance(node, TensorRef):
            if node.key in renames:
                raise KeyRefusedError(f"rename {node.key!r}: found an item of a list, expected a key of a dict")
            return table[node.key]
        if isinstance(node, list | tuple):
            nodes = [rebuild(child, (*path, str(i))) for i, child in enumerate(node)]
            return nodes if isinstance(node, list) else tuple(nodes)
        if not isinstance(node, dict):
            return node
        kept: dict[Any, Tree] = {}
        for name, child in node.items():
            new = renames.get(child.key) if isinstance(child, TensorRef) else None
            parts = split_key(new) if new is not None else ()
            if new is None:
                kept[name] = rebuild(child, (*path, str(name)))
            elif parts[:-1] == path:
                kept[parts[-1]] = table[child.key]
            else:
                far.append((parts, table[child.key]))
        return kept

    result = rebuild(skeleton, ())
    for parts, tensor in far:
        _insert(result, parts, tensor)
    if len(tensors(result)) != len(table):
        raise KeyRefusedError("rename: found a new name that a plain value of the checkpoint has, expected a free one")
    return result


def _insert(tree: Tree, parts: tuple[str, ...], tensor: LazyTensor) -> None:
    for part in parts[:-1]:
        tree = tree.setdefault(part, {}) if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or parts[-1] in tree:
        raise KeyRefusedError(f"rename to {'/'.join(parts)!r}: found something there already, expected a free key")
    tree[parts[-1]] = tensor
