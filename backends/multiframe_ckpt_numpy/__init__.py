"""The NumPy adapter: arrays, and (nested) dicts, lists and tuples of them, zero-copy both ways."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np

from multiframe_ckpt.backend import TensorBackend, array_tensor, fill_array
from multiframe_ckpt.errors import ValueRefusedError
from multiframe_ckpt.tree import LazyTensor, Strided

__all__ = ["NumpyBackend"]


class NumpyBackend(TensorBackend[np.ndarray]):
    """Arrays of either byte order and any strides; bfloat16 and float8 are ml_dtypes' types; scalars become plain."""

    name = "numpy"

    def owns(self, obj: object) -> bool:
        """Return whether ``obj`` is an array or a NumPy scalar."""
        return isinstance(obj, np.ndarray | np.generic)

    def is_tensor(self, obj: object) -> TypeGuard[np.ndarray]:
        """Return whether ``obj`` is an array."""
        return isinstance(obj, np.ndarray)

    def to_lazy(self, tensor: np.ndarray, key: str) -> LazyTensor:
        """Return a lazy tensor over the array; arrays over the same memory are tied."""
        return array_tensor(tensor, key)

    def from_lazy(self, tensor: LazyTensor, key: str, *, device: str | None) -> np.ndarray:
        """Return the array, native and in C order; read-only where it is mapped from a file."""
        if device not in (None, "cpu"):
            raise ValueRefusedError(f"{key}: found device {device!r}, expected 'cpu' or None: NumPy has no other")
        return tensor.numpy()

    def copy_into(self, target: np.ndarray, tensor: LazyTensor) -> None:
        """Copy into the array, whatever its strides and byte order."""
        fill_array(target, tensor)

    def view_of(self, storage: np.ndarray, tensor: LazyTensor) -> np.ndarray | None:
        """Return the view into the storage, so that arrays which overlapped still do."""
        view, size = tensor.source, tensor.dtype.itemsize
        if not isinstance(view, Strided):
            return None
        strides = tuple(step * size for step in view.strides)
        return np.ndarray(tensor.shape, tensor.dtype.numpy, storage, view.offset * size, strides)
