"""LazyTensor: a tensor whose shape and dtype are known now and whose bytes move only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..dtypes import DType, dtype_of_numpy
from ..errors import DtypeRefusedError
from .digests import digest_of, require_digest, scheme_of

__all__ = [
    "Derived",
    "Extent",
    "LazyTensor",
    "OpenedFile",
    "View",
]


class Extent(NamedTuple):
    """Where a tensor's bytes lie whole in one file, little-endian and in C order.

    ``descriptor`` gives the very file whose headers were read, open, whatever its path leads to by now.
    """

    where: str
    offset: int
    nbytes: int
    descriptor: Callable[[], AbstractContextManager[int]]

    @property
    def path(self) -> Path:
        """The file's path when it was opened."""
        return Path(self.where)


class OpenedFile:
    """A file whose headers were read, in which tensors lie; a base class, since asking for one must be cheap."""

    __slots__ = ()

    where: str  # its path when it was opened

    def descriptor(self) -> AbstractContextManager[int]:
        """Return the number of the very file that was opened, whatever its path leads to by now."""
        raise NotImplementedError

    def array(self, offset: int, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
        """Return the array whose bytes begin at ``offset``, read-only."""
        raise NotImplementedError


class View(NamedTuple):
    """How a tensor looks into a storage that others may look into: offset and stride in elements."""

    storage: LazyTensor  # 1-D uint8: every byte of the storage
    offset: int
    stride: tuple[int, ...]


class Derived(NamedTuple):
    """How a tensor's elements come from those of another, each by itself, so that they can be made piece by piece."""

    base: LazyTensor
    change: Callable[[np.ndarray], np.ndarray]


@dataclass(slots=True, eq=False)  # not frozen, which takes three times as long to make
class LazyTensor:
    """A tensor of known dtype and shape; :meth:`numpy` reads it. Only its reader changes it.

    ``alias`` names the storage: tensors with an equal alias share one. With an equal ``identity`` they are the very
    same tensor under two names (a tied weight). ``digest`` is what its file says its bytes hash to, if it says so.

    ``source`` is what gives the array: a function, or the file in which its bytes lie, little-endian and in C order, from
    byte ``at`` on. A function that would make memory of its own (of a tensor on a GPU) may have a method
    ``into(array)``, which reads into a C-ordered array of the tensor's dtype and shape. One that waits for a framework to
    be done may have ``settled()``, which waits and gives a function that need not.
    """

    dtype: DType
    shape: tuple[int, ...]
    source: Callable[[], np.ndarray] | OpenedFile = field(repr=False)
    at: int = field(default=0, repr=False)
    alias: Hashable | None = field(default=None, repr=False)
    view: View | None = field(default=None, repr=False)
    digest: str | None = field(default=None, repr=False)
    derived: Derived | None = field(default=None, repr=False)

    @classmethod
    def of_array(cls, array: np.ndarray, *, name: str = "array", alias: Hashable | None = None) -> LazyTensor:
        """Return a tensor over a live array, without copying it; raise DtypeRefusedError for a dtype of no row."""
        dtype = dtype_of_numpy(array.dtype)
        if dtype is None:
            raise DtypeRefusedError(
                f"{name}: found NumPy dtype {array.dtype}, expected one of multiframe_ckpt.dtypes.DTYPES; "
                "store it as plain values, or cast it first"
            )
        return cls(dtype, array.shape, lambda: array, alias=alias)

    @classmethod
    def of_elements(
        cls,
        base: LazyTensor,
        dtype: DType,
        change: Callable[[np.ndarray], np.ndarray],
        *,
        alias: Hashable | None = None,
        digest: str | None = None,
    ) -> LazyTensor:
        """Return a tensor of ``base``'s shape whose elements are what ``change`` makes of base's, read when asked for."""
        derived = Derived(base, change)
        return cls(dtype, base.shape, lambda: change(base.numpy()), alias=alias, digest=digest, derived=derived)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, densely packed."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def extent(self) -> Extent | None:
        """Where its bytes lie whole in a file, or None; made when asked for, since a file may have very many tensors."""
        source = self.source
        return Extent(source.where, self.at, self.nbytes, source.descriptor) if isinstance(source, OpenedFile) else None

    @property
    def identity(self) -> Hashable | None:
        """Equal for tensors that are one tensor under several names; None where nothing is shared."""
        if self.alias is None:
            return None
        where = (self.view.offset, self.view.stride) if self.view else None
        return (self.alias, self.dtype.name, self.shape, where)

    def numpy(self) -> np.ndarray:
        """Read the tensor now: C order, native byte order, read-only when it is mapped from a file.

        Raise DamagedError where the bytes are not the ones its digest promises.
        """
        array = self.read()
        if array.dtype != self.dtype.numpy or array.shape != self.shape:
            array = array.astype(self.dtype.numpy, copy=False).reshape(self.shape)
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array).reshape(self.shape)
        if self.digest is not None:
            require_digest(self._place(), digest_of(array, scheme_of(self.digest)), self.digest)
        return array

    def read(self) -> np.ndarray:
        """Read the tensor as its source gives it: with any strides, and not compared with its digest."""
        source = self.source
        return source.array(self.at, self.dtype, self.shape) if isinstance(source, OpenedFile) else source()

    def view_as(self, dtype: DType, digest: str | None) -> LazyTensor:
        """Return the same bytes, of this digest, as elements of another dtype of the same size."""
        if isinstance(self.source, OpenedFile):
            return replace(self, dtype=dtype, digest=digest)
        return replace(self, dtype=dtype, digest=digest, source=lambda: self.numpy().view(dtype.numpy))

    def _place(self) -> str:
        extent = self.extent
        return f"{extent.where}: the tensor at byte {extent.offset}" if extent else "a tensor"
