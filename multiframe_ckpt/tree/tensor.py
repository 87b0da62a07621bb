"""LazyTensor: a tensor whose shape and dtype are known now and whose bytes move only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, Final

import numpy as np

from ..dtypes import DType
from .boxes import normalized, shape_of
from .digests import Hashing, digest_of, require_digest, scheme_of
from .shapes import is_small_shape, require_shape
from .sources import Computed, Extent, File, InFile, InMemory, Source

__all__ = ["LazyTensor"]

KEEP: Final[Any] = object()  # stands for a field that stays as it is, where None means something else


@dataclass(slots=True, eq=False, repr=False)  # not frozen, which takes three times as long to make
class LazyTensor:
    """A tensor of known dtype and shape; :meth:`numpy` reads it. It is never changed: :meth:`with_` gives another.

    ``source`` is where its elements come from. ``alias`` names the storage: tensors with an equal alias share one. With
    an equal ``identity`` they are the very same tensor under two names (a tied weight). ``digest`` is what its file says
    its bytes hash to, if it says so.
    """

    dtype: DType
    shape: tuple[int, ...]
    source: Source
    alias: Hashable | None = field(default=None)
    digest: str | None = field(default=None)

    @classmethod
    def from_array(cls, array: np.ndarray, *, name: str = "array", alias: Hashable | None = None) -> LazyTensor:
        """Return a tensor over a live array, without copying it; raise DtypeRefusedError for a dtype of no row."""
        source = InMemory(array, name=name)
        return cls(source.dtype, source.shape, source, alias)

    @classmethod
    def from_function(cls, dtype: DType, shape: tuple[int, ...], read: Callable[[], np.ndarray]) -> LazyTensor:
        """Return a tensor whose array ``read`` makes when it is asked for."""
        return cls(dtype, shape, Computed(dtype, shape, read))

    @classmethod
    def in_file(
        cls,
        file: File,
        dtype: DType,
        shape: tuple[int, ...],
        offset: int,
        *,
        what: str,
        alias: Hashable | None = None,
        digest: str | None = None,
    ) -> LazyTensor:
        """Return the tensor whose little-endian, C-ordered bytes begin at ``offset`` of a file.

        Raise DamagedError, naming ``what``, for a shape that no array has, or bytes that do not lie in the file.
        """
        if not (is_small_shape(shape) and 0 not in shape):
            require_shape(shape, dtype, f"{file.where}: {what}")
        file.require(offset, prod(shape) * dtype.itemsize, what)
        return cls(dtype, shape, InFile(file, dtype, shape, offset), alias, digest)

    def with_(
        self, *, source: Source | None = None, alias: Hashable | None = KEEP, digest: str | None = KEEP
    ) -> LazyTensor:
        """Return another tensor with some fields changed; ``None`` is no alias, and no digest."""
        return LazyTensor(
            self.dtype,
            self.shape,
            source or self.source,
            self.alias if alias is KEEP else alias,
            self.digest if digest is KEEP else digest,
        )

    def ready(self) -> LazyTensor:
        """Return the tensor for reading now: whatever a framework still does to its elements has been waited for."""
        source = self.source.ready()
        return self if source is self.source else self.with_(source=source)

    def view_as(self, dtype: DType, digest: str | None) -> LazyTensor:
        """Return the same bytes, of this digest, as elements of another dtype of the same size."""
        return LazyTensor(dtype, self.shape, self.source.view_as(dtype), self.alias, digest)

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
        """Where its bytes lie whole in a file, or None."""
        return self.source.extent

    @property
    def identity(self) -> Hashable | None:
        """Equal for tensors that are one tensor under several names; None where nothing is shared."""
        if self.alias is None:
            return None
        return self.alias, self.dtype.name, self.shape, self.source.region

    @property
    def is_covered(self) -> bool:
        """Whether some digest covers its bytes: its own, or those of all the tensors that it is made of."""
        if not self.nbytes or self.digest is not None:
            return True
        bases = self.source.bases
        return bool(bases) and all(base.is_covered for base in bases)

    @property
    def is_compared(self) -> bool:
        """Whether any of its bytes are compared with a digest when all are read, which its parts by themselves are not."""
        return self.digest is not None or any(base.is_compared for base in self.source.bases)

    def numpy(self) -> np.ndarray:
        """Read the tensor now: C order, native byte order, read-only when it is mapped from a file.

        Raise DamagedError where the bytes are not the ones its digest promises.
        """
        array = self.source.array()
        if array.dtype != self.dtype.numpy or array.shape != self.shape:
            array = array.astype(self.dtype.numpy, copy=False).reshape(self.shape)
        array = np.asarray(array, order="C")
        if self.digest is not None:
            require_digest(self.place(), digest_of(array, scheme_of(self.digest)), self.digest)
            self.source.note_digest(self.digest)
        return array

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """Read the tensor for ``numpy.asarray``, which may ask for a dtype, and from NumPy 2 on whether to copy.

        With ``copy=False`` raise ValueError, as NumPy asks, where the elements are not there already as that dtype.
        """
        kept = self.source.is_in_memory and (dtype is None or np.dtype(dtype) == self.dtype.numpy)
        if copy is False and not kept:
            raise ValueError(
                f"{self!r}: found elements that are to be read or cast, expected an array that is there already; leave "
                "out copy=False"
            )
        array = self.numpy() if dtype is None else self.numpy().astype(dtype, copy=False)
        return array.copy() if copy else array

    def __getitem__(self, index: object) -> LazyTensor:
        """Return a part, as NumPy's basic slicing takes it: ints, slices of any step, and an Ellipsis.

        It is read when asked for, no more than it must be, and so is not compared with the digest of the whole.
        """
        box = normalized(index, self.shape)
        return LazyTensor(self.dtype, shape_of(box), self.source.part(box))

    def __repr__(self) -> str:
        """Return one line: dtype, shape, bytes, and where the elements are; nothing is read for it."""
        extent = self.extent
        if extent is not None:
            where = f"{extent.where} at byte {extent.offset:,}"
        else:
            where = "in memory" if self.source.is_in_memory else "read when asked for"
        text = f"LazyTensor({self.dtype.name}, {self.shape}, {self.nbytes:,} bytes, {where})"
        return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")

    def pieces(self, buffer: memoryview) -> Iterator[memoryview]:
        """Yield the bytes in C order; raise DamagedError at their end where they are not the ones its digest promises."""
        if self.digest is None:
            yield from self.source.pieces(buffer)
            return
        scheme = scheme_of(self.digest)
        hashing = Hashing([scheme])
        for piece in self.source.pieces(buffer):
            hashing.update(piece)
            yield piece
        require_digest(self.place(), hashing.digests()[scheme], self.digest)
        self.source.note_digest(self.digest)

    def compare(self, buffer: memoryview) -> None:
        """Read what digests cover and keep nothing; raise DamagedError for bytes of another digest.

        Whoever reads all of it in parts, which have no digests, compares it first.
        """
        for tensor in self.covering():
            for _ in tensor.pieces(buffer):
                pass

    def compare_once(self, buffer: memoryview) -> None:
        """Compare it for a reader of one part, unless it was compared before and nobody wrote to its file since."""
        if not self.was_compared:
            self.compare(buffer)

    def covering(self) -> list[LazyTensor]:
        """Return the tensors whose digests cover its bytes: itself, or what it is made of."""
        if self.digest is not None:
            return [self]
        bases = {id(tensor): tensor for base in self.source.bases for tensor in base.covering()}
        return list(bases.values())

    @property
    def was_compared(self) -> bool:
        """Whether no digest that covers it is left to be compared for a reader of a part."""
        return all(tensor.source.digest_seen == tensor.digest and tensor._is_as_it_was for tensor in self.covering())

    @property
    def _is_as_it_was(self) -> bool:
        extent = self.extent
        return extent is None or extent.file.is_unchanged

    def place(self) -> str:
        """Return what an error calls the tensor where its key is not known."""
        extent = self.extent
        return f"{extent.where}: the tensor at byte {extent.offset}" if extent else "a tensor"
