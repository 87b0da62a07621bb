"""Tree: plain values, containers and lazy tensors, the neutral form of every checkpoint.

    Tree = LazyTensor | None | bool | int | float | complex | str | bytes | dict | list | tuple | Unknown | TensorRef

A tensor's key is its path in the tree: components joined by ``/``, each escaped as JSON Pointer (RFC 6901) does, ``~0``
for ``~`` and ``~1`` for ``/``. A flat state dict's keys are therefore its own (``l1.weight``). Where an int key and a str
key of one dict read the same, the later one gets a trailing ``~``, which no escaped component ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, TypeAlias, TypeGuard, TypeVar

from ..errors import ValueRefusedError
from .keys import Path, join_key
from .tensor import LazyTensor

__all__ = [
    "MAX_DEPTH",
    "MISSING",
    "Entries",
    "Missing",
    "TensorRef",
    "Tree",
    "Unknown",
    "Visit",
    "children",
    "combine",
    "has_tensors",
    "has_unknown",
    "is_leaf",
    "is_plain",
    "leaves",
    "map_leaves",
    "map_objects",
    "partition",
    "rebuild",
    "tensor_paths",
    "tensor_table",
    "tensors",
    "walk",
]


class Missing(Enum):
    """What stands where nothing is: no child in a place, no value under a key. None is a value of checkpoints."""

    MISSING = "missing"


MISSING = Missing.MISSING

#: Containers may nest this deep; deeper trees are refused before any walk over them could overflow the stack.
MAX_DEPTH = 128

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


_CONTAINERS = (dict, list, tuple, Unknown, Mapping)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Stands in a tree where a tensor was; ``key`` finds it in the table."""

    key: str


#: The leaves of a tree that are no tensors.
Plain: TypeAlias = bool | int | float | complex | str | bytes | None
#: A dict of a tree, whose names are plain values or tuples of them.
Entries: TypeAlias = Mapping[Any, "Tree"]
#: What is in a file, or in a live object, as plain values, containers and tensors: isinstance tells which.
Tree: TypeAlias = LazyTensor | Unknown | TensorRef | Plain | Entries | Sequence["Tree"]

#: What a walk makes of the child at a path; MISSING leaves it out.
Visit: TypeAlias = Callable[[Path, Tree], Tree | Missing]
#: What a step of :func:`walk` makes of a node: a walk that leaves nothing out never gives MISSING.
_Made = TypeVar("_Made", bound=Tree | Missing)
#: A node of a tree, or of live objects in containers, which are looked through alike.
_Node = TypeVar("_Node", Tree, object)


def is_plain(value: object) -> TypeGuard[Plain]:
    """Return whether ``value`` is one of the plain leaf values of a tree."""
    return type(value) in _PLAIN


def is_leaf(node: object) -> bool:
    """Return whether a node of a tree holds no others: a tensor, a plain value, or an object that no tree knows."""
    return type(node) in _LEAVES or not isinstance(node, _CONTAINERS)


def children(node: _Node) -> Iterator[tuple[Any, _Node]] | None:
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


def leaves(tree: _Node) -> Iterator[tuple[Path, _Node]]:
    """Walk every leaf with its path, in order; raise ValueRefusedError past MAX_DEPTH."""
    stack: list[Iterator[tuple[Any, _Node]]] = []
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
            raise _too_deep(tuple(path))


def _too_deep(path: Path) -> ValueRefusedError:
    return ValueRefusedError(
        f"{join_key(path[:3])}/…: found containers that nest deeper than {MAX_DEPTH}, expected no more; "
        "flatten the checkpoint, or break its cycle"
    )


def rebuild(node: Tree, visit: Visit, path: Path = ()) -> Tree:
    """Return a container of the same kind whose children are what ``visit(their path, child)`` gives, in order.

    A child for which ``visit`` gives MISSING is left out of a dict, and None stands in its place in a list or tuple,
    which keeps its length. A named tuple becomes a plain one: trees hold no other. ``path`` is the container's own.
    Raise ValueRefusedError past MAX_DEPTH, so that a visit that goes on into the children never overflows the stack.
    """
    if len(path) > MAX_DEPTH:
        raise _too_deep(path)
    if isinstance(node, Mapping):
        return {name: new for name, child in node.items() if (new := visit((*path, name), child)) is not MISSING}
    if isinstance(node, Unknown):
        return _rebuilt_unknown(node, visit, path)
    assert isinstance(node, list | tuple), "only a container has children to rebuild"
    visited = (visit((*path, place), child) for place, child in enumerate(node))
    items = [None if child is MISSING else child for child in visited]
    return items if isinstance(node, list) else tuple(items)


