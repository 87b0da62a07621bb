"""Tree: plain values, containers and lazy tensors, the neutral form of every checkpoint.

    Tree = LazyTensor | None | bool | int | float | complex | str | bytes | dict | list | tuple | Unknown

A tensor's key is its path in the tree: components joined by ``/``, each escaped as JSON Pointer (RFC 6901) does, ``~0``
for ``~`` and ``~1`` for ``/``. A flat state dict's keys are therefore its own (``l1.weight``). Where an int key and a str
key of one dict read the same, the later one gets a trailing ``~``, which no escaped component ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..errors import ValueRefusedError
from .keys import Path, join_key
from .tensor import LazyTensor

__all__ = [
    "MAX_DEPTH",
    "TensorRef",
    "Tree",
    "Unknown",
    "combine",
    "is_plain",
    "leaves",
    "map_leaves",
    "partition",
    "tensors",
]

#: Containers may nest this deep; deeper trees are refused before any walk over them could overflow the stack.
MAX_DEPTH = 128

Tree: TypeAlias = Any  # the union in the module docstring; mypy has no useful recursive form of it over dict keys

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_LEAVES = frozenset({LazyTensor, *_PLAIN})  # nearly all nodes are of one of these types: no closer look is needed


@dataclass(slots=True, eq=False)
class Unknown:
    """An object of a file that was not built: nothing of ``type_name`` was imported or run for it.

    ``args`` are what it would have been called with (None where the file only names it), ``state`` what its attributes
    would have been set from, ``items`` and ``entries`` what would have been appended or set.
    """

    type_name: str
    args: tuple[Tree, ...] | None = None
    state: Tree = None
    items: list[Tree] = field(default_factory=list)
    entries: dict[Any, Tree] = field(default_factory=dict)

    def plain(self) -> dict[str, Tree]:
        """Return the parts that are there as a plain dict, under ``__unknown__`` the type's name."""
        parts = {"args": self.args, "state": self.state, "items": self.items, "entries": self.entries}
        return {"__unknown__": self.type_name} | {
            name: part for name, part in parts.items() if part not in (None, (), [], {})
        }


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Stands in a skeleton where a tensor was; ``key`` finds it in the table."""

    key: str


def is_plain(value: object) -> bool:
    """Return whether ``value`` is one of the plain leaf values of a tree."""
    return type(value) in _PLAIN


def children(node: Tree) -> Iterator[tuple[Any, Tree]] | None:
    """Return a container's (key, child) pairs, or None for a leaf."""
    if type(node) in _LEAVES:
        return None
    if isinstance(node, Mapping):
        return iter(node.items())
    if isinstance(node, list | tuple):
        return iter(enumerate(node))
    if isinstance(node, Unknown):
        return iter(node.plain().items())
    return None


def leaves(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    """Walk every leaf with its path, in order; raise ValueRefusedError past MAX_DEPTH."""
    stack: list[Iterator[tuple[Any, Tree]]] = []
    path: list[Any] = []
    inside = children(tree)
    if inside is None:
        yield (), tree
        return
    stack.append(inside)
    while stack:
        try:
            name, node = next(stack[-1])
        except StopIteration:
            stack.pop()
            if path:
                path.pop()
            continue
        inside = children(node)
        if inside is None:
            yield (*path, name), node
            continue
        path.append(name)
        stack.append(inside)
        if len(stack) > MAX_DEPTH:
            raise ValueRefusedError(
                f"{join_key(tuple(path[:3]))}/…: containers nest deeper than {MAX_DEPTH}; "
                "flatten the checkpoint, or break its cycle"
            )


def map_leaves(tree: Tree, change: Callable[[Path, Tree], Tree], *, path: Path = ()) -> Tree:
    """Return the tree with every leaf replaced by ``change(path, leaf)``; containers keep their kind and order."""
    if type(tree) in _LEAVES:
        return change(path, tree)
    if len(path) > MAX_DEPTH:
        raise ValueRefusedError(f"{join_key(path[:3])}/…: containers nest deeper than {MAX_DEPTH}")
    if isinstance(tree, Mapping):
        return {name: map_leaves(node, change, path=(*path, name)) for name, node in tree.items()}
    if isinstance(tree, list | tuple):
        nodes = [map_leaves(node, change, path=(*path, i)) for i, node in enumerate(tree)]
        return nodes if isinstance(tree, list) else tuple(nodes)
    if isinstance(tree, Unknown):
        parts = map_leaves(tree.plain(), change, path=path)
        kept = {name: parts[name] for name in ("args", "state", "items", "entries") if name in parts}
        return Unknown(tree.type_name, **({"args": tree.args} | kept))
    return change(path, tree)


def partition(tree: Tree) -> tuple[Tree, dict[str, LazyTensor]]:
    """Split a tree into its skeleton, which holds a TensorRef for each tensor, and a table of the tensors by key."""
    table: dict[str, LazyTensor] = {}

    def move(path: Path, leaf: Tree) -> Tree:
        if not isinstance(leaf, LazyTensor):
            return leaf
        return TensorRef(_listed(table, path, leaf))

    return map_leaves(tree, move), table


def _listed(table: dict[str, LazyTensor], path: Path, tensor: LazyTensor) -> str:
    key = join_key(path)
    while key in table:
        key += "~"
    table[key] = tensor
    return key


def combine(skeleton: Tree, table: Mapping[str, Tree]) -> Tree:
    """Undo :func:`partition`: puts ``table[ref.key]`` where the skeleton has a TensorRef; KeyError where none is."""
    return map_leaves(skeleton, lambda _, leaf: table[leaf.key] if isinstance(leaf, TensorRef) else leaf)


def tensors(tree: Tree) -> dict[str, LazyTensor]:
    """Return every tensor of the tree by its key, in order: the table of :func:`partition`, without its skeleton."""
    table: dict[str, LazyTensor] = {}
    for path, leaf in leaves(tree):
        if isinstance(leaf, LazyTensor):
            _listed(table, path, leaf)
    return table
