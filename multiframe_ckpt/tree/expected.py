"""What a node of a tree is expected to be: the doors from a Tree, which may be anything, to a type that can be used."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ValueRefusedError
from .keys import Path
from .nodes import Entries, Tree, Unknown
from .tensor import LazyTensor

__all__ = ["expect_entries", "expect_items", "expect_tensor", "node_at"]


def node_at(tree: Tree, path: Path) -> Tree:
    """Return the node at a path that the tree has."""
    for name in path:
        inside = tree.plain() if isinstance(tree, Unknown) else tree
        assert isinstance(inside, Mapping | list | tuple), "only a container has children"
        tree = inside[name]
    return tree


def expect_tensor(node: Tree, key: str) -> LazyTensor:
    """Return the node at ``key``, which is to be a tensor; raise ValueRefusedError for any other."""
    if not isinstance(node, LazyTensor):
        raise _unexpected(node, "a tensor", key)
    return node


def expect_entries(node: Tree, key: str) -> Entries:
    """Return the node at ``key``, which is to have entries by name; raise ValueRefusedError for any other."""
    if not isinstance(node, Mapping):
        raise _unexpected(node, "a dict", key)
    return node


def expect_items(node: Tree, key: str) -> list[Tree] | tuple[Tree, ...]:
    """Return the node at ``key``, which is to be a list or tuple; raise ValueRefusedError for any other."""
    if not isinstance(node, list | tuple):
        raise _unexpected(node, "a list", key)
    return node


def _unexpected(node: Tree, expected: str, key: str) -> ValueRefusedError:
    found = "nothing" if node is None else f"a {type(node).__name__}"
    return ValueRefusedError(
        f"{key}: found {found}, expected {expected}; what another program keeps there is not known here: leave it out"
    )
