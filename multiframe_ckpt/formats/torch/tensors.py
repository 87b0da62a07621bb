"""How torch pickles tensors: storages by reference, and views of them by offset, size and stride.

Source: torch 2.13 ``torch/_utils.py`` (``_rebuild_*``), ``torch/_tensor.py`` (``__reduce_ex__``), ``torch/storage.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import numpy as np

from ...dtypes import DTYPES, TORCH_MAX_DIMENSIONS, UINT8, DType
from ...errors import DamagedError, UnsafeError
from ...pickle.known import PLAIN
from ...pickle.raw import Builders, Call, Global, Pending
from ...tree import LazyTensor, Strided, elementwise
from ...tree.boxes import c_strides
from ...tree.shapes import is_small_shape, require_shape

__all__ = ["TORCH_BUILDERS", "TORCH_NAMES", "TorchStorage", "TorchTensor", "most_expanded"]

_DTYPE_OF_STORAGE = {row.torch_storage: row for row in DTYPES if row.torch_storage}
_DTYPE_OF_TORCH = {row.torch: row for row in DTYPES if row.torch}

#: An expanded tensor (stride 0) may be this many times larger than its storage, or a GiB, before it counts as a trap.
_EXPANSION = 64


def most_expanded(storage_nbytes: int) -> int:
    """Return the most bytes that a tensor over a storage of so many may have."""
    return max(_EXPANSION * storage_nbytes, 1 << 30)


class TorchStorage(Pending):
    """A storage that the pickle refers to; ``stored`` are its bytes, once the reader knows where they lie."""

    __slots__ = ("_tensor", "alias", "dtype", "is_big_endian", "key", "nbytes", "stored")

    def __init__(self, kind: object, key: object, count: object) -> None:
        if not (isinstance(kind, Global) and isinstance(key, str) and type(count) is int and count >= 0):
            raise TypeError("a storage without a type, a key and a count")
        row = UINT8 if kind.name == "UntypedStorage" else _DTYPE_OF_STORAGE.get(kind.name)
        if row is None:
            raise UnsafeError(
                f"found storage type {kind}, expected one of {', '.join(filter(None, _DTYPE_OF_STORAGE))}"
            )
        self.dtype: DType = row
        self.key: str = key
        self.nbytes: int = count * row.itemsize
        self.stored: LazyTensor | None = None
        self.is_big_endian = False
        self.alias = object()
        self._tensor: LazyTensor | None = None

    def set_state(self, state: object) -> None:
        """Take what BUILD gives it: nothing torch writes."""

    def resolve(self) -> LazyTensor:
        """Return a storage that stands in the tree by itself as a 1-D tensor."""
        if self._tensor is None:
            count = self.nbytes // self.dtype.itemsize
            self._tensor = TorchTensor(self, 0, (count,), (1,), self.dtype).resolve()
        return self._tensor

    def require_stored(self) -> LazyTensor:
        """Return the storage's bytes as uint8, unread; DamagedError where the file does not hold them."""
        if self.stored is None:
            raise DamagedError(
                f"found no data for storage {self.key!r}, expected it in the file; the file is cut short"
            )
        return self.stored


