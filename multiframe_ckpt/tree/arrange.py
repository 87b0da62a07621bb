"""Arranging: a tree with other tensors in the place of its own, none or several for each."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

from ..errors import KeyRefusedError
from .edits import insert, key_is_taken
from .keys import Path, split_key, text_path
from .nodes import MISSING, Tree, Visit, is_leaf, rebuild, tensor_paths, walk
from .tensor import LazyTensor

__all__ = ["arrange"]

#: Tensors with their keys, in the order in which they are to stand.
Placed: TypeAlias = "Sequence[tuple[str, LazyTensor]]"


def arrange(tree: Tree, placed: Mapping[str, Placed]) -> Tree:
    """Return the tree with the tensors of ``placed`` where its own of these keys were.

    A tensor whose key lies in the same dict stands there; for others dicts are made as needed. Raise KeyRefusedError for a
    key that is taken, or another key for an item of a list.
    """
    keys = {path: key for key, path in tensor_paths(tree).items()}
    far: list[tuple[str, LazyTensor]] = []

    def visit(path: Path, node: Tree, on: Visit) -> Tree:
        if isinstance(node, LazyTensor):
            return _only(keys[path], placed[keys[path]])
        if is_leaf(node) or not isinstance(node, Mapping):
            return node if is_leaf(node) else rebuild(node, on, path)
        kept: dict[Hashable, Tree] = {}
        for name, child in node.items():
            if not isinstance(child, LazyTensor):
                if (new := on((*path, name), child)) is not MISSING:
                    kept[name] = new
                continue
            key = keys[(*path, name)]
            for new_key, tensor in placed[key]:
                *holder, new_name = split_key(new_key)
                if tuple(holder) != text_path(path):
                    far.append((new_key, tensor))
                    continue
                if new_key != key and new_name in node and (*path, new_name) not in keys:
                    raise key_is_taken(_what(new_key))
                kept[name if new_key == key else new_name] = tensor
        return kept

    arranged = walk(tree, visit)
    for key, tensor in far:
        insert(arranged, split_key(key), tensor, _what(key))
    return arranged


def _only(key: str, tensors: Placed) -> LazyTensor:
    if [new_key for new_key, _ in tensors] != [key]:
        raise KeyRefusedError(f"{_what(key)}: found an item of a list, expected a tensor of a dict")
    return tensors[0][1]


def _what(key: str) -> str:
    return f"layout of {key!r}"
