"""Sharing: which tensors of a checkpoint are one tensor, and which look into one storage."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .derived import Strided
from .tensor import LazyTensor

__all__ = ["Sharing", "tied_groups"]


@dataclass(frozen=True)
class Sharing:
    """What a table of tensors shares. Groups are of two keys and more, in the order of the table."""

    tensors: Mapping[str, LazyTensor]

    @cached_property
    def storages(self) -> list[list[str]]:
        """The keys of tensors that look into one storage, whether or not at the same place."""
        return _groups((key, tensor.alias) for key, tensor in self.tensors.items())

    @cached_property
    def ties(self) -> list[list[str]]:
        """The keys that name one and the same tensor."""
        return _groups((key, tensor.identity) for key, tensor in self.tensors.items())

    @cached_property
    def split(self) -> list[list[str]]:
        """The groups of :attr:`storages` that look at more than one place."""
        return [group for group in self.storages if len({self.tensors[key].identity for key in group}) > 1]

    @cached_property
    def split_aliases(self) -> frozenset[Hashable]:
        """The aliases of storages that are looked into at more than one place."""
        return frozenset(self.tensors[group[0]].alias for group in self.split)

    @cached_property
    def overlaps(self) -> list[list[str]]:
        """The keys of tensors whose elements lie on each other without being one tensor: writing each by itself parts
        them, so that a change of one is no change of the others any more."""
        return [keys for group in self.split for keys in self._overlapping(group)]

    def _overlapping(self, group: list[str]) -> list[list[str]]:
        places: dict[Hashable, list[str]] = {}
        for key in group:
            places.setdefault(self.tensors[key].identity, []).append(key)
        clusters: list[list[list[str]]] = []
        for keys in places.values():
            touched = [cluster for cluster in clusters if any(self._overlap(keys[0], other[0]) for other in cluster)]
            clusters = [cluster for cluster in clusters if cluster not in touched]
            clusters.append([keys, *(other for cluster in touched for other in cluster)])
        order = {key: number for number, key in enumerate(group)}
        apart = ([key for keys in cluster for key in keys] for cluster in clusters if len(cluster) > 1)
        return [sorted(keys, key=order.__getitem__) for keys in apart]

    def _overlap(self, one: str, other: str) -> bool:
        first, second = self.tensors[one].source, self.tensors[other].source
        if not (isinstance(first, Strided) and isinstance(second, Strided)):
            return True  # nobody says where in the storage it lies
        return bool(np.shares_memory(_addresses(first), _addresses(second)))


class _Address:
    """An array that is nowhere: NumPy computes with where its elements would lie."""

    def __init__(self, view: Strided) -> None:
        size = view.dtype.itemsize
        self.__array_interface__ = {
            "version": 3,
            "shape": view.shape,
            "typestr": f"|V{size}",
            "data": ((1 << 40) + view.offset * size, False),
            "strides": tuple(step * size for step in view.strides),
        }


def _addresses(view: Strided) -> np.ndarray:
    return np.asarray(_Address(view))


def _groups(names: Iterable[tuple[str, Hashable | None]]) -> list[list[str]]:
    groups: dict[Hashable, list[str]] = {}
    for key, name in names:
        if name is not None:
            groups.setdefault(name, []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def tied_groups(tensors: Mapping[str, LazyTensor]) -> list[list[str]]:
    """Return the groups of two and more keys that name one and the same tensor, in the order of ``tensors``."""
    return Sharing(tensors).ties