def _rebuilt_unknown(node: Unknown, visit: Visit, path: Path) -> Unknown:
    visited = ((name, visit((*path, name), part)) for name, part in node.plain().items())
    parts = {name: part for name, part in visited if part is not MISSING}
    args, items, entries = parts.get("args"), parts.get("items"), parts.get("entries")
    return Unknown(
        node.type_name,
        args if isinstance(args, tuple) else None if node.args else node.args,
        parts.get("state"),
        items if isinstance(items, list) else [],
        entries if isinstance(entries, dict) else {},
    )


def map_leaves(tree: Tree, change: Callable[[Path, Tree], Tree]) -> Tree:
    """Return the tree with every leaf replaced by ``change(path, leaf)``; containers keep their kind and order."""
    mapped: Tree = _mapped(change, (), tree)
    return mapped


def map_objects(mix: object, change: Callable[[Path, Any], object], *, path: Path = ()) -> Any:
    """Do as :func:`map_leaves` does where leaves are, or become, the live objects of a framework."""
    return _mapped(change, path, mix)


def _mapped(change: Callable[..., object], path: Path, node: Any) -> Any:
    if type(node) in _LEAVES or not isinstance(node, _CONTAINERS):  # is_leaf(node), without a call for each
        return change(path, node)
    return rebuild(node, partial(_mapped, change), path)


def walk(tree: Tree, step: Callable[[Path, Tree, Visit], _Made]) -> _Made:
    """Return what ``step(path, node, on)`` makes of a tree; with ``on`` it rebuilds the containers that it goes on into.

    A function inside another that called itself would be kept, with all it refers to, until the cycle collector runs.
    """
    return _stepped(step, (), tree)


def _stepped(step: Callable[[Path, Tree, Visit], _Made], path: Path, node: Tree) -> _Made:
    return step(path, node, partial(_stepped, step))


def partition(tree: Tree) -> tuple[Tree, dict[str, LazyTensor]]:
    """Split a tree into one that holds a TensorRef for each tensor, and a table of the tensors by key."""
    table: dict[str, LazyTensor] = {}

    def move(path: Path, leaf: Tree) -> Tree:
        if not isinstance(leaf, LazyTensor):
            return leaf
        key = _free_key(table, path)
        table[key] = leaf
        return TensorRef(key)

    return map_leaves(tree, move), table


def _free_key(taken: Container[str], path: Path) -> str:
    key = join_key(path)
    while key in taken:
        key += "~"
    return key


def combine(tree: Tree, table: Mapping[str, Tree]) -> Tree:
    """Undo :func:`partition`: puts ``table[ref.key]`` where the tree has a TensorRef; KeyError where none is."""
    return map_leaves(tree, lambda _, leaf: table[leaf.key] if isinstance(leaf, TensorRef) else leaf)


def tensors(tree: Tree) -> dict[str, LazyTensor]:
    """Return every tensor of the tree by its key, in order: the table of :func:`partition` alone."""
    table = tensor_table(tree)
    return table.copy() if table is tree else table


def tensor_table(tree: Tree) -> dict[str, LazyTensor]:
    """Return what :func:`tensors` does, to look at and not to change: the tree itself where it is its own table."""
    if type(tree) is dict and all(type(leaf) is LazyTensor and _is_its_key(name) for name, leaf in tree.items()):
        return tree
    table: dict[str, LazyTensor] = {}
    for path, leaf in leaves(tree):
        if isinstance(leaf, LazyTensor):
            table[_free_key(table, path)] = leaf
    return table


def has_tensors(tree: Tree) -> bool:
    """Return whether there is a tensor in the tree."""
    return any(isinstance(leaf, LazyTensor) for _, leaf in leaves(tree))


def has_unknown(tree: Tree) -> bool:
    """Return whether there is an object in the tree that was not built."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, Unknown):
            return True
        inside = children(node)
        if inside is not None:
            nodes.extend(child for _, child in inside if type(child) not in _LEAVES)
    return False


def _is_its_key(name: object) -> bool:
    """Return whether the name of an entry at the top is its key as it stands, as those of most state dicts are."""
    return type(name) is str and "/" not in name and "~" not in name


def tensor_paths(tree: Tree) -> dict[str, Path]:
    """Return the path of every tensor of the tree by its key, in order."""
    paths: dict[str, Path] = {}
    for path, leaf in leaves(tree):
        if isinstance(leaf, LazyTensor):
            paths[_free_key(paths, path)] = path
    return paths
