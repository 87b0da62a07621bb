"""snapshot(): the tensors of a tree copied into memory now, so that training may change the live ones."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from ..tensor import LazyTensor, View, shared_storages
from ..tree import Path, Tree, map_leaves, tensors_of

__all__ = ["snapshot"]


def snapshot(tree: Tree) -> Tree:
    """Gives the tree over copies; tensors that are one, or look into one storage, still do, and are copied once."""
    table = tensors_of(tree)
    groups = [[table[key] for key in group] for group in shared_storages(table)]
    whole = {group[0].alias for group in groups if len({tensor.identity for tensor in group}) > 1}
    storages: dict[Hashable, LazyTensor] = {}
    copies: dict[Hashable, LazyTensor] = {}

    def copied(_: Path, leaf: Tree) -> Tree:
        if not isinstance(leaf, LazyTensor):
            return leaf
        if leaf.view is not None and leaf.alias in whole:
            if leaf.alias not in storages:
                storages[leaf.alias] = _copy(leaf.view.storage)
            return _into(storages[leaf.alias], leaf, leaf.view)
        if leaf.identity is None:
            return _copy(leaf)
        if leaf.identity not in copies:
            copies[leaf.identity] = _copy(leaf)
        return copies[leaf.identity]

    return map_leaves(tree, copied)


def _copy(tensor: LazyTensor) -> LazyTensor:
    array = np.array(tensor.numpy())
    return replace(tensor, source=lambda: array, extent=None, view=None)


def _into(storage: LazyTensor, tensor: LazyTensor, view: View) -> LazyTensor:
    """Gives the same view into a copy of its storage."""
    size = tensor.dtype.itemsize
    array = np.ndarray(
        tensor.shape,
        tensor.dtype.numpy,
        buffer=storage.numpy(),
        offset=view.offset * size,
        strides=tuple(step * size for step in view.stride),
    )
    return replace(tensor, source=lambda: array, extent=None, view=replace(view, storage=storage))
