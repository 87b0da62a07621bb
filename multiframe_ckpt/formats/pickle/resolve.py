"""resolve(): what a PickleMachine built becomes a Tree, with unknown objects refused or left inert.

Guards: cycles, nesting past MAX_DEPTH, and containers that share each other until a small file means billions of nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ...errors import DamagedError, UnsafeError
from ...tensor import LazyTensor
from ...tree import MAX_DEPTH, Inert, Tree, is_plain
from .known import AS_TEXT
from .machine import Global, Made, Pending

__all__ = ["Resolver", "module_state_dict"]

#: A tree may have this many nodes, and four more for each byte of its pickle.
_FREE_NODES = 1_000_000


class Resolver:
    """One pickle's way from raw objects to a tree.

    ``names`` are globals that stand for a plain value, such as torch's dtypes; ``collapse`` may put a simpler raw object
    in the place of an unknown one.
    """

    def __init__(
        self,
        where: str,
        pickle_nbytes: int,
        *,
        allow_inert: bool,
        names: Mapping[tuple[str, str], Tree] | None = None,
        collapse: Callable[[Made], Any] = lambda made: made,
    ) -> None:
        self._names = names or {}
        self._where = where
        self._limit = _FREE_NODES + 4 * pickle_nbytes
        self._allow_inert = allow_inert
        self._collapse = collapse
        self._unknown: dict[str, None] = {}
        self._done: dict[int, tuple[Any, Tree, int]] = {}  # id → the object (kept alive), its tree, its node count
        self._open: set[int] = set()

    def tree(self, raw: Any) -> Tree:
        """Gives the tree; raises UnsafeError that names every unknown object, unless they may stay inert."""
        tree, _ = self._resolve(raw, 0)
        if self._unknown and not self._allow_inert:
            names = ", ".join(sorted(self._unknown))
            raise UnsafeError(
                f"{self._where}: found objects of unknown types ({names}), expected tensors and plain values; nothing was "
                "run. To read the rest and leave these inert: allow_inert=True, or --allow-inert"
            )
        return tree

    def _resolve(self, raw: Any, depth: int) -> tuple[Tree, int]:
        if is_plain(raw) or isinstance(raw, LazyTensor):
            return raw, 1
        known = self._done.get(id(raw))
        if known is not None:
            return known[1], known[2]
        if id(raw) in self._open or depth > MAX_DEPTH:
            what = (
                "a container that holds itself" if id(raw) in self._open else f"more than {MAX_DEPTH} nested containers"
            )
            raise UnsafeError(f"{self._where}: found {what}, expected a checkpoint; this file is forged or broken")
        self._open.add(id(raw))
        tree, count = self._contents(raw, depth + 1)
        self._open.discard(id(raw))
        if count > self._limit:
            raise UnsafeError(
                f"{self._where}: found containers that share each other into more than {self._limit} nodes, "
                "expected a checkpoint; this file is forged"
            )
        self._done[id(raw)] = (raw, tree, count)
        return tree, count

    def _contents(self, raw: Any, depth: int) -> tuple[Tree, int]:
        if isinstance(raw, Made):
            collapsed = self._collapse(raw)
            return self._inert(raw, depth) if collapsed is raw else self._resolve(collapsed, depth)
        if isinstance(raw, Pending):
            return self._resolve(raw.resolve(), depth)
        if isinstance(raw, dict):
            return self._dict(raw, depth)
        if isinstance(raw, list | tuple):
            return self._sequence(raw, depth)
        if isinstance(raw, set | frozenset):
            return self._sequence(sorted(raw, key=repr), depth)
        if isinstance(raw, Global):
            return self._name(raw), 1
        spell = AS_TEXT.get(type(raw))
        if spell is None:
            raise DamagedError(f"{self._where}: found a stray {type(raw).__name__} in a pickle, expected a value")
        return spell(raw), 1

    def _name(self, raw: Global) -> Tree:
        if (raw.module, raw.name) in self._names:
            return self._names[raw.module, raw.name]
        self._unknown[str(raw)] = None
        return Inert(str(raw))

    def _dict(self, raw: dict[Any, Any], depth: int) -> tuple[Tree, int]:
        tree: dict[Any, Tree] = {}
        total = 1
        for key, value in raw.items():
            node, count = self._resolve(value, depth)
            tree[self._key(key, depth)] = node
            total += count
        return tree, total

    def _key(self, key: Any, depth: int) -> Any:
        if isinstance(key, tuple):
            return tuple(self._key(part, depth) for part in key)
        if is_plain(key):
            return key
        node, _ = self._resolve(key, depth)
        return node if is_plain(node) else str(node)

    def _sequence(self, raw: Any, depth: int) -> tuple[Tree, int]:
        nodes, total = [], 1
        for value in raw:
            node, count = self._resolve(value, depth)
            nodes.append(node)
            total += count
        return (tuple(nodes) if isinstance(raw, tuple) else nodes), total

    def _inert(self, made: Made, depth: int) -> tuple[Tree, int]:
        self._unknown[str(made.type)] = None
        inert = Inert(str(made.type))
        parts = {"args": made.args, "state": made.state, "items": made.items, "entries": made.entries}
        total = 1
        for name, part in parts.items():
            node, count = self._resolve(part, depth)
            setattr(inert, name, node)
            total += count
        return inert, total


def module_state_dict(made: Made) -> Any:
    """Gives the state dict of a pickled ``nn.Module``, found in its state without its class; else ``made`` itself.

    A module's state is its ``__dict__``: ``_parameters``, ``_buffers`` and ``_modules`` (torch and OneFlow alike);
    a buffer named in ``_non_persistent_buffers_set`` is not part of a state dict.
    """
    return _collect(made, "", 0) if _is_module(made) else made


def _is_module(raw: Any) -> bool:
    return (
        isinstance(raw, Made)
        and isinstance(raw.state, dict)
        and all(isinstance(raw.state.get(part), dict) for part in ("_parameters", "_modules"))
    )


def _collect(module: Made, prefix: str, depth: int) -> dict[str, Any]:
    state = module.state
    transient = state.get("_non_persistent_buffers_set") or ()
    found: dict[str, Any] = {}
    own = {**state["_parameters"], **{k: v for k, v in (state.get("_buffers") or {}).items() if k not in transient}}
    found.update({f"{prefix}{name}": value for name, value in own.items() if value is not None})
    for name, child in state["_modules"].items():
        if _is_module(child) and depth < MAX_DEPTH:
            found.update(_collect(child, f"{prefix}{name}.", depth + 1))
    return found
