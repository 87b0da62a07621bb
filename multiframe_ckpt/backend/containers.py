"""Containers of a type of their own, which a tree has none of: named where they become plain, given back by a template.

A tree holds plain dicts, lists and tuples. A NamedTuple (a state of optax), another tuple subclass, an OrderedDict or a
Counter is kept by its elements. Whoever has an object of the same structure gets the types back from it; Flax's
``from_state_dict(target, …)`` and Orbax's ``abstract_state`` do likewise. A tuple subclass without such a template is a
plain tuple, of which :func:`warn_of_tuples` warns where the tree is made: no file could say it later.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TypeVar

from ..errors import CheckpointWarning
from ..tree import Path, Tree, key_of
from .report import Mismatch

__all__ = ["alike", "entries", "misfits", "warn_of_tuples"]

#: A tree, or live objects in containers.
N = TypeVar("N", Tree, object)

_MAX_SHOWN = 5


def entries(node: N) -> Mapping[Any, N] | None:
    """Return a container's children by name or index, or None for a leaf."""
    if isinstance(node, Mapping):
        return node
    return dict(enumerate(node)) if isinstance(node, list | tuple) else None


def alike(node: object, like: object) -> object:
    """Return ``node`` with the container types of ``like``, place by place, its elements and their order unchanged.

    A mapping becomes what the mapping in ``like`` is, a list or tuple what the list or tuple is. Where ``like`` has no
    such place, or a container of another kind, the node's own type stays.
    """
    if isinstance(node, Mapping) and isinstance(like, Mapping):
        return _mapping_like(like, {name: alike(child, like.get(name)) for name, child in node.items()})
    if isinstance(node, list | tuple) and isinstance(like, list | tuple):
        beside = [*like[: len(node)], *[None] * (len(node) - len(like))]
        return _sequence_like(like, [alike(child, other) for child, other in zip(node, beside, strict=True)])
    return node


def _mapping_like(like: Mapping[object, object], items: dict[object, object]) -> object:
    if type(like) is dict:
        return items
    if not isinstance(like, MutableMapping):
        return type(like)(items)  # type: ignore[call-arg]
    fresh = copy.copy(like)  # which keeps a defaultdict's factory and the attributes of torch's state dicts
    fresh.clear()
    fresh.update(items)
    return fresh


def _sequence_like(like: list[object] | tuple[object, ...], items: list[object]) -> object:
    if isinstance(like, list):
        return type(like)(items)
    kind: type[tuple[object, ...]] = type(like)
    try:
        return tuple.__new__(kind, items)  # past a constructor that takes its elements one by one, as a NamedTuple's
    except TypeError:  # "not safe": a type written in C, such as torch.Size
        return kind(items)


def misfits(node: object, like: object, path: Path = ()) -> Iterator[Mismatch]:
    """Yield the places where ``like`` has a NamedTuple of another number of fields than ``node`` has elements."""
    fields = getattr(like, "_fields", None) if isinstance(like, tuple) else None
    if fields is not None and isinstance(node, list | tuple) and len(fields) != len(node):
        yield Mismatch(key_of(path), f"{len(node)} elements", f"the {len(fields)} of {type(like).__name__}")
        return
    inside, beside = entries(node), entries(like)
    for name, child in (inside or {}).items():
        if beside is not None and name in beside:
            yield from misfits(child, beside[name], (*path, name))


def warn_of_tuples(obj: object, path: Path = (), *, plain: tuple[type, ...] = ()) -> None:
    """Warn by key of tuple subclasses in ``obj``, but for the ``plain`` ones, which are nothing but their elements.

    Whoever makes plain containers of others asks this before: of live objects, of a run's facts, of a tree made by hand.
    """
    named = [(place, kind) for place, kind in _tuple_subclasses(obj, path) if not issubclass(kind, plain)]
    if not named:
        return
    shown = ", ".join(f"{key_of(place)} ({kind.__module__}.{kind.__qualname__})" for place, kind in named[:_MAX_SHOWN])
    more = ", …" if len(named) > _MAX_SHOWN else ""
    warnings.warn(
        f"{shown}{more}: found {len(named)} tuples of types of their own, kept as plain ones, since a checkpoint holds no "
        "types; loaded_like() and from_tree(like=…) take them from live objects",
        CheckpointWarning,
        stacklevel=4,
    )


def _tuple_subclasses(node: object, path: Path) -> Iterator[tuple[Path, type]]:
    """Yield them with their paths; ``node`` is a container no deeper than a tree may be."""
    if isinstance(node, tuple) and type(node) is not tuple:
        yield path, type(node)
    inside = entries(node) or {}
    kinds = set(map(type, inside.values()))  # a state dict's are one or two: no look at each of its tensors
    nested = tuple(kind for kind in kinds if issubclass(kind, list | tuple | Mapping))
    for name, child in inside.items() if nested else ():
        if isinstance(child, nested):
            yield from _tuple_subclasses(child, (*path, name))
