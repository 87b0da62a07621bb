"""resolve(): what a PickleMachine built becomes a Tree, with unknown objects refused or kept as Unknown.

Lists and dicts become the tree's in their place; only what changes is made anew. Guards: cycles, nesting past MAX_DEPTH,
and values that share each other until a small file means billions of them. No raw object is ever spelled by ``str`` or
``repr`` before it is known to be small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import DamagedError, UnsafeError
from ..tree import MAX_DEPTH, LazyTensor, Tree, Unknown, is_plain
from .known import AS_TEXT
from .machine import broken_pickle
from .raw import Call, Global, Pending

__all__ = ["Resolver", "module_state_dict"]

#: What the tree spells out, where the pickle shares, may be this large, and larger with the file. Counted in bytes, as
#: walking it takes them: a leaf, a container, an entry of a dict; text counts half.
_FREE_SIZE = 24 << 20
_PER_PICKLED, _PER_STORED = 3, 6
_LEAF, _CONTAINER, _ENTRY, _UNKNOWN = 8, 64, 100, 400
#: Containers that the resolver remembers take memory too, for each this much.
_FREE_ROOM = 16 << 20
_REMEMBERED = 200

#: An unknown object of this size, a member of an enum, is spelled in a key with what it was made of.
_SMALL = 800
#: Keys that a tree spells alike are told apart by a tail of as many ``~``.
_ALIKE = 1000
#: The keys of a pickled module's state dict may have this many characters together.
_KEY_TEXT = 1 << 25
_SHOWN_NAMES, _SHOWN_NAME = 50, 200

_LEAVES = frozenset({type(None), bool, int, float, complex})
_EMPTY = frozenset({list, dict, tuple})


class Resolver:
    """One pickle's way from raw objects to a tree.

    ``names`` are globals that stand for a plain value, such as torch's dtypes; ``collapse`` may put a simpler raw object
    in the place of an unknown one. ``stored`` counts the bytes of the file beside the pickle.
    """

    def __init__(
        self,
        where: str,
        pickle_nbytes: int,
        *,
        allow_unknown: bool,
        names: Mapping[tuple[str, str], Tree] | None = None,
        collapse: Callable[[Call], Any] = lambda made: made,
        stored: int = 0,
    ) -> None:
        self._names = names or {}
        self._where = where
        share = _PER_PICKLED * pickle_nbytes + _PER_STORED * stored
        self._limit = max(_FREE_SIZE, share)
        self._room = max(_FREE_ROOM, share)
        self._allow_unknown = allow_unknown
        self._collapse = collapse
        self._unknown: dict[str, None] = {}
        self._done: dict[int, tuple[Any, Tree, int]] = {}  # id → the object (kept alive), its tree, its size
        self._open: set[int] = set()

    def tree(self, raw: Any) -> Tree:
        """Return the tree; raise UnsafeError that names every unknown object, unless they may stay Unknown."""
        with broken_pickle(self._where, lambda: "found a pickle whose objects do not fit together"):
            tree, _ = self._resolve(raw, 0)
        if self._unknown and not self._allow_unknown:
            raise UnsafeError(
                f"{self._where}: found objects of unknown types ({_listed(self._unknown)}), expected tensors and plain "
                "values; nothing was run. To read the rest and keep these: allow_unknown=True"
            )
        return tree

    def _resolve(self, raw: Any, depth: int) -> tuple[Tree, int]:
        """Return the tree of a raw object, and the size that walking it takes."""
        kind = type(raw)
        if kind in _LEAVES:
            return raw, _LEAF
        if isinstance(raw, Pending):
            value = raw.resolve()
            if type(value) is LazyTensor:
                return value, _LEAF
        elif kind is str or kind is bytes:
            return raw, _LEAF + len(raw) // 2
        elif kind is LazyTensor or kind is Unknown:
            return raw, _LEAF
        elif not raw and kind in _EMPTY:
            return raw, _CONTAINER
        known = self._done.get(id(raw))
        if known is not None:
            return known[1], known[2]
        return self._first(raw, depth)

    def _first(self, raw: Any, depth: int) -> tuple[Tree, int]:
        if id(raw) in self._open or depth > MAX_DEPTH:
            what = (
                "a container that holds itself" if id(raw) in self._open else f"more than {MAX_DEPTH} nested containers"
            )
            raise UnsafeError(f"{self._where}: found {what}, expected a checkpoint; this file is forged or broken")
        self._open.add(id(raw))
        tree, size = self._contents(raw, depth + 1)
        self._open.discard(id(raw))
        self._room -= _REMEMBERED
        if size > self._limit or self._room < 0:
            raise UnsafeError(
                f"{self._where}: found containers that share each other, or too many, for {self._limit} bytes of memory, "
                "expected a checkpoint; this file is forged"
            )
        self._done[id(raw)] = (raw, tree, size)
        return tree, size

    def _contents(self, raw: Any, depth: int) -> tuple[Tree, int]:
        if isinstance(raw, Call):
            collapsed = self._collapse(raw)
            return self._unknown_object(raw, depth) if collapsed is raw else self._resolve(collapsed, depth)
        if isinstance(raw, Pending):
            return self._resolve(raw.resolve(), depth)
        if isinstance(raw, dict):
            return self._dict(raw, depth)
        if isinstance(raw, list):
            return self._list(raw, depth)
        if isinstance(raw, tuple):
            return self._tuple(raw, depth)
        if isinstance(raw, set | frozenset):
            return self._list(sorted(raw, key=_rank), depth)
        if isinstance(raw, Global):
            return self._name(raw), _LEAF
        spell = AS_TEXT.get(type(raw))
        if spell is None:
            raise DamagedError(f"{self._where}: found a stray {type(raw).__name__} in a pickle, expected a value")
        return spell(raw), _CONTAINER

    def _name(self, raw: Global) -> Tree:
        if (raw.module, raw.name) in self._names:
            return self._names[raw.module, raw.name]
        self._unknown[str(raw)] = None
        return Unknown(str(raw))

    def _dict(self, raw: dict[Any, Any], depth: int) -> tuple[Tree, int]:
        size = _CONTAINER + _ENTRY * len(raw)
        plain_keys = True
        for key, value in raw.items():
            node, part = self._resolve(value, depth)
            size += part
            if node is not value:
                raw[key] = node
            plain_keys = plain_keys and (type(key) is str or is_plain(key))
        return (raw if plain_keys else self._rekeyed(raw, depth)), size

    def _rekeyed(self, raw: dict[Any, Tree], depth: int) -> dict[Any, Tree]:
        """Return the dict with keys that a tree can hold; those that it holds as one text are told apart."""
        tree: dict[Any, Tree] = {}
        alike: dict[Any, int] = {}
        for key, node in raw.items():
            name = self._key(key, depth)
            while name in tree:  # two objects that a tree holds as one text, or an object beside its text
                alike[name] = alike.get(name, 0) + 1
                if alike[name] > _ALIKE:
                    raise UnsafeError(
                        f"{self._where}: found more than {_ALIKE} keys of one dict that a tree spells alike, "
                        "expected distinct ones; this file is forged"
                    )
                name = f"{name}{'~' * alike[name]}"
            self._room -= _ENTRY + (len(name) if isinstance(name, str) else 0)
            tree[name] = node
        return tree

    def _key(self, key: Any, depth: int) -> Any:
        if isinstance(key, tuple):
            return tuple(self._key(part, depth) for part in key)
        if is_plain(key):
            return key
        node, size = self._resolve(key, depth)
        if is_plain(node):
            return node
        name = node.type_name if isinstance(node, Unknown) else type(node).__name__
        small = isinstance(node, Unknown) and node.args is not None and size < _SMALL
        return f"{name}{_spelled(node.args)}" if small else name  # a member of an enum: its class and value

    def _list(self, raw: list[Any], depth: int) -> tuple[Tree, int]:
        size = _CONTAINER
        for index, value in enumerate(raw):
            node, part = self._resolve(value, depth)
            size += part
            if node is not value:
                raw[index] = node
        return raw, size

    def _tuple(self, raw: tuple[Any, ...], depth: int) -> tuple[Tree, int]:
        nodes, size = self._list(list(raw), depth)
        return tuple(nodes), size

    def _unknown_object(self, call: Call, depth: int) -> tuple[Tree, int]:
        self._unknown[str(call.type)] = None
        unknown = Unknown(str(call.type))
        parts = {"args": call.args, "state": call.state, "items": call.items, "entries": call.entries}
        total = _UNKNOWN
        self._room -= _UNKNOWN
        for name, part in parts.items():
            node, size = self._resolve(part, depth)
            setattr(unknown, name, node)
            total += size
        return unknown, total


def _listed(unknown: Mapping[str, None]) -> str:
    names = sorted(name[:_SHOWN_NAME] for name in unknown)
    more = f", and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more


def _rank(member: Any) -> str:
    """Return the text by which members of a set are ordered, so that a set always gives one list."""
    if isinstance(member, tuple | frozenset):
        return ",".join(map(_rank, member))
    return repr(member) if is_plain(member) else type(member).__name__


def _spelled(args: tuple[Tree, ...]) -> str:
    return f"({', '.join(repr(arg) if is_plain(arg) else type(arg).__name__ for arg in args)})"


def module_state_dict(made: Call) -> Any:
    """Return the state dict of a pickled ``nn.Module``, found in its state without its class; else ``made`` itself.

    A module's state is its ``__dict__``: ``_parameters``, ``_buffers`` and ``_modules`` (torch and OneFlow alike);
    a buffer named in ``_non_persistent_buffers_set`` is not part of a state dict.
    """
    return _Collector().collect(made, "", 0) if _is_module(made) else made


def _is_module(raw: Any) -> bool:
    return (
        isinstance(raw, Call)
        and isinstance(raw.state, dict)
        and all(isinstance(raw.state.get(part), dict) for part in ("_parameters", "_modules"))
    )


class _Collector:
    """Walks the modules of a model; a module that stands in several places is walked in each."""

    def __init__(self) -> None:
        self._left = _KEY_TEXT

    def collect(self, module: Call, prefix: str, depth: int) -> dict[str, Any]:
        """Return the module's parameters and buffers, then its children's."""
        state = module.state
        transient = state.get("_non_persistent_buffers_set")
        own = dict(state["_parameters"])
        for name, value in (state.get("_buffers") or {}).items():
            if not (isinstance(transient, set) and name in transient):
                own[name] = value
        found = {self._key(prefix, name): value for name, value in own.items() if value is not None}
        for name, child in state["_modules"].items():
            if _is_module(child):
                if depth == MAX_DEPTH:
                    raise _forged_model(f"modules nested deeper than {MAX_DEPTH}")
                found.update(self.collect(child, f"{self._key(prefix, name)}.", depth + 1))
        return found

    def _key(self, prefix: str, name: Any) -> str:
        if not isinstance(name, str):
            raise TypeError(f"a module's attribute that is called by a {type(name).__name__}")
        self._left -= len(prefix) + len(name) + 1
        if self._left < 0:
            raise _forged_model(f"modules that share each other into names of more than {_KEY_TEXT} characters")
        return prefix + name


def _forged_model(found: str) -> UnsafeError:
    return UnsafeError(f"found a pickled model with {found}, expected a model; this file is forged")
