"""Resolver: what a PickleMachine built becomes a Tree. What is not known stands in it as Unknown, and refuses nothing.

Lists and dicts become the tree's in their place; only what changes is made anew. A cycle ends in an Unknown that says what
it leads back to, and so does nesting past MAX_DEPTH. One guard refuses: values that share each other until a small file
means billions of them. No raw object is ever made text by ``str`` or ``repr`` before it is known to be small.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterator, Mapping
from typing import Any

from ..errors import DamagedError, UnsafeError
from ..tree import MAX_DEPTH, Entries, LazyTensor, Path, Tree, Unknown, children, is_plain, join_key, key_of
from .known import AS_TEXT
from .machine import translated_errors
from .modules import StateDict, are_versions
from .raw import Call, Expanding, Global, Pending
from .state import memory_budget

__all__ = ["Resolver"]

#: What the tree holds in full, where the pickle shares, may be this large, and larger with the file. Counted in bytes, as
#: walking it takes them: a leaf, a container, an entry of a dict; text counts half.
_LEAST_SIZE_LIMIT = 24 << 20
_LEAF, _CONTAINER, _DICT_ENTRY, _UNKNOWN = 8, 64, 100, 400
#: Containers that the resolver remembers take memory too, for each this much.
_LEAST_BUDGET = 16 << 20
_REMEMBERED_CONTAINER = 200

#: An unknown object of less than this size, a member of an enum, is shown in a key with what it was made of.
_SMALL_OBJECT = 800
#: Containers and Unknown nodes lie no deeper: a tree's walks go through MAX_DEPTH levels, from 0 on, so that what holds
#: others at the last one is an Unknown itself.
_DEEPEST = MAX_DEPTH - 1

_LEAVES = frozenset({type(None), bool, int, float, complex})
_EMPTY = frozenset({list, dict, tuple})
_NONE: Mapping[int, tuple[object, object]] = {}


class Resolver:
    """One pickle's way from raw objects to a tree.

    ``names`` are globals that stand for a plain value, such as torch's dtypes; ``simplify`` may put a state dict in the
    place of an unknown object, and ``versions`` are those that stand beside state dicts, by the ids of these.
    ``stored_nbytes`` are the bytes of the file beside the pickle. ``facts`` say what of the pickle is not in the tree, once
    it was made.
    """

    def __init__(
        self,
        where: str,
        pickle_nbytes: int,
        *,
        names: Mapping[tuple[str, str], Tree] | None = None,
        simplify: Callable[[Call], StateDict | None] = lambda call: None,
        versions: Mapping[int, tuple[object, object]] = _NONE,
        stored_nbytes: int = 0,
    ) -> None:
        self._names = names or {}
        self._where = where
        self._size_limit = memory_budget(pickle_nbytes, stored_nbytes, least=_LEAST_SIZE_LIMIT)
        self._budget = memory_budget(pickle_nbytes, stored_nbytes, least=_LEAST_BUDGET)
        self._simplify, self._versions = simplify, versions
        self._models: list[StateDict] = []
        self.facts: dict[str, object] = {}
        self._resolved: dict[int, tuple[object, Tree, int]] = {}  # id → the object (kept alive), its tree, its size
        self._open_ids: set[int] = set()  # of the containers that are being resolved

    def tree(self, raw: Any) -> Tree:
        """Return the tree; raise UnsafeError where it would be many times larger than the pickle."""
        with translated_errors(self._where, lambda: "found a pickle whose objects do not fit together"):
            tree, _ = self._resolve(raw, 0)
            self.facts = self._facts(tree)
        return tree

    def _facts(self, tree: Tree) -> dict[str, object]:
        """Return the whole models that were read as their state dicts, what that leaves behind, and versions of modules."""
        models = {id(self._resolved[id(model.entries)][1]): model for model in self._models if model.entries}
        beside = {key: value for key, (_, value) in self._versions.items() if key in self._resolved}
        versions = {id(self._resolved[key][1]): self._resolve(value, 0)[0] for key, value in beside.items()}
        places = [*_places(tree, models.keys() | versions.keys(), ())] if models or versions else []
        whole = [(key_of(path), models[place]) for path, place in places if place in models]
        facts: dict[str, object] = {
            "whole_models": {key: model.type_name for key, model in whole},
            "left_behind": tuple(f"{key}: {text}" for key, model in whole for text in model.left_behind),
            "module_versions": {
                join_key(path): versions[place] for path, place in places if are_versions(versions.get(place))
            },
        }
        return {name: fact for name, fact in facts.items() if fact}

    def _resolve(self, raw: Any, depth: int) -> tuple[Tree, int]:
        """Return the tree of a raw object, and the size that walking it takes."""
        kind = type(raw)
        if kind in _LEAVES:
            return raw, _LEAF
        if isinstance(raw, Pending):
            value = raw.resolve()
            if type(value) is LazyTensor:
                return value, _LEAF
        elif kind is memoryview:
            return bytes(raw), _LEAF + len(raw) // 2
        elif kind is str or kind is bytes:
            return raw, _LEAF + len(raw) // 2
        elif kind is LazyTensor or kind is Unknown:
            return raw, _LEAF
        elif not raw and kind in _EMPTY:
            return raw, _CONTAINER
        earlier = self._resolved.get(id(raw))
        if earlier is not None:
            return earlier[1], earlier[2]
        return self._resolve_new(raw, depth)

    def _resolve_new(self, raw: Any, depth: int) -> tuple[Tree, int]:
        """Resolve what was not met before, and remember its tree."""
        if id(raw) in self._open_ids:
            return Unknown(f"{_kind_of(raw)}, which holds this"), _UNKNOWN
        if depth > _DEEPEST or (depth == _DEEPEST and _holds_others(raw)):
            return Unknown(f"{_kind_of(raw)}, below {_DEEPEST} others"), _UNKNOWN
        self._open_ids.add(id(raw))
        tree, size = self._contents(raw, depth + 1)
        self._open_ids.discard(id(raw))
        self._budget -= _REMEMBERED_CONTAINER
        if size > self._size_limit or self._budget < 0:
            raise UnsafeError(
                f"{self._where}: found objects that share each other, or very many, which take more than "
                f"{self._size_limit:,} bytes to walk, expected less in a file of this size; save its tensors and plain "
                "values alone with the program that wrote it"
            )
        self._resolved[id(raw)] = (raw, tree, size)
        return tree, size

    def _contents(self, raw: Any, depth: int) -> tuple[Tree, int]:
        if isinstance(raw, Call):
            simpler = self._simplify(raw)
            if simpler is None:
                return self._unknown_object(raw, depth)
            self._models.append(simpler)
            return self._resolve(simpler.entries, depth)
        if isinstance(raw, Pending):
            return self._resolve(raw.resolve(), depth)
        if isinstance(raw, Expanding):
            return self._expanded(raw, depth)
        if isinstance(raw, dict):
            return self._dict(raw, depth)
        if isinstance(raw, list):
            return self._list(raw, depth)
        if isinstance(raw, tuple):
            return self._tuple(raw, depth)
        if isinstance(raw, set | frozenset):
            return self._list(sorted(raw, key=_set_order), depth)
        if isinstance(raw, Global):
            return self._global(raw), _LEAF
        as_text = AS_TEXT.get(type(raw))
        if as_text is None:
            raise DamagedError(f"{self._where}: found a stray {type(raw).__name__} in a pickle, expected a value")
        return as_text(raw), _CONTAINER

    def _global(self, raw: Global) -> Tree:
        if (raw.module, raw.name) in self._names:
            return self._names[raw.module, raw.name]
        return Unknown(str(raw))

    def _expanded(self, raw: Expanding, depth: int) -> tuple[Tree, int]:
        """Return the plain values of what is smaller in a pickle than in a tree, or an Unknown where that is too much."""
        if raw.nbytes > self._budget:
            return Unknown(raw.title), _UNKNOWN
        self._budget -= raw.nbytes
        return self._resolve(raw.values(), depth)

    def _dict(self, raw: dict[Any, Any], depth: int) -> tuple[Tree, int]:
        size = _CONTAINER + _DICT_ENTRY * len(raw)
        plain_keys = True
        for key, value in raw.items():
            node, node_size = self._resolve(value, depth)
            size += node_size
            if node is not value:
                raw[key] = node
            plain_keys = plain_keys and (type(key) is str or is_plain(key))
        return (raw if plain_keys else self._rekeyed(raw, depth)), size

    def _rekeyed(self, raw: Entries, depth: int) -> Entries:
        """Return the dict with keys that a tree can hold; those that it holds as one text are told apart."""
        tree: dict[Hashable, Tree] = {}
        repeats: dict[Hashable, int] = {}
        for key, node in raw.items():
            text = tree_key = self._key(key, depth)
            while tree_key in tree:  # two objects that a tree holds as one text, or an object beside its text
                repeats[text] = repeats.get(text, 1) + 1
                tree_key = f"{text} ({repeats[text]})"
            self._budget -= _DICT_ENTRY + (len(tree_key) if isinstance(tree_key, str) else 0)
            tree[tree_key] = node
        return tree

    def _key(self, key: Any, depth: int) -> Any:
        if isinstance(key, tuple):
            return tuple(self._key(part, depth) for part in key)
        if is_plain(key):
            return key
        node, size = self._resolve(key, depth)
        if is_plain(node):
            return node
        if not isinstance(node, Unknown):
            return type(node).__name__
        if node.args is None or size >= _SMALL_OBJECT:
            return node.type_name
        return f"{node.type_name}{_shown_args(node.args)}"  # a member of an enum: its class and value

    def _list(self, raw: list[Any], depth: int) -> tuple[list[Tree], int]:
        size = _CONTAINER
        for index, value in enumerate(raw):
            node, node_size = self._resolve(value, depth)
            size += node_size
            if node is not value:
                raw[index] = node
        return raw, size

    def _tuple(self, raw: tuple[Any, ...], depth: int) -> tuple[Tree, int]:
        nodes, size = self._list(list(raw), depth)
        return tuple(nodes), size

    def _unknown_object(self, call: Call, depth: int) -> tuple[Tree, int]:
        unknown = Unknown(str(call.type))
        parts = {"args": call.args, "state": call.state, "items": call.items, "entries": call.entries}
        size = _UNKNOWN
        self._budget -= _UNKNOWN
        for name, part in parts.items():
            node, node_size = self._resolve(part, depth)
            setattr(unknown, name, node)
            size += node_size
        return unknown, size


def _holds_others(raw: object) -> bool:
    """Return whether a container holds more than plain values and tensors."""
    if isinstance(raw, Pending):
        return False
    values = raw.values() if isinstance(raw, dict) else raw if isinstance(raw, list | tuple) else [raw]
    return not all(type(value) in _LEAVES or isinstance(value, str | bytes | Pending) for value in values)


def _places(node: Tree, wanted: Container[int], path: Path) -> Iterator[tuple[Path, int]]:
    """Yield the paths of the dicts of these ids in a tree; nothing is looked for in them."""
    if id(node) in wanted:
        yield path, id(node)
        return
    for name, child in children(node) or ():
        if isinstance(child, dict | list | tuple):
            yield from _places(child, wanted, (*path, name))


def _kind_of(raw: object) -> str:
    return str(raw.type) if isinstance(raw, Call) else type(raw).__name__.lower()


def _set_order(member: object) -> str:
    """Return the text by which members of a set are ordered, so that a set always gives one list."""
    if isinstance(member, tuple | frozenset):
        return ",".join(map(_set_order, member))
    return repr(member) if is_plain(member) else type(member).__name__


def _shown_args(args: tuple[Tree, ...]) -> str:
    return f"({', '.join(repr(arg) if is_plain(arg) else type(arg).__name__ for arg in args)})"
