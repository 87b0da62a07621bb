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
from ...pickle.raw import Builders, Call, Global, NotBuilt, Pending
from ...tree import LazyTensor, Strided, elementwise
from ...tree.boxes import c_strides
from ...tree.cast import cast
from ...tree.shapes import is_small_shape, require_shape

__all__ = [
    "TORCH_BUILDERS",
    "TORCH_NAMES",
    "StorageView",
    "TorchStorage",
    "TorchTensor",
    "has_elements",
    "most_expanded",
]

_DTYPE_OF_STORAGE = {row.torch_storage: row for row in DTYPES if row.torch_storage}
_DTYPE_OF_TORCH = {row.torch: row for row in DTYPES if row.torch}
#: Storages whose elements no array has, and the bytes of one: those of quantized tensors.
_ODD_ITEMSIZES = {"QUInt8Storage": 1, "QInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1, "QUInt2x4Storage": 1}

#: An expanded tensor (stride 0) may be this many times larger than its storage, or a GiB, before it counts as a trap.
_EXPANSION = 64


def most_expanded(storage_nbytes: int) -> int:
    """Return the most bytes that a tensor over a storage of so many may have."""
    return max(_EXPANSION * storage_nbytes, 1 << 30)


class TorchStorage(Pending):
    """A storage that the pickle refers to; ``stored`` are its bytes, once the reader knows where they lie.

    ``dtype`` is None where no array has its elements: then it is one of bytes, and tensors over it are not built.
    ``nbytes`` is None where even their size is not known, until the reader says it.
    """

    __slots__ = ("_tensor", "alias", "dtype", "is_big_endian", "itemsize", "key", "kind", "nbytes", "stored")

    def __init__(self, kind: object, key: object, count: object) -> None:
        if not (isinstance(kind, Global) and isinstance(key, str) and type(count) is int and count >= 0):
            raise TypeError("a storage without a type, a key and a count")
        self.dtype: DType | None = UINT8 if kind.name == "UntypedStorage" else _DTYPE_OF_STORAGE.get(kind.name)
        self.itemsize = self.dtype.itemsize if self.dtype else _ODD_ITEMSIZES.get(kind.name)
        self.kind, self.key = kind, key
        self.nbytes: int | None = None if self.itemsize is None else count * self.itemsize
        self.stored: LazyTensor | None = None
        self.is_big_endian = False
        self.alias = object()
        self._tensor: LazyTensor | None = None

    def set_state(self, state: object) -> None:
        """Take what BUILD gives it: nothing torch writes."""

    def resolve(self) -> LazyTensor:
        """Return a storage that stands in the tree by itself as a 1-D tensor."""
        if self._tensor is None:
            dtype = self.dtype or UINT8
            self._tensor = TorchTensor(self, 0, (self.size(dtype),), (1,), dtype).resolve()
        return self._tensor

    def size(self, dtype: DType) -> int:
        """Return how many elements of a dtype it holds."""
        return (self.nbytes or 0) // dtype.itemsize

    def require_stored(self) -> LazyTensor:
        """Return the storage's bytes as uint8, unread; DamagedError where the file does not hold them."""
        if self.stored is None:
            raise DamagedError(
                f"found no data for storage {self.key!r}, expected it in the file; the file is cut short"
            )
        return self.stored


def has_elements(kind: object) -> bool:
    """Return whether arrays have the elements of storages of a class."""
    return isinstance(kind, Global) and (kind.name == "UntypedStorage" or kind.name in _DTYPE_OF_STORAGE)


class StorageView(Pending):
    """A storage of torch < 0.4 that is a part of another."""

    __slots__ = ("first_element", "size", "storage")

    def __init__(self, storage: TorchStorage, first_element: object, size: object) -> None:
        if type(first_element) is not int or type(size) is not int:
            raise TypeError("a view of a storage that is not of ints")
        if first_element < 0 or size < 0 or storage.dtype is None or first_element + size > storage.size(storage.dtype):
            raise DamagedError(f"found a view that reaches out of storage {storage.key!r}, expected one inside it")
        self.storage, self.first_element, self.size = storage, first_element, size

    @property
    def dtype(self) -> DType | None:
        """That of the storage."""
        return self.storage.dtype

    def set_state(self, state: object) -> None:
        """Take what BUILD gives it: nothing torch writes."""

    def resolve(self) -> LazyTensor:
        """Return the part as a 1-D tensor."""
        return TorchTensor(self, 0, (self.size,), (1,), self.storage.dtype or UINT8).resolve()


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
        if isinstance(storage, StorageView) and type(offset) is int and offset >= 0:
            offset += storage.first_element
            storage = storage.storage
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
        stored_count = self._storage.size(self._dtype)
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
        stored_count = self._storage.size(self._dtype)
        if count and last > stored_count:
            raise DamagedError(
                f"found a tensor that reaches element {last} of storage {self._storage.key!r}, expected at most "
                f"{stored_count}"
            )
        stored_nbytes = self._storage.nbytes or 0
        if count * self._dtype.itemsize > most_expanded(stored_nbytes):
            raise UnsafeError(
                f"found a tensor of shape {shape} expanded from {stored_nbytes} bytes, expected at most "
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
    dtype = storage.dtype
    if dtype is None:
        raise NotBuilt
    return TorchTensor(storage, offset, shape, stride, dtype, _flags_of(rest[2]) if len(rest) > 2 else None)


def _rebuild_tensor_v3(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> TorchTensor:
    """Answer ``_rebuild_tensor_v3`` (…, requires_grad, backward_hooks, dtype, metadata)."""
    kind = rest[2]
    if not isinstance(kind, Global):
        raise TypeError(f"a tensor whose dtype is a {type(kind).__name__}")
    dtype = _DTYPE_OF_TORCH.get(kind.name)
    if dtype is None:
        raise NotBuilt
    return TorchTensor(storage, offset, shape, stride, dtype, _flags_of(rest[3]) if len(rest) > 3 else None)


def _rebuild_parameter(data: object, *_: object) -> object:
    """Answer ``Parameter`` and ``_rebuild_parameter``: whether it requires a gradient is not carried."""
    return data


_NO_STATES: tuple[object, ...] = (None, {}, {"_is_param": True})  # that of a parameter whose data are of a subclass
_PLAIN_TYPES = {("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")}


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: object) -> object:
    """Answer ``torch._tensor._rebuild_from_type_v2``: a tensor with a Python type and attributes of its own.

    A type is not carried, be it torch's or another, such as fastai's ``TensorImage``; one with attributes stays unknown.
    """
    build = TORCH_BUILDERS.get((function.module, function.name))
    try:
        tensor = Call(function, args) if build is None else build(*args)
    except NotBuilt:
        tensor = Call(function, args)
    is_plain = isinstance(tensor, TorchTensor) and (state in _NO_STATES or (kind.module, kind.name) in _PLAIN_TYPES)
    return tensor if is_plain else Call(kind, (tensor,), state)


class _OnDevice(Pending):
    """A tensor of a device without storages, such as XLA's: pickled as an array or a tensor, and its dtype."""

    __slots__ = ("_data", "_dtype")

    def __init__(self, data: object, dtype: object, *_: object) -> None:
        row = _DTYPE_OF_TORCH.get(dtype.name) if isinstance(dtype, Global) else None
        if row is None or not isinstance(data, Pending):
            raise NotBuilt
        self._data, self._dtype = data, row

    def set_state(self, state: object) -> None:
        """Take attributes set on the tensor: not carried."""

    def resolve(self) -> object:
        """Return the tensor; torch keeps some as another dtype that holds all their values."""
        tensor = self._data.resolve()
        if not isinstance(tensor, LazyTensor) or tensor.dtype is self._dtype:
            return tensor
        return cast("a tensor of a device", tensor, self._dtype)


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
    **{
        ("torch._utils", name): _OnDevice
        for name in (
            "_rebuild_xla_tensor",
            "_rebuild_device_tensor_from_numpy",
            "_rebuild_device_tensor_from_cpu_tensor",
        )
    },
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.nn.parameter", "Parameter"): _rebuild_parameter,
    ("torch", "Size"): _shape_of,
    ("torch", "device"): _device_text,
    ("torch.serialization", "_get_layout"): _layout_text,
}

#: Names that stand for a plain value wherever they occur: dtypes, layouts, memory formats and schemes of quantization.
TORCH_NAMES: dict[tuple[str, str], str] = {
    ("torch", name): f"torch.{name}"
    for name in (
        *(row.torch for row in DTYPES if row.torch),
        *["complex32", "float8_e8m0fnu", "float4_e2m1fn_x2", "quint8", "qint8", "qint32", "quint4x2", "quint2x4"],
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)),
        *["bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"],
        *["strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged", "_mkldnn"],
        *["contiguous_format", "channels_last", "channels_last_3d", "preserve_format"],
        *["per_tensor_affine", "per_channel_affine", "per_tensor_symmetric", "per_channel_symmetric"],
        "per_channel_affine_float_qparams",
    )
}