class TorchTensor(Pending):
    """A tensor of the pickle: a view into a storage."""

    __slots__ = ("_dtype", "_flags", "_offset", "_shape", "_storage", "_stride", "_tensor")
    footprint = 300

    def __init__(
        self,
        storage: object,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        dtype: DType,
        flags: dict[str, bool] | None = None,
    ) -> None:
        if not isinstance(storage, TorchStorage):
            raise TypeError(f"a tensor over a {type(storage).__name__}")
        self._storage, self._offset = storage, offset
        self._shape, self._stride = tuple(shape), tuple(stride)
        for number in (offset, *self._shape, *self._stride):
            if type(number) is not int:
                raise TypeError("a tensor whose offset, shape or stride is not of ints")
        self._dtype, self._flags = dtype, flags
        self._tensor: LazyTensor | None = None

    def set_state(self, state: object) -> None:
        """Take attributes set on the tensor: not carried."""

    def resolve(self) -> LazyTensor:
        """Return the tensor; DamagedError where it reaches out of its storage."""
        if self._tensor is None:
            small = is_small_shape(self._shape)
            if not small:
                self._check_numbers()
            count = prod(self._shape)
            dense = self._stride == c_strides(self._shape) or count <= 1
            if not (dense and small and self._lies_inside(count)):
                self._check(count)
            self._tensor = self._lazy(whole=dense and count * self._dtype.itemsize == self._storage.nbytes)
        return self._tensor

    def _lies_inside(self, count: int) -> bool:
        """Return whether a dense tensor of ``count`` elements and small shape needs no closer look, as nearly all."""
        stored_count = self._storage.nbytes // self._dtype.itemsize
        plain = len(self._shape) == len(self._stride) and not self._flags
        return plain and 0 <= self._offset < self._offset + count <= stored_count

    def _check_numbers(self) -> None:
        shape, stride = self._shape, self._stride
        numbers = (*shape, *stride, self._offset)
        if len(shape) != len(stride) or len(shape) > TORCH_MAX_DIMENSIONS or not all(0 <= n < 1 << 63 for n in numbers):
            raise DamagedError(
                f"found a tensor of {len(shape)} dimensions and {len(stride)} strides, expected as many of each, "
                f"none < 0, at most {TORCH_MAX_DIMENSIONS}"
            )

    def _check(self, count: int) -> None:
        self._check_numbers()
        shape, stride = self._shape, self._stride
        refused = [flag for flag in self._flags or () if self._dtype.kind not in _KINDS_OF_FLAG[flag]]
        if refused:
            raise DamagedError(f"found a {refused[0]} view of {self._dtype.name}, expected none of this dtype")
        last = self._offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True)) + 1
        stored_count = self._storage.nbytes // self._dtype.itemsize
        if count and last > stored_count:
            raise DamagedError(
                f"found a tensor that reaches element {last} of storage {self._storage.key!r}, expected at most "
                f"{stored_count}"
            )
        if count * self._dtype.itemsize > most_expanded(self._storage.nbytes):
            raise UnsafeError(
                f"found a tensor of shape {shape} expanded from {self._storage.nbytes} bytes, expected at most "
                f"{_EXPANSION} times its storage; reading it would fill the memory"
            )
        require_shape(shape, self._dtype, "a tensor of the pickle")

    def _lazy(self, *, whole: bool) -> LazyTensor:
        """Return the tensor; it is compared with its storage's digest where it is the ``whole`` of that."""
        storage = self._storage
        stored_bytes = storage.require_stored()
        view = Strided(stored_bytes, self._dtype, self._shape, self._offset, self._stride)
        digest = stored_bytes.digest if whole else None
        if not (storage.is_big_endian or self._flags):
            return LazyTensor(self._dtype, self._shape, view, storage.alias, digest)
        # Its storage cannot be written as it is: tied only to its equals.
        alias = (storage.alias, self._offset, self._stride, tuple(sorted(self._flags or ())))
        if view.is_expanded:
            changed = elementwise(stored_bytes, UINT8, self._bytes_from_stored)
            again = Strided(changed, self._dtype, self._shape, self._offset, self._stride)
            return LazyTensor(self._dtype, self._shape, again, alias)
        stored = LazyTensor(self._dtype, self._shape, view, digest=digest)
        return elementwise(stored, self._dtype, self._from_stored, alias=alias)

    def _bytes_from_stored(self, raw: np.ndarray) -> np.ndarray:
        """Return bytes of the storage, whole elements from the first on, as the tensor has them."""
        changed = raw.copy()
        elements = changed[: len(raw) - len(raw) % self._dtype.itemsize].view(self._dtype.numpy)
        elements[...] = self._from_stored(elements)
        return changed

    def _from_stored(self, array: np.ndarray) -> np.ndarray:
        """Return elements of the storage as the tensor has them."""
        flags = self._flags or {}
        array = array.byteswap() if self._storage.is_big_endian else array
        array = np.conjugate(array) if flags.get("conj") else array
        return np.negative(array) if flags.get("neg") else array


#: The kinds of dtype whose tensors torch views as conjugated, or negated.
_KINDS_OF_FLAG = {"conj": ("complex",), "neg": ("complex", "float", "int")}


def _flags_of(metadata: object) -> dict[str, bool]:
    if not isinstance(metadata, dict):
        return {}
    return {name: True for name in ("conj", "neg") if metadata.get(name)}


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> TorchTensor:
    """Answer ``_rebuild_tensor`` and ``_rebuild_tensor_v2`` (…, requires_grad, backward_hooks, metadata)."""
    return TorchTensor(storage, offset, shape, stride, storage.dtype, _flags_of(rest[2]) if len(rest) > 2 else None)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> TorchTensor:
    """Answer ``_rebuild_tensor_v3`` (…, requires_grad, backward_hooks, dtype, metadata)."""
    kind = rest[2]
    if not isinstance(kind, Global):
        raise TypeError(f"a tensor whose dtype is a {type(kind).__name__}")
    dtype = _DTYPE_OF_TORCH.get(kind.name)
    if dtype is None:
        raise UnsafeError(f"found a tensor of dtype {kind}, expected one of {', '.join(filter(None, _DTYPE_OF_TORCH))}")
    return TorchTensor(storage, offset, shape, stride, dtype, _flags_of(rest[3]) if len(rest) > 3 else None)


def _rebuild_parameter(data: object, *_: object) -> object:
    """Answer ``Parameter`` and ``_rebuild_parameter``: whether it requires a gradient is not carried."""
    return data


_PLAIN_TYPES = {("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")}


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: object) -> object:
    """Answer ``torch._tensor._rebuild_from_type_v2``: a tensor with a Python type and attributes of its own."""
    build = TORCH_BUILDERS.get((function.module, function.name))
    if build is None or (kind.module, kind.name) not in _PLAIN_TYPES:
        return Call(kind, (Call(function, args), state))
    return build(*args)


def _device_text(kind: object, index: object = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise TypeError("a device that is no text and number")
    return kind if index is None else f"{kind}:{index}"


def _layout_text(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError("a layout that is no text")
    return name


def _shape_of(shape: Iterable[Any] = ()) -> tuple[Any, ...]:
    return tuple(shape)


TORCH_BUILDERS: Builders = {
    **PLAIN,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.nn.parameter", "Parameter"): _rebuild_parameter,
    ("torch", "Size"): _shape_of,
    ("torch", "device"): _device_text,
    ("torch.serialization", "_get_layout"): _layout_text,
}

#: Names that stand for a plain value wherever they occur.
TORCH_NAMES: dict[tuple[str, str], str] = {
    ("torch", name): f"torch.{name}"
    for name in (
        *(row.torch for row in DTYPES if row.torch),
        "complex32",
        "strided",
        "sparse_coo",
    )
} | {
    ("torch", name): f"torch.{name}"
    for name in ("contiguous_format", "channels_last", "channels_last_3d", "preserve_format", "per_tensor_affine")
}
