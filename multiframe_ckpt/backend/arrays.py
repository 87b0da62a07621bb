"""NumPy arrays and lazy tensors: what every adapter says of an array, and tensors in memory of their own."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..errors import ValueRefusedError
from ..tree import LazyTensor, Strided, Tree, elementwise, map_leaves

__all__ = ["array_tensor", "copied", "copied_tensor", "fill_array", "tied"]


def array_tensor(array: np.ndarray, key: str) -> LazyTensor:
    """Return a lazy tensor over a live array; arrays over the same memory are one tensor under several names."""
    if isinstance(array, np.ma.MaskedArray):
        raise ValueRefusedError(f"{key}: found a masked array, expected a plain one; fill it first with .filled()")
    address = array.__array_interface__["data"][0]
    alias = ("array", address, array.strides) if array.size else None
    tensor = LazyTensor.from_array(np.asarray(array), name=key, alias=alias)
    return tensor if array.flags.c_contiguous or not array.size else _over_span(array, tensor)


def _over_span(array: np.ndarray, tensor: LazyTensor) -> LazyTensor:
    """Return the tensor of an array that repeats elements (``np.broadcast_to``) as a view of the memory that it lies in."""
    span = sum((size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)) + array.itemsize
    whole_steps = all(step >= 0 and step % array.itemsize == 0 for step in array.strides)
    if span >= array.nbytes or not whole_steps or array.dtype != tensor.dtype.numpy:
        return tensor
    first = array[(slice(0, 1),) * array.ndim].reshape(-1).view(np.uint8)
    storage = LazyTensor.from_array(as_strided(first, (span,), (1,)), alias=tensor.alias)
    strides = tuple(step // array.itemsize for step in array.strides)
    return tensor.with_(source=Strided(storage, tensor.dtype, tensor.shape, 0, strides))


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
