"""Sharing: which tensors of a checkpoint are one tensor, and which look into one storage."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from .derived import Strided
from .sources import Source
from .tensor import LazyTensor

__all__ = ["Sharing", "is_expanded", "tied_groups"]

#: Whether two views with gaps share an element is hard to say, and a file may hold very many, made to be hard: past so
#: many steps for a pair, and so many pairs of a storage, they count as lying on each other.
_MOST_WORK, _MOST_LOOKS = 10_000, 1 << 18


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
    def expanded_aliases(self) -> frozenset[Hashable]:
        """The aliases of storages that have fewer bytes than a tensor that looks into them."""
        expanded = (tensor for tensor in self.tensors.values() if is_expanded(tensor))
        return frozenset(tensor.alias for tensor in expanded if tensor.alias is not None)

    @property
    def kept_aliases(self) -> frozenset[Hashable]:
        """The aliases of storages that are to be kept with the views into them, rather than these each by itself."""
        return self.split_aliases | self.expanded_aliases

    @cached_property
    def overlaps(self) -> list[list[str]]:
        """The keys of tensors whose elements lie on each other without being one tensor: writing each by itself parts
        them, so that a change of one is no change of the others any more."""
        return [keys for group in self.split for keys in self._overlapping(group)]

    def _overlapping(self, group: list[str]) -> list[list[str]]:
        places: dict[Hashable, list[str]] = {}
        for key in group:
            places.setdefault(self.tensors[key].identity, []).append(key)
        clusters = _touching([self.tensors[keys[0]].source for keys in places.values()])
        keys_of = list(places.values())
        order = {key: number for number, key in enumerate(group)}
        return [
            sorted((key for place in cluster for key in keys_of[place]), key=order.__getitem__) for cluster in clusters
        ]


def _touching(sources: Sequence[Source]) -> list[list[int]]:
    """Return the clusters, of two and more, of sources into one storage that lie on each other, by their positions."""
    views = [source for source in sources if isinstance(source, Strided)]
    if len(views) < len(sources):  # nobody says where in the storage the others lie
        return [list(range(len(sources)))]
    owner = list(range(len(views)))

    def top(position: int) -> int:
        while owner[position] != position:
            owner[position] = position = owner[owner[position]]
        return position

    for one, other in _meeting(views):
        owner[max(top(one), top(other))] = min(top(one), top(other))
    clusters: dict[int, list[int]] = {}
    for position in range(len(views)):
        clusters.setdefault(top(position), []).append(position)
    return [cluster for cluster in clusters.values() if len(cluster) > 1]


def _meeting(views: Sequence[Strided]) -> Iterator[tuple[int, int]]:
    """Yield pairs of views that lie on each other: of those whose spans do, looked at in the order of these."""
    spans = [_span(view) for view in views]
    arrays = [np.asarray(_Address(view)) for view in views]
    looks = _MOST_LOOKS
    behind: list[int] = []
    for position in sorted(
        (position for position, view in enumerate(views) if prod(view.shape)), key=spans.__getitem__
    ):
        behind = [other for other in behind if spans[other][1] > spans[position][0]]
        for other in behind:
            looks -= 1
            if looks < 0 or _overlap(arrays[other], arrays[position]):
                yield other, position
        behind.append(position)
        if looks < 0:  # all of these count as one by now: the one that reaches furthest stands for them
            behind = [max(behind, key=lambda position: spans[position][1])]


def _span(view: Strided) -> tuple[int, int]:
    """Return the first byte of the storage that a view looks at, and the one behind the last."""
    reach = [(size - 1) * step for size, step in zip(view.shape, view.strides, strict=True)]
    first = view.offset + sum(steps for steps in reach if steps < 0)
    last = view.offset + sum(steps for steps in reach if steps > 0)
    return first * view.dtype.itemsize, (last + 1) * view.dtype.itemsize


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    try:
        return bool(np.shares_memory(one, other, max_work=_MOST_WORK))  # type: ignore[arg-type]  # the stubs know two
    except np.exceptions.TooHardError:
        return True


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


def _groups(names: Iterable[tuple[str, Hashable | None]]) -> list[list[str]]:
    groups: dict[Hashable, list[str]] = {}
    for key, name in names:
        if name is not None:
            groups.setdefault(name, []).append(key)
    return [keys for keys in groups.values() if len(keys) > 1]


def is_expanded(tensor: LazyTensor) -> bool:
    """Return whether a tensor has no bytes of its own for all its elements: it looks into a storage that is smaller."""
    return isinstance(tensor.source, Strided) and tensor.source.is_expanded


def tied_groups(tensors: Mapping[str, LazyTensor]) -> list[list[str]]:
    """Return the groups of two and more keys that name one and the same tensor, in the order of ``tensors``."""
    return Sharing(tensors).ties
