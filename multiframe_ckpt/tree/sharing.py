"""Sharing: which tensors of a checkpoint are one tensor, and which look into one storage."""

from __future__ import annotations

from collections.abc import Hashable

from .tensor import LazyTensor

__all__ = ["shared_storages", "tied_groups"]


def tied_groups(tensors: dict[str, LazyTensor]) -> list[list[str]]:
    """Return the groups of two and more keys that name one and the same tensor, in the order of ``tensors``."""
    groups: dict[Hashable, list[str]] = {}
    for key, tensor in tensors.items():
        if tensor.identity is not None:
            groups.setdefault(tensor.identity, []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def shared_storages(tensors: dict[str, LazyTensor]) -> list[list[str]]:
    """Return the groups of two and more keys whose tensors look into one storage, whether or not at the same place."""
    groups: dict[Hashable, list[str]] = {}
    for key, tensor in tensors.items():
        if tensor.alias is not None:
            groups.setdefault(tensor.alias, []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]
