"""The facts of a run and the entries of the user's own: as plain values into a checkpoint, and out of one again."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any

from ..backend import Backend
from ..backend.tensor_ops import is_stateful
from ..storage.transfer import materialized
from ..training import TrainingParts, is_ours
from ..tree import LazyTensor, Tree, map_leaves, map_objects
from .run_state import FACTS, LAYOUT

__all__ = ["as_number", "extra_of", "facts_of", "opened", "plain_values"]


def plain_values(value: Any) -> Any:
    """Return values with paths, devices, dtypes and times as text, sets as lists, Namespaces and dataclasses as dicts.

    Tensors, and objects with a state, stay as they are.
    """
    return map_objects(value, lambda _, leaf: _as_plain(leaf))


def opened(value: Any) -> Any:
    """Return a Namespace or dataclass as the dict of its fields, and any other value as it is."""
    if isinstance(value, Namespace):
        return dict(vars(value))
    if not is_dataclass(value) or isinstance(value, type | LazyTensor) or is_stateful(value):
        return value
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _as_plain(leaf: Any) -> Any:
    if opened(leaf) is not leaf:
        return plain_values(opened(leaf))
    if isinstance(leaf, PurePath) or type(leaf).__name__ in ("device", "dtype"):  # as each framework calls its own
        return str(leaf)
    if isinstance(leaf, date | time):
        return leaf.isoformat()
    if isinstance(leaf, Enum):
        return _as_plain(leaf.value)
    return plain_values(sorted(leaf, key=repr)) if isinstance(leaf, set | frozenset) else leaf


def as_number(leaf: Tree) -> Tree:
    """Return a tensor of one element as a number, and any other leaf as it is."""
    if not isinstance(leaf, LazyTensor) or leaf.size != 1:
        return leaf
    value = leaf.numpy().reshape(()).item()
    return value if isinstance(value, bool | int | float | complex) else float(value)


def facts_of(parts: TrainingParts, backend: Backend) -> dict[str, Any]:
    """Return what a checkpoint says of its run, by name: numbers as such, even where they stand as tensors, others live."""
    facts = {name: part.tree for name in FACTS if (part := getattr(parts, name)) is not None}
    plain = map_leaves(facts, lambda _, leaf: as_number(leaf))
    live: dict[str, Any] = backend.from_tree(materialized(plain))
    return {name: _whole(value) if name in ("epoch", "step") else value for name, value in live.items()}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def extra_of(tree: Tree, backend: Backend) -> Mapping[str, Any]:
    """Return the entries of the user's own that a run was saved with, live; none of a checkpoint of another program."""
    if not is_ours(tree):
        return {}
    extra = {name: value for name, value in tree.items() if name not in LAYOUT}
    live: dict[str, Any] = backend.from_tree(materialized(extra))
    return live
