"""Tree: plain values, containers and lazy tensors, the neutral form of every checkpoint.

    Tree = LazyTensor | None | bool | int | float | complex | str | bytes | dict | list | tuple | Inert

A tensor's key is its path in the tree: components joined by ``/``, each escaped as JSON Pointer (RFC 6901) does, ``~0``
for ``~`` and ``~1`` for ``/``. A flat state dict's keys are therefore its own (``l1.weight``). Where an int key and a str
key of one dict read the same, the later one gets a trailing ``~``, which no escaped component ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from .errors import KeyRefusedError, ValueRefusedError
from .tensor import LazyTensor

__all__ = [
    "MAX_DEPTH",
    "Inert",
    "Path",
    "TensorRef",
    "Tree",
    "combine",
    "is_plain",
    "join_key",
    "leaves",
    "map_leaves",
    "moved",
    "partition",
    "plain_inert",
    "settled",
    "split_key",
    "tensors_of",
    "without",
]

#: Containers may nest this deep; deeper trees are refused before any walk over them could overflow the stack.
MAX_DEPTH = 128

Tree: TypeAlias = Any  # the union in the module docstring; mypy has no useful recursive form of it over dict keys
Path: TypeAlias = tuple[Any, ...]

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_LEAVES = frozenset({LazyTensor, *_PLAIN})  # nearly all nodes are of one of these types: no closer look is needed


@dataclass(slots=True, eq=False)
class Inert:
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
        """Gives the parts that are there as a plain dict, under ``__inert__`` the type's name."""
        parts = {"args": self.args, "state": self.state, "items": self.items, "entries": self.entries}
        return {"__inert__": self.type_name} | {
            name: part for name, part in parts.items() if part not in (None, (), [], {})
        }


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Stands in a skeleton where a tensor was; ``key`` finds it in the table."""

    key: str


def is_plain(value: object) -> bool:
    """Says whether ``value`` is one of the plain leaf values of a tree."""
    return type(value) in _PLAIN


def join_key(path: Path) -> str:
    """Gives the key of a path: its components escaped and joined by ``/``."""
    return _escaped(path[0]) if len(path) == 1 else "/".join(map(_escaped, path))


def _escaped(part: Any) -> str:
    text = part if type(part) is str else _spelled(part)
    return text.replace("~", "~0").replace("/", "~1") if "~" in text or "/" in text else text


def _spelled(part: Any) -> str:
    try:
        return str(part)
    except ValueError:  # an int of more decimal digits than Python spells, or a tuple that holds one
        return hex(part) if isinstance(part, int) else f"({', '.join(map(_spelled, part))})"


def split_key(key: str) -> tuple[str, ...]:
    """Gives the components of a key, unescaped, all of them str."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in key.split("/"))


def children(node: Tree) -> Iterator[tuple[Any, Tree]] | None:
    """Gives a container's (key, child) pairs, or None for a leaf."""
    if type(node) in _LEAVES:
        return None
    if isinstance(node, Mapping):
        return iter(node.items())
    if isinstance(node, list | tuple):
        return iter(enumerate(node))
    if isinstance(node, Inert):
        return iter(node.plain().items())
    return None


def leaves(tree: Tree) -> Iterator[tuple[Path, Tree]]:
    """Walks every leaf with its path, in order; raises ValueRefusedError past MAX_DEPTH."""
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
    """Gives the tree with every leaf replaced by ``change(path, leaf)``; containers keep their kind and order."""
    if type(tree) in _LEAVES:
        return change(path, tree)
    if len(path) > MAX_DEPTH:
        raise ValueRefusedError(f"{join_key(path[:3])}/…: containers nest deeper than {MAX_DEPTH}")
    if isinstance(tree, Mapping):
        return {name: map_leaves(node, change, path=(*path, name)) for name, node in tree.items()}
    if isinstance(tree, list | tuple):
        nodes = [map_leaves(node, change, path=(*path, i)) for i, node in enumerate(tree)]
        return nodes if isinstance(tree, list) else tuple(nodes)
    if isinstance(tree, Inert):
        parts = map_leaves(tree.plain(), change, path=path)
        kept = {name: parts[name] for name in ("args", "state", "items", "entries") if name in parts}
        return Inert(tree.type_name, **({"args": tree.args} | kept))
    return change(path, tree)


def settled(tree: Tree) -> Tree:
    """Gives the tree for reading now: whatever a framework still does to its live tensors has been waited for."""

    def change(_: Path, leaf: Tree) -> Tree:
        if type(leaf) is not LazyTensor or (wait := getattr(leaf.source, "settled", None)) is None:
            return leaf
        return replace(leaf, source=wait())

    return map_leaves(tree, change)


def partition(tree: Tree) -> tuple[Tree, dict[str, LazyTensor]]:
    """Splits a tree into its skeleton, which holds a TensorRef for each tensor, and a table of the tensors by key."""
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
    """Undoes :func:`partition`: puts ``table[ref.key]`` where the skeleton has a TensorRef; KeyError where none is."""
    return map_leaves(skeleton, lambda _, leaf: table[leaf.key] if isinstance(leaf, TensorRef) else leaf)


def tensors_of(tree: Tree) -> dict[str, LazyTensor]:
    """Gives every tensor of the tree by its key, in order: the table of :func:`partition`, without its skeleton."""
    table: dict[str, LazyTensor] = {}
    for path, leaf in leaves(tree):
        if isinstance(leaf, LazyTensor):
            _listed(table, path, leaf)
    return table


def plain_inert(tree: Tree) -> tuple[Tree, list[str]]:
    """Gives the tree with each Inert as its plain dict, and the ``key: type`` of each: what writing them loses."""
    found: list[str] = []

    def flatten(node: Tree, path: Path) -> Tree:
        if isinstance(node, Inert):
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


def without(tree: Tree, keys: set[str]) -> Tree:
    """Gives the tree without the tensors called ``keys``, and without the dicts that become empty so.

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


def moved(tree: Tree, renames: Mapping[str, str]) -> Tree:
    """Gives the tree with tensors under other keys; one that keeps its dict keeps its place in it.

    Raises KeyRefusedError where a new key is taken by a plain value, or an old one is an item of a list.
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
    if len(tensors_of(result)) != len(table):
        raise KeyRefusedError("rename: found a new name that a plain value of the checkpoint has, expected a free one")
    return result


def _insert(tree: Tree, parts: tuple[str, ...], tensor: LazyTensor) -> None:
    for part in parts[:-1]:
        tree = tree.setdefault(part, {}) if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or parts[-1] in tree:
        raise KeyRefusedError(f"rename to {'/'.join(parts)!r}: found something there already, expected a free key")
    tree[parts[-1]] = tensor
