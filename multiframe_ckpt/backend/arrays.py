"""NumPy arrays and lazy tensors: what every adapter says of an array, and tensors in memory of their own."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from ..errors import ValueRefusedError
from ..tree import LazyTensor, Tree, elementwise, map_leaves

__all__ = ["array_tensor", "copied", "copied_tensor", "fill_array", "tied"]


def array_tensor(array: np.ndarray, key: str) -> LazyTensor:
    """Return a lazy tensor over a live array; arrays over the same memory are one tensor under several names."""
    if isinstance(array, np.ma.MaskedArray):
        raise ValueRefusedError(f"{key}: found a masked array, expected a plain one; fill it first with .filled()")
    address = array.__array_interface__["data"][0]
    alias = ("array", address, array.strides) if array.size else None
    return LazyTensor.from_array(np.asarray(array), name=key, alias=alias)


def fill_array(target: np.ndarray, tensor: LazyTensor) -> None:
    """Copy into an array of the same dtype, of either byte order, in place."""
    np.copyto(target, tensor.numpy(), casting="equiv")


def copied_tensor(tensor: LazyTensor) -> LazyTensor:
    """Return the tensor, copied when it is read; its storage is its own, its ties are kept."""
    return elementwise(tensor, tensor.dtype, np.copy, alias=tensor.identity)


def tied(tensor: LazyTensor, identity: Hashable) -> LazyTensor:
    """Return the tensor as one with all others that are given the same identity."""
    return tensor.with_(alias=identity)


def copied(tree: Tree) -> Tree:
    """Return the tree with tensors that are copied when they are read; ties stay ties."""
    return map_leaves(tree, lambda _, leaf: copied_tensor(leaf) if isinstance(leaf, LazyTensor) else leaf)
